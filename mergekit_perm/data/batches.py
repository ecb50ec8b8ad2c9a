"""The batches of a split on one device, to be gone through many times."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from mergekit_perm.data import Split

Batch = tuple[torch.Tensor, torch.Tensor]

# How many numbers the CPU brings into another layout at a time.
_PART = 2**24


class Batches:
    """The batches of `split`, in order, on `device`.

    A split that is in memory is made ready once, on the device and in the layout that is wanted,
    rather than once for every point of every path.

    Attributes:
        split: the examples.
        batch_size: examples at a time.
        highest_label: of the split where it is kept on the device, and of the examples that have
            been read where it is read batch by batch; -1 before the first of them. It is found on
            the CPU: a device need not be waited for.
    """

    __slots__ = (
        "_device", "_kept", "_layout", "_whole", "batch_size", "highest_label", "split",
    )  # fmt: skip

    def __init__(
        self,
        split: Split,
        *,
        device: torch.device,
        batch_size: int,
        layout: torch.memory_format = torch.contiguous_format,
        keep: bool = True,
    ) -> None:
        """Make them ready.

        Args:
            split: the examples.
            device: where they are wanted.
            batch_size: examples at a time.
            layout: of images in memory.
            keep: whether to keep a split that is in memory on the device.
        """
        self.split, self._device, self._layout = split, device, layout
        self.batch_size = batch_size
        self.highest_label = -1
        self._whole: Batch | None = None
        found = split.tensors() if keep else None
        if found is not None:
            self.highest_label = int(found[1].max())
            self._whole = self._placed(found[0]), found[1].to(device)
        self._kept = self._parts()

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.split)

    def __iter__(self) -> Iterator[Batch]:
        return self._read() if self._kept is None else iter(self._kept)

    def resized(self, batch_size: int) -> Batches:
        """Return batches of another size; what is kept on the device is shared."""
        other = copy.copy(self)
        other.batch_size = batch_size
        other._kept = other._parts()
        return other

    @property
    def kept(self) -> bool:
        """Whether the examples are kept on the device."""
        return self._whole is not None

    def give_up(self) -> None:
        """Keep nothing on the device from now on: examples are read batch by batch."""
        self._whole = self._kept = None

    def _parts(self) -> list[Batch] | None:
        """Return the batches of what is kept, which share its memory."""
        if self._whole is None:
            return None
        inputs, labels = (torch.split(tensor, self.batch_size) for tensor in self._whole)
        return list(zip(inputs, labels, strict=True))

    def first(self, count: int) -> torch.Tensor:
        """Return the inputs of the first `count` examples, or of all where there are fewer."""
        if self._whole is not None:
            return self._whole[0][:count]
        few = torch.arange(min(count, len(self)))
        inputs, _ = next(iter(self.split.batches(count, device=self._device, order=few)))
        return inputs.to(memory_format=self._layout)

    def _read(self) -> Iterator[Batch]:
        for stored in self.split.stored_batches(self.batch_size, device=self._device):
            self.highest_label = max(self.highest_label, int(stored[1].max()))
            inputs, labels = self.split.finished(stored, self._device)
            yield inputs.to(memory_format=self._layout), labels

    def _placed(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return `inputs` on the device, in the layout that is wanted."""
        if self._layout == torch.contiguous_format:
            return inputs.to(self._device)
        place = torch.empty_like(inputs, device=self._device, memory_format=self._layout)
        if self._device == inputs.device:
            return place.copy_(inputs)
        # A device changes the layout of what it is sent in a second copy: here the CPU does.
        rows = max(1, _PART // max(1, inputs[0].numel()))
        for part, there in zip(*(torch.split(t, rows) for t in (inputs, place)), strict=True):
            there.copy_(part.contiguous(memory_format=self._layout))
        return place
