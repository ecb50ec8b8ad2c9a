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

    A split that is in memory is made ready once, on the device and in the layout that is wanted,
    rather than once for every point of every path.

    Attributes:
        highest_label: of a split that is in memory; None of one that is read batch by batch.
    """

    __slots__ = ("_batch_size", "_device", "_kept", "_layout", "_split", "highest_label")

    def __init__(
        self,
        split: Split,
        *,
        device: torch.device,
        batch_size: int,
        layout: torch.memory_format = torch.contiguous_format,
    ) -> None:
        """Make them ready.

        Args:
            split: the examples.
            device: where they are wanted.
            batch_size: examples at a time.
            layout: of images in memory.
        """
        self._split, self._device, self._layout = split, device, layout
        self._batch_size = batch_size
        self.highest_label: int | None = None
        self._kept = self._resident()

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self._split)

    def __iter__(self) -> Iterator[Batch]:
        return self._read() if self._kept is None else iter(self._kept)

    def _read(self) -> Iterator[Batch]:
        for inputs, labels in self._split.batches(self._batch_size, device=self._device):
            yield inputs.to(memory_format=self._layout), labels

    def _resident(self) -> list[Batch] | None:
        if (whole := self._split.tensors()) is None:
            return None
        self.highest_label = int(whole[1].max())
        inputs, labels = (tensor.to(self._device) for tensor in whole)
        inputs = inputs.to(memory_format=self._layout)
        parts = (torch.split(tensor, self._batch_size) for tensor in (inputs, labels))
        return list(zip(*parts, strict=True))
