"""Measuring mixes of networks, one point after another, about as fast as their forward passes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch
from torch import nn

from mergekit_perm.data.batches import Batches
from mergekit_perm.data.layout import quickest_layout
from mergekit_perm.errors import EvaluationError
from mergekit_perm.evaluate.calibration import calibrator
from mergekit_perm.evaluate.fused_norms import FusedNorms
from mergekit_perm.evaluate.metrics import Metrics, measure_batches
from mergekit_perm.evaluate.mixing import Mixer
from mergekit_perm.evaluate.points import Weights
from mergekit_perm.evaluate.precision import Precision, arithmetic
from mergekit_perm.weighted import State

if TYPE_CHECKING:
    from mergekit_perm.data import Split

# How many examples at a time keep a CPU's caches or an accelerator busy.
ON_CPU = 256
ON_ACCELERATOR = 4096

# Statistics that are estimated again depend on how many there are: one number for all devices.
_CALIBRATING = 512

# How many examples tell what suits a network.
_FEW = 2


class Engine:
    """Measures mixes of `states` on `splits`; what all points share is made ready once.

    The module is copied, unless it may be used `in_place`: that and the networks are then all the
    weights there are. Networks are mixed into it on the device, where data that are in memory stay
    as well. Images and weights are channels-last where the module takes that.
    BatchNorm layers right behind a convolution or a linear layer are taken into it.

    Figures do not depend on batch size, layout and fused layers but for rounding.

    Attributes:
        batch_size: examples at a time; halved when the device runs out of memory.
        precision: of what is measured; statistics are estimated again in full precision.
    """

    def __init__(
        self,
        module: nn.Module,
        states: Sequence[State],
        splits: Mapping[str, Split],
        *,
        train_split: Split | None = None,
        calibration: str = "none",
        device: torch.device,
        batch_size: int | None = None,
        precision: Precision = "float32",
        in_place: bool = False,
    ) -> None:
        """Make ready; see `evaluate_points` for the other arguments.

        Args:
            in_place: use the module itself, not a copy. Its weights are lost, it is in eval mode
                and on the device afterwards, and no other engine may use it at the same time.
        """
        self._splits, self._device, self.precision = splits, device, precision
        self._mixer = Mixer(module, states, device=device, in_place=in_place)
        self._mixer.set([1.0] + [0.0] * (len(states) - 1))
        self._layout, self._norms = self._suited()
        self.batch_size = batch_size or (ON_CPU if device.type == "cpu" else ON_ACCELERATOR)
        self._batches = self._made_ready()
        self._calibrate = calibrator(
            calibration,
            train_split,
            device=device,
            batch_size=batch_size or _CALIBRATING,
            layout=self._layout,
        )

    def measure(self, weights: Weights) -> dict[str, Metrics]:
        """Return the metrics, by split, of the mix with `weights`, one per network.

        Raises:
            EvaluationError: the device has too little memory to calibrate, or for one example.
        """
        while True:
            self._prepare(weights)
            try:
                with self._norms.fused(), self.arithmetic():
                    return {
                        name: measure_batches(self._mixer.module, batches)
                        for name, batches in self._batches.items()
                    }
            except RuntimeError as error:
                if not _out_of_memory(error):
                    raise
                if self.batch_size == 1:
                    raise EvaluationError(
                        f"{self._device} has too little memory for one example at a time"
                    ) from error
            self.batch_size = self.batch_size // 2
            self._batches = self._made_ready()

    def arithmetic(self) -> AbstractContextManager[None]:
        """Return the arithmetic of its figures, for a block."""
        return arithmetic(self.precision, self._device)

    def each(self, points: Sequence[Weights]) -> Iterator[tuple[Weights, dict[str, Metrics]]]:
        """Yield every point with its metrics, one after another."""
        for point in points:
            yield point, self.measure(point)

    def _prepare(self, weights: Weights) -> None:
        module = self._mixer.set(weights)
        try:
            with arithmetic("float32", self._device):
                self._calibrate(module)
        except RuntimeError as error:
            if not _out_of_memory(error):
                raise
            raise EvaluationError(
                f"{self._device} has too little memory to calibrate; make `batch_size` smaller, "
                "which statistics that are estimated again depend on a little"
            ) from error

    def _suited(self) -> tuple[torch.memory_format, FusedNorms]:
        """Return the layout and the norms to fuse, found on a few examples."""
        module = self._mixer.module
        split = next(iter(self._splits.values()), None)
        if split is None:
            return torch.contiguous_format, FusedNorms(())
        inputs, _ = next(iter(split.batches(_FEW, device=self._device)))
        layout = quickest_layout(module, inputs)
        self._mixer.arrange(layout)
        return layout, FusedNorms.of(module, inputs.to(memory_format=layout))

    def _made_ready(self) -> dict[str, Batches]:
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        return {
            name: Batches(
                split, device=self._device, batch_size=self.batch_size, layout=self._layout
            )
            for name, split in self._splits.items()
        }


def _out_of_memory(error: RuntimeError) -> bool:
    """Tell whether a device ran out of memory; of the CPU's allocator only the message says so."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
