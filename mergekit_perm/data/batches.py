"""The batches of a split on one device, to be gone through many times."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from mergekit_perm.data import Split

Batch = tuple[torch.Tensor, torch.Tensor]


class Batches:
    """The batches of `split`, in order, on `device`.

    A split that is in memory is copied to an accelerator once, rather than once for every point
    of every path.
    """

    __slots__ = ("_batch_size", "_device", "_kept", "_split")

    def __init__(self, split: Split, *, device: torch.device, batch_size: int) -> None:
        self._split, self._device, self._batch_size = split, device, batch_size
        self._kept = self._resident()

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self._split)

    def __iter__(self) -> Iterator[Batch]:
        if self._kept is not None:
            return iter(self._kept)
        return iter(self._split.batches(self._batch_size, device=self._device))

    def _resident(self) -> list[Batch] | None:
        if self._device.type == "cpu" or (whole := self._split.tensors()) is None:
            return None
        inputs, labels = (torch.split(x.to(self._device), self._batch_size) for x in whole)
        return list(zip(inputs, labels, strict=True))
