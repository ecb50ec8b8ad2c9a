"""In which arithmetic networks are measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

Precision = Literal["float32", "tf32", "bfloat16"]

PRECISIONS: tuple[Precision, ...] = ("float32", "tf32", "bfloat16")
"""float32 is full precision (of float64 networks, float64); tf32 rounds what CUDA multiplies to ten
bits; bfloat16 is autocast. Losses are summed in float64 in each of them."""


@contextmanager
def arithmetic(precision: Precision, device: torch.device) -> Iterator[None]:
    """Compute in `precision` on `device` for the block.

    PyTorch lets CUDA's convolutions use TF32 unless it is told otherwise; here float32 is float32,
    what autocast leaves in it too.
    """
    with multiplying(precision, device):
        if precision == "bfloat16":
            with torch.autocast(device.type, dtype=torch.bfloat16):
                yield
        else:
            yield


@contextmanager
def multiplying(precision: Precision, device: torch.device) -> Iterator[None]:
    """Let CUDA multiply float32 as `precision` says for the block: one setting for all threads."""
    if device.type != "cuda":
        yield
        return
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = precision == "tf32"
        yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed
