"""Measuring points of one engine in the way that is quickest, checked before it is used."""

from __future__ import annotations

import gc
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from mergekit_perm.errors import EvaluationError
from mergekit_perm.evaluate.memory import forget_frames, free
from mergekit_perm.evaluate.metrics import Metrics
from mergekit_perm.evaluate.pace import Pace, Passes, Way
from mergekit_perm.evaluate.points import Weights
from mergekit_perm.evaluate.precision import Precision
from mergekit_perm.evaluate.together import passing, state_of

if TYPE_CHECKING:
    from mergekit_perm.evaluate.engine import Engine, Measured

# How far logits of a way may be from those one by one, as a share of the largest: another network's
# are as far apart as they are large.
_APART: Mapping[Precision, float] = {"float32": 1e-4, "tf32": 1e-2, "bfloat16": 5e-2}


class Ways:
    """The ways there are to measure points of an engine."""

    def __init__(self, pace: Pace, notes: list[str]) -> None:
        """Know the ways.

        Args:
            pace: how long ways take, as far as that is known.
            notes: where it is told, in words, what came of a way.
        """
        self._pace, self._notes = pace, notes
        self._passes: dict[Way, Passes] = {}
        self._followed: set[Way] = set()

    def take(self, left: list[Weights], devices: int = 1) -> tuple[Way, list[Weights]]:
        """Take from the points that are `left` those to measure next, and say in which way.

        Args:
            left: at least one.
            devices: how many share these points.
        """
        way = self._pace.next(math.ceil(len(left) / devices), self._passes)
        group = left[: way.count]
        del left[: way.count]
        return way, group

    def measure(
        self, engine: Engine, way: Way, group: Sequence[Weights]
    ) -> list[dict[str, Metrics]]:
        """Return the metrics of points of `engine`, always the same, measured in one way.

        They are measured one by one, and other points too, where that way cannot be gone.
        """
        ready = way.make is None or way in self._passes
        began = time.perf_counter()
        if way.make or len(group) > 1:
            found = self._tried(engine, way, group)
            if isinstance(found, Exception):
                self._give_up(way, found)
                del found
                gc.collect()  # compiling leaves frames that hold one another, and the networks
                free(engine.device)
                return [engine.measure(point) for point in group]
            told = [engine.told(*each) for each in zip(group, found, strict=True)]
        else:
            told = [engine.measure(point) for point in group]
        seconds = time.perf_counter() - began
        if known := self._pace.took(way, len(group), seconds, ready=ready):
            self._notes.append(known)
        return told

    def forget(self) -> None:
        """Forget all passes: batches have another size."""
        self._passes.clear()
        self._followed.clear()

    def _give_up(self, way: Way, error: Exception) -> None:
        self._notes.append(self._pace.never(way, error))
        self._passes.pop(way, None)

    def _tried(
        self, engine: Engine, way: Way, group: Sequence[Weights]
    ) -> list[Measured] | Exception:
        """Return what is measured of points in one way, or why that cannot be done.

        The error holds no tensors any more. What is wrong with a network is told one by one.
        """
        before = sys.exception()
        try:
            if way.make:
                return self._otherwise(engine, way, *group)
            return self._together(engine, way, group)
        except Exception as caught:
            error = caught
        forget_frames(error, before)
        return error

    def _together(self, engine: Engine, way: Way, group: Sequence[Weights]) -> list[Measured]:
        """Measure several mixes in the same passes."""
        if not engine.batches:
            return [{} for _ in group]
        states = []
        *others, last = group
        for weights in others:
            engine.prepare(weights)
            with engine.running():
                states.append(state_of(engine.module))
        engine.prepare(last)
        with engine.running():
            passes = passing(engine.module, [*states, state_of(engine.module)])
            self._see_that_it_follows(engine, way, passes, -1)
            return engine.measured_by(passes, several=True)

    def _otherwise(self, engine: Engine, way: Way, weights: Weights) -> list[Measured]:
        """Measure one mix by the passes of `way`."""
        assert way.make, "several points at a time have passes of their own"
        if way not in self._passes:
            # Made of another network, so that it can be seen whether they follow this one.
            engine.mix_another_than(weights)
            made = way.make(engine.module)
            with engine.running():
                for inputs in _shapes(engine):
                    with torch.inference_mode():
                        made(inputs)
            self._passes[way] = made
        engine.prepare(weights)
        with engine.running():
            self._see_that_it_follows(engine, way, self._passes[way])
            return engine.measured_by(self._passes[way])

    def _see_that_it_follows(
        self, engine: Engine, way: Way, passes: Passes, place: int | None = None
    ) -> None:
        """Check, once, that passes give what the network that is there gives, in every shape.

        Args:
            engine: whose network it is.
            way: whose passes they are.
            passes: of one network, or of several at a time.
            place: of that network among several.

        Raises:
            EvaluationError: they do not: something else than weights has changed.
        """
        if way in self._followed:
            return
        for inputs in _shapes(engine):
            with torch.inference_mode():
                expected, found = engine.module(inputs), passes(inputs)
                found = found if place is None else found[place]
                largest = float(expected.nan_to_num(0.0, 0.0, 0.0).abs().max())
            apart = _APART[engine.precision] * largest
            if not torch.allclose(found, expected, rtol=0, atol=apart, equal_nan=True):
                raise EvaluationError("that does not follow the network")
        self._followed.add(way)


def _shapes(engine: Engine) -> Iterator[torch.Tensor]:
    """Yield inputs of every shape that batches have: a last one may be smaller."""
    seen = set()
    for batches in engine.batches.values():
        inputs, _ = next(iter(batches))
        for size in (len(inputs), len(batches) % len(inputs)):
            if size and inputs[:size].shape not in seen:
                seen.add(inputs[:size].shape)
                yield inputs[:size]
