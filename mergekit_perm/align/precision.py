"""Sums in float64 over tensors of less, of which only parts are ever turned into float64."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

# How many numbers are turned into float64 at once.
_PART = 2**18


def in_double(tensors: Sequence[torch.Tensor]) -> Iterator[Iterator[torch.Tensor]]:
    """Yield flat parts of `tensors` of one size, the same part of each, in float64."""
    flat = (torch.split(tensor.reshape(-1), _PART) for tensor in tensors)
    yield from ((part.double() for part in parts) for parts in zip(*flat, strict=True))


def entries_in_double(*tensors: torch.Tensor) -> Iterator[list[torch.Tensor]]:
    """Yield copies in float64 of some entries along axis 0, the same of each, then of the next.

    All `tensors` have one shape.
    """
    at_once = max(1, _PART * len(tensors[0]) // max(1, tensors[0].numel()))
    for parts in zip(*(torch.split(tensor, at_once) for tensor in tensors), strict=True):
        yield [part.to(torch.float64, copy=True) for part in parts]


def squared_norms(rows: torch.Tensor) -> torch.Tensor:
    """Return the squared length of every row of a matrix, in float64."""
    norms: torch.Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    return norms.square()


def add_scaled(total: torch.Tensor, rows: torch.Tensor, scale: torch.Tensor) -> None:
    """Add `rows`, each times its own `scale`, to `total`, a matrix in float64."""
    at_once = max(1, _PART * len(total) // max(1, total.numel()))
    parts = (torch.split(tensor, at_once) for tensor in (total, rows, scale[:, None]))
    for into, own, factor in zip(*parts, strict=True):
        into.addcmul_(own.double(), factor)
