"""Names for the content of splits, so that work done on other content is not taken up again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from mergekit_perm.data.splits import InMemory

_PROBED = 64


def of_dataset(dataset: Any, *, about: Any = "") -> str:
    """Return an id of a data set.

    Of one in memory, every bit counts. Of others, their length, the names and sizes of their
    files if they list `samples`, and up to 64 examples spread evenly over them.

    Args:
        dataset: in memory or any map-style data set.
        about: what else matters, such as the preprocessing.
    """
    digest = hashlib.sha256(f"{about!r};{len(dataset)};".encode())
    if isinstance(dataset, InMemory):
        digest.update(f"{dataset.mean};{dataset.std};".encode())
        _add(digest, dataset.inputs)
        _add(digest, dataset.labels)
        return digest.hexdigest()
    for path, label in getattr(dataset, "samples", None) or ():
        digest.update(f"{Path(path).name}:{Path(path).stat().st_size}:{label};".encode())
    count = min(_PROBED, len(dataset))
    for place in range(count):
        example, label = dataset[place * len(dataset) // count]
        digest.update(f"{int(label)};".encode())
        _add(digest, torch.as_tensor(example))
    return digest.hexdigest()


def combined(fingerprints: Iterable[tuple[str, str]]) -> str:
    """Return one id for several splits, given as (name, id)."""
    return hashlib.sha256(repr(sorted(fingerprints)).encode()).hexdigest()


def _add(digest: Any, tensor: torch.Tensor) -> None:
    tensor = tensor.detach().cpu().contiguous()
    digest.update(f"{tensor.dtype}{list(tensor.shape)};".encode())
    digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
