"""Measuring mixes of networks, one point after another, about as fast as their forward passes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch
from torch import nn

from mergekit_perm.data.batches import Batches
from mergekit_perm.data.layout import quickest_layout
from mergekit_perm.errors import EvaluationError
from mergekit_perm.evaluate.calibration import calibrator, steps_of
from mergekit_perm.evaluate.fused_norms import FusedNorms
from mergekit_perm.evaluate.metrics import Metrics, measure_batches
from mergekit_perm.evaluate.mixing import Mixer
from mergekit_perm.evaluate.points import Weights, vertex
from mergekit_perm.evaluate.precision import Precision, arithmetic
from mergekit_perm.weighted import State

if TYPE_CHECKING:
    from mergekit_perm.data import Split

# How many examples at a time keep a CPU's caches or an accelerator busy: at least, at most, and as
# many as their inputs have numbers (of 32 x 32 images a CPU is quickest on about 100).
_ON_CPU = 16, 256, 2**18
_ON_ACCELERATOR = 1, 4096, 2**26

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
        precision: of what is measured; statistics are estimated again without bfloat16.
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
        self._ends = [vertex(len(states), place) for place in range(len(states))]
        self._mixer.set(self._ends[0])
        self._layout, self._norms = torch.contiguous_format, FusedNorms(())
        if splits:
            self._suit(next(iter(splits.values())))
        longest = max(map(len, splits.values()), default=1)
        self.batch_size = min(batch_size or self._usual_batch_size(), longest)
        self._kept = True
        self._batches: dict[str, Batches] = {}
        self._make_ready()
        _, self._best_temperature = steps_of(calibration)
        self._calibrate = calibrator(
            calibration,
            train_split,
            device=device,
            batch_size=batch_size or _CALIBRATING,
            make=self._batches_of,
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
                        name: measure_batches(
                            self._mixer.module, batches, best_temperature=self._best_temperature
                        )
                        for name, batches in self._batches.items()
                    }
            except RuntimeError as error:
                if not _out_of_memory(error):
                    raise
                self._make_room(error)

    def arithmetic(self) -> AbstractContextManager[None]:
        """Return the arithmetic of its figures, for a block."""
        return arithmetic(self.precision, self._device)

    def each(self, points: Sequence[Weights]) -> Iterator[tuple[Weights, dict[str, Metrics]]]:
        """Yield every point with its metrics, one after another."""
        for point in points:
            yield point, self.measure(point)

    def _prepare(self, weights: Weights) -> None:
        """Mix the networks and calibrate the mixture; norms are fused only after that."""
        # On CUDA, which arithmetic there is, is one setting for all threads.
        precision = "float32" if self.precision == "bfloat16" else self.precision
        try:
            with arithmetic(precision, self._device):
                self._calibrate.see(map(self._mixer.set, self._ends))
                self._calibrate(self._mixer.set(weights), weights)
        except RuntimeError as error:
            if not _out_of_memory(error):
                raise
            raise EvaluationError(
                f"{self._device} has too little memory to calibrate; make `batch_size` smaller, "
                "which statistics that are estimated again depend on a little"
            ) from error

    def _suit(self, split: Split) -> None:
        """Find the layout and the norms to fuse, on a few examples."""
        few = torch.arange(min(_FEW, len(split)))
        inputs, _ = next(iter(split.batches(_FEW, device=self._device, order=few)))
        module = self._mixer.module
        with arithmetic("float32", self._device):
            self._layout = quickest_layout(module, inputs)
            if self._layout != torch.contiguous_format:
                self._mixer.arrange(self._layout)
                # With weights in that layout too, some modules do not run.
                self._layout = quickest_layout(module, inputs)
                self._mixer.arrange(self._layout)
            self._norms = FusedNorms.of(module, inputs.to(memory_format=self._layout))

    def _usual_batch_size(self) -> int:
        """Return how many examples the device is best at, bounded by what their inputs take."""
        least, most, room = _ON_CPU if self._device.type == "cpu" else _ON_ACCELERATOR
        numbers = [math.prod(split.input_shape) for split in self._splits.values()]
        return max(least, min(most, room // max([1, *numbers])))

    def _make_ready(self) -> None:
        """Bring data to the device; where they do not fit, they are read batch by batch."""
        try:
            for name, split in self._splits.items():
                self._batches[name] = self._batches_of(split, self.batch_size)
        except RuntimeError as error:
            if not _out_of_memory(error) or not self._kept:
                raise
            self._kept, self._batches = False, {}
            self._make_ready()

    def _batches_of(self, split: Split, batch_size: int) -> Batches:
        """Return batches of `split`; those of a split that is on the device already share it."""
        for batches in self._batches.values():
            if batches.split is split:
                return batches.resized(batch_size)
        return Batches(
            split, device=self._device, batch_size=batch_size, layout=self._layout, keep=self._kept
        )

    def _make_room(self, error: RuntimeError) -> None:
        """Take half as many examples at a time."""
        if self.batch_size == 1:
            raise EvaluationError(
                f"{self._device} has too little memory for one example at a time"
            ) from error
        self.batch_size //= 2
        self._batches = {n: b.resized(self.batch_size) for n, b in self._batches.items()}
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def _out_of_memory(error: RuntimeError) -> bool:
    """Tell whether a device ran out of memory; not all have an error of its own for that."""
    words = ("DefaultCPUAllocator", "out of memory", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)
