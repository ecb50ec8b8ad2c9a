"""Splits: examples with their classes, in memory or read when needed, in batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from mergekit_perm.errors import DataError

Batch = tuple[torch.Tensor, torch.Tensor]

# How many processes read for CUDA, as many as timm's validation has.
_WORKERS = 4

# What `Split.tensors` may take up; batches serve larger splits.
_WHOLE_BYTES = 4 * 2**30


class InMemory(Dataset[tuple[torch.Tensor, int]]):
    """Examples that are kept in memory as they are stored, and normalised batch by batch.

    Args:
        inputs: shape (n, ...). Bytes are images of shape (n, channels, height, width); they are
            scaled to 0..1 when they are asked for. Anything else is taken as it is.
        labels: class of each example, shape (n,), whole numbers.
        mean: per channel, subtracted from scaled bytes.
        std: per channel, divided by.

    Raises:
        DataError: when inputs and labels do not belong together.
    """

    def __init__(
        self,
        inputs: torch.Tensor,
        labels: torch.Tensor,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        if labels.ndim != 1 or len(inputs) != len(labels):
            raise DataError(
                f"inputs of shape {list(inputs.shape)} need one class each, "
                f"not labels of shape {list(labels.shape)}"
            )
        if labels.is_floating_point() or labels.is_complex():
            raise DataError(f"classes are whole numbers, not {labels.dtype}")
        self.inputs, self.labels = inputs, labels.to(torch.int64)
        self.mean, self.std = tuple(mean or ()), tuple(std or ())

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self._ready(self.inputs[index]), int(self.labels[index])

    def batch(self, chosen: torch.Tensor | slice, *, device: str | torch.device) -> Batch:
        """Return the chosen examples on `device`: inputs (b, ...) and classes (b,), int64."""
        return self.finished((self.inputs[chosen], self.labels[chosen]), device)

    def finished(self, stored: Batch, device: str | torch.device) -> Batch:
        """Return a batch of examples, as they are stored, ready on `device`."""
        inputs, labels = sent(stored, device)
        return self._ready(inputs), labels

    def _ready(self, inputs: torch.Tensor) -> torch.Tensor:
        if inputs.dtype != torch.uint8:
            return inputs
        scaled = inputs.to(torch.float32).div(255)
        if not self.mean:
            return scaled
        mean = torch.tensor(self.mean, device=inputs.device).reshape(-1, 1, 1)
        std = torch.tensor(self.std, device=inputs.device).reshape(-1, 1, 1)
        return scaled.sub_(mean).div_(std)


@dataclass(frozen=True)
class Split:
    """One split of a data set.

    Attributes:
        name: ``train``, ``test``, ...
        dataset: yields (tensor of one example, class). A `TensorDataset` of inputs and classes is
            taken into memory as it is.
        workers: processes that read examples which are not in memory; None is 4 where CUDA has to
            be fed with all of them in order, and none otherwise.
        fingerprint: an id of the content; empty when nobody asked for one.

    Raises:
        DataError: when it has no examples.
    """

    name: str
    dataset: Dataset[Any]
    workers: int | None = None
    fingerprint: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.dataset, TensorDataset):
            inputs, labels = self.dataset.tensors
            object.__setattr__(self, "dataset", InMemory(inputs, labels))
        if not len(self):
            raise DataError(f"split '{self.name}' has no examples")

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]  # map-style, which the type leaves open

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return tuple(self.dataset[0][0].shape)

    def batches(
        self,
        batch_size: int,
        *,
        device: str | torch.device = "cpu",
        order: torch.Tensor | None = None,
    ) -> Iterator[Batch]:
        """Yield (inputs, classes) on `device`, the last batch as short as it comes.

        Args:
            batch_size: examples per batch.
            device: where the tensors are wanted.
            order: indices of the examples to yield, shape (m,), int64; all of them, in the order
                of the data set, by default. Randomness is the caller's: none is drawn here.
        """
        for batch in self.stored_batches(batch_size, device=device, order=order):
            yield self.finished(batch, device)

    def stored_batches(
        self,
        batch_size: int,
        *,
        device: str | torch.device = "cpu",
        order: torch.Tensor | None = None,
    ) -> Iterator[Batch]:
        """Yield what `batches` does before it goes to `device`; `finished` brings it there."""
        if isinstance(self.dataset, InMemory):
            return self._sliced(self.dataset, batch_size, order)
        return self._loaded(batch_size, device, order)

    def finished(self, stored: Batch, device: str | torch.device) -> Batch:
        """Return a batch of `stored_batches` as those of `batches` are."""
        if isinstance(self.dataset, InMemory):
            return self.dataset.finished(stored, device)
        return sent(stored, device)

    def tensors(self) -> Batch | None:
        """Return all inputs and classes on the CPU; None when they are not, or not all, in memory.

        Splits whose inputs take more than 4 GiB as floats are left to `batches`.
        """
        if not isinstance(self.dataset, InMemory):
            return None
        if self.dataset.inputs.numel() * 4 > _WHOLE_BYTES:
            return None
        return self.dataset.batch(slice(None), device="cpu")

    def _sliced(
        self, dataset: InMemory, batch_size: int, order: torch.Tensor | None
    ) -> Iterator[Batch]:
        for start in range(0, len(self) if order is None else len(order), batch_size):
            window = slice(start, start + batch_size)
            chosen = window if order is None else order[window].cpu()
            yield dataset.inputs[chosen], dataset.labels[chosen]

    def _loaded(
        self, batch_size: int, device: str | torch.device, order: torch.Tensor | None
    ) -> Iterator[Batch]:
        chosen = self.dataset if order is None else Subset(self.dataset, order.tolist())
        cuda = _is_cuda(device)
        workers = self.workers
        if workers is None:
            workers = _WORKERS if cuda and order is None else 0
        # No process has less than a batch to read; for a single one none is worth its start.
        count = -(-(len(self) if order is None else len(order)) // batch_size)
        workers = min(workers, count) if count > 1 else 0
        # A loader without a generator of its own draws a number from the global one.
        loader: DataLoader[Any] = DataLoader(
            chosen, batch_size, num_workers=workers, pin_memory=cuda, generator=torch.Generator()
        )
        try:
            for inputs, labels in loader:
                yield inputs, labels.to(torch.int64)
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise DataError(
                f"split '{self.name}': a process that reads examples has died, most often for "
                f"lack of memory; try fewer `workers` than {workers} ({error})"
            ) from error


def sent(batch: Batch, device: str | torch.device) -> Batch:
    """Return a batch on `device`.

    CUDA is sent what is in pinned memory, which the CPU need not wait for: it reads the next batch
    while CUDA is still at work on those before.
    """
    inputs, labels = batch
    if not _is_cuda(device):
        return inputs.to(device), labels.to(device)
    inputs, labels = (
        one.pin_memory() if one.device.type == "cpu" else one for one in (inputs, labels)
    )
    return inputs.to(device, non_blocking=True), labels.to(device, non_blocking=True)


def _is_cuda(device: str | torch.device) -> bool:
    return torch.device(device).type == "cuda"


@dataclass(frozen=True, slots=True)
class Data:
    """A data set.

    Attributes:
        name: the source it was loaded from.
        splits: the splits that were asked for, by name.
        num_classes: how many classes there are.
        input_shape: the shape of one example.
        fingerprint: an id of the content of all splits.
    """

    name: str
    splits: Mapping[str, Split]
    num_classes: int
    input_shape: tuple[int, ...]
    fingerprint: str
