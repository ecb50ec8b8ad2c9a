"""Measuring mixes of networks, one point after another, about as fast as their forward passes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from mergekit_perm.data.batches import Batches
from mergekit_perm.data.layout import quickest_layout
from mergekit_perm.errors import EvaluationError
from mergekit_perm.evaluate.calibration import calibrator, steps_of, within_memory
from mergekit_perm.evaluate.fused_norms import FusedNorms
from mergekit_perm.evaluate.memory import Room, attempt, explaining
from mergekit_perm.evaluate.metrics import Metrics, measure_passes
from mergekit_perm.evaluate.mixing import Mixer
from mergekit_perm.evaluate.pace import Pace, Passes, Way
from mergekit_perm.evaluate.points import Weights, vertex
from mergekit_perm.evaluate.precision import Precision, arithmetic, multiplying
from mergekit_perm.evaluate.ways import Ways
from mergekit_perm.weighted import State

if TYPE_CHECKING:
    from mergekit_perm.data import Split

# By split, the metrics of a mix: where two calibrations are measured, of both.
Measured = Mapping[str, tuple[Metrics, ...]]

# How many examples at a time keep a CPU's caches or an accelerator busy: at least, at most, and as
# many as their inputs have numbers (of 32 x 32 images a CPU is quickest on about 100).
_ON_CPU = 16, 256, 2**18
_ON_ACCELERATOR = 1, 4096, 2**26

# Statistics that are estimated again depend on how many there are: one number for all devices.
_CALIBRATING = 512

# How many examples tell what suits a network.
_FEW = 2

# Rather than so few examples at a time, data on the device are given up.
_FEWER_THAN_DATA = 16


class Engine:
    """Measures mixes of `states` on `splits`; what all points share is made ready once.

    The module is copied, unless it may be used `in_place`: that and the networks are then all the
    weights there are. Networks are mixed into it on the device, where data that are in memory stay
    as well. Images and weights are channels-last where the module takes that.
    BatchNorm layers right behind a convolution or a linear layer are taken into it.

    Figures do not depend on batch size, layout and fused layers but for rounding: losses agree
    within a hundred-thousandth of themselves. Where statistics are estimated again, ``batch_norm``
    and ``repair`` depend on how many examples that is done with at a time: of 30 or more, losses
    agree within two thousandths, as they do on another device.

    On a CUDA device, passes of small networks are CUDA graphs, or several points are measured in
    one pass, where `each` finds that quicker on its first points; where points take minutes, it
    tries whether compiling passes makes them quicker.

    Where the device runs out of memory, examples are halved: those that are measured at a time, and
    where even 16 are too many, data are no more kept there, but read batch by batch. Of those to
    calibrate with, data are given up first; statistics depend a little on how many there are, so
    that it warns when it halves them.

    Attributes:
        batch_size: examples at a time; halved when the device runs out of memory.
        precision: of what is measured; statistics are estimated again without bfloat16.
        device: where that is.
        batches: of every split.
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
        both: bool = False,
        room: Room | None = None,
    ) -> None:
        """Make ready; see `evaluate_points` for the other arguments.

        Args:
            in_place: use the module itself, not a copy. Its weights are lost, it is in eval mode
                and on the device afterwards, and no other engine may use it at the same time.
            both: measure beside what `calibration` gives what `other_temperature` of it does, in
                the same pass; see `beside`.
            room: what engines before it had memory for on the device, and this one has.

        Raises:
            EvaluationError: the device has too little memory for the networks, or what
                `evaluate_points` refuses.
        """
        self._splits, self.device, self.precision = splits, device, precision
        self._room = Room() if room is None else room
        self._ends = [vertex(len(states), place) for place in range(len(states))]
        self._layout, self._norms = torch.contiguous_format, FusedNorms(())
        with explaining(device, _for_all(len(states))):
            self._mixer = Mixer(module, states, device=device, in_place=in_place)
            self._mixer.set(self._ends[0])
            if splits:
                self._suit(next(iter(splits.values())))
        longest = max(map(len, splits.values()), default=1)
        self._wanted = min(batch_size or self._usual_batch_size(), longest)
        self.batch_size = min(self._wanted, self._room.most or self._wanted)
        self.batches: dict[str, Batches] = {}
        for name, split in splits.items():
            self.batches[name] = self._batches_of(split, self.batch_size)
        # Which way is quickest is known from engines before, or found out.
        usual = Pace.of(self.module, device)
        self._ways = Ways(self._room.paces.setdefault(calibration, usual), self._room.notes)
        _, self._best_temperature = steps_of(calibration)
        self._both = both
        self._beside: dict[Weights, dict[str, Metrics]] = {}
        self._calibrate = calibrator(
            calibration,
            train_split,
            device=device,
            batch_size=self._room.calibrating_on(batch_size or _CALIBRATING),
            make=self._batches_of,
        )

    def measure(self, weights: Weights) -> dict[str, Metrics]:
        """Return the metrics, by split, of the mix with `weights`, one per network.

        Raises:
            EvaluationError: the device has too little memory to calibrate, or for one example.
        """
        while isinstance(found := self._attempt(weights), RuntimeError):
            self._make_room(found)
        return self.told(weights, found)

    def told(self, weights: Weights, found: Measured) -> dict[str, Metrics]:
        """Return of what was found of a mix what was asked for, and keep the rest for `beside`."""
        if not self._both:
            return {name: metrics[-1] for name, metrics in found.items()}
        own, other = (1, 0) if self._best_temperature else (0, 1)
        self._beside[weights] = {name: metrics[other] for name, metrics in found.items()}
        return {name: metrics[own] for name, metrics in found.items()}

    def beside(self, weights: Weights) -> dict[str, Metrics] | None:
        """Return what was measured of a mix beside its metrics, where there was anything."""
        return self._beside.get(weights)

    def _attempt(self, weights: Weights) -> Measured | RuntimeError:
        """Return the metrics of a mix, or the error that memory ran out with."""
        self.prepare(weights)

        def work() -> Measured:
            with self.running():
                return self.measured_by(self.module)[0]

        return attempt(work, self.device)

    @property
    def module(self) -> nn.Module:
        """The module that networks are mixed into."""
        return self._mixer.module

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let the module run as it is measured; after it, networks must be mixed anew."""
        with self._norms.fused(), self.arithmetic():
            yield

    def measured_by(self, passes: Passes, *, several: bool = False) -> list[Measured]:
        """Return the metrics, of every mix that `passes` are of, on all splits.

        Of two calibrations, those of the plain one come first.

        Args:
            passes: within `running`, of the mix that is there.
            several: their logits are of several mixes, of shape (mixes, examples, classes).
        """
        kept = self._both or self._best_temperature
        found = {
            name: measure_passes(self.module, passes, each, kept=kept, several=several)
            for name, each in self.batches.items()
        }
        mixes = range(max(map(len, found.values()), default=1))
        return [{name: of[place] for name, of in found.items()} for place in mixes]

    def arithmetic(self) -> AbstractContextManager[None]:
        """Return the arithmetic of its figures, for a block."""
        return arithmetic(self.precision, self.device)

    def multiplying(self) -> AbstractContextManager[None]:
        """Return the part of its arithmetic that is one setting for all threads, for a block."""
        return multiplying(self.precision, self.device)

    def each(self, points: Sequence[Weights]) -> Iterator[tuple[Weights, dict[str, Metrics]]]:
        """Yield every point with its metrics, one after another, or some at a time."""
        left = list(points)
        while left:
            yield from self.some(*self.take(left))

    def take(self, left: list[Weights], devices: int = 1) -> tuple[Way, list[Weights]]:
        """Return what `Ways.take` does."""
        return self._ways.take(left, devices)

    def some(self, way: Way, group: Sequence[Weights]) -> list[tuple[Weights, dict[str, Metrics]]]:
        """Return points with their metrics, measured in one way."""
        return list(zip(group, self._ways.measure(self, way, group), strict=True))

    def mix_another_than(self, weights: Weights) -> None:
        """Let another network be in the module than the mix with `weights`."""
        self._mixer.set(self._ends[-1] if weights == self._ends[0] else self._ends[0])

    def prepare(self, weights: Weights) -> None:
        """Mix the networks and calibrate the mixture; norms are fused only after that."""

        def work() -> None:
            self._calibrate.see(map(self._mixer.set, self._ends))
            self._calibrate(self._mixer.set(weights), weights)

        with self.multiplying():
            give_up = self._give_up_data
            within_memory(work, self._calibrate, self.device, self._room, make_room=give_up)

    def _suit(self, split: Split) -> None:
        """Find the layout and the norms to fuse, on a few examples."""
        few = torch.arange(min(_FEW, len(split)))
        inputs, _ = next(iter(split.batches(_FEW, device=self.device, order=few)))
        module = self._mixer.module
        with arithmetic("float32", self.device):
            self._layout = quickest_layout(module, inputs)
            if self._layout != torch.contiguous_format:
                self._mixer.arrange(self._layout)
                # With weights in that layout too, some modules do not run.
                self._layout = quickest_layout(module, inputs)
                self._mixer.arrange(self._layout)
            self._norms = FusedNorms.of(module, inputs.to(memory_format=self._layout))

    def _usual_batch_size(self) -> int:
        """Return how many examples the device is best at, bounded by what their inputs take."""
        least, most, room = _ON_CPU if self.device.type == "cpu" else _ON_ACCELERATOR
        numbers = [math.prod(split.input_shape) for split in self._splits.values()]
        return max(least, min(most, room // max([1, *numbers])))

    def _batches_of(self, split: Split, batch_size: int) -> Batches:
        """Return batches of `split`; those of a split that is on the device already share it.

        Data that do not fit there are read batch by batch.
        """
        for batches in self.batches.values():
            if batches.split is split:
                return batches.resized(batch_size)

        def make(*, keep: bool = True) -> Batches:
            return Batches(
                split, device=self.device, batch_size=batch_size, layout=self._layout, keep=keep
            )

        found = attempt(make, self.device)
        return make(keep=False) if isinstance(found, RuntimeError) else found

    def _make_room(self, error: RuntimeError) -> None:
        """Take half as many examples at a time, or give up data on the device and start anew."""
        if self.batch_size <= _FEWER_THAN_DATA and self._give_up_data():
            self._resize(self._wanted)
        elif self.batch_size == 1:
            raise EvaluationError(
                f"{self.device} has too little memory for one example at a time; choose another "
                "`device`"
            ) from error
        else:
            self._resize(self.batch_size // 2)

    def _resize(self, batch_size: int) -> None:
        self.batch_size = self._room.most = batch_size
        self._ways.forget()
        self.batches = {n: b.resized(batch_size) for n, b in self.batches.items()}

    def _give_up_data(self) -> bool:
        """Keep no data on the device any more; tell whether there were any."""
        held = [*self.batches.values(), self._calibrate.batches]
        kept = [batches for batches in held if batches is not None and batches.kept]
        for batches in kept:
            batches.give_up()
        return bool(kept)


def _for_all(networks: int) -> str:
    """Return for what there is too little memory where `networks` do not fit, and what to do."""
    several = f"{networks} networks, the module they are mixed in" if networks > 1 else "a network"
    return f"for {several} and a pass of {_FEW} examples; choose another `device`"
