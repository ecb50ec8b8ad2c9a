"""Which way points are measured: one by one, unless another way has been found quicker."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from mergekit_perm.evaluate.graphs import Graphed

# Small is a network of which so many take no more memory all in all.
_POINTS = 8
_BYTES = 2**28

# Another way must be as many times as fast, as its figures are not the same to the bit.
_QUICKER = 1.1

# Compiling takes up to a minute or two, and makes passes quicker by a tenth to a half: it is tried
# where points that are asked for at once take so many seconds.
_LONG = 300.0

# Logits of inputs.
Passes = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Way:
    """A way to measure points.

    Attributes:
        words: what a report calls it.
        count: how many points at a time.
        make: what makes, of a module, other passes of it, which follow the weights that it has.
        least: how many seconds of work, at the best known pace, it is tried for.
    """

    words: str
    count: int = 1
    make: Callable[[nn.Module], Passes] | None = None
    least: float = 0.0


def _compiled(module: nn.Module) -> Passes:
    passes: Passes = torch.compile(module)
    return passes


ALONE = Way("one by one")
GRAPHED = Way("as CUDA graphs", make=Graphed)
TOGETHER = Way(f"{_POINTS} in one pass", count=_POINTS)
COMPILED = Way("compiled", make=_compiled, least=_LONG)


@dataclass(slots=True)
class Pace:
    """The ways there are, and how long each takes.

    All are tried on points that are to be measured anyway, each first once to warm up.

    Attributes:
        ways: `ALONE` first.
        seconds: what a point took, by way.
        first: what points took with which a way was made ready, by way: compiled, say.
    """

    ways: Sequence[Way] = (ALONE,)
    seconds: dict[Way, float] = field(default_factory=dict)
    first: dict[Way, float] = field(default_factory=dict)

    @classmethod
    def of(cls, module: nn.Module, device: torch.device) -> Pace:
        """Return the ways that may be quicker on a CUDA device; elsewhere, one by one alone.

        CUDA graphs and several points at a time are for small networks.
        """
        if device.type != "cuda":
            return cls()
        size = sum(tensor.nbytes for tensor in module.state_dict().values())
        small = (GRAPHED, TOGETHER) if _POINTS * size <= _BYTES else ()
        return cls((ALONE, *small, COMPILED))

    def next(self, points: int, ready: Container[Way] = ()) -> Way:
        """Return the way to measure the next ones of so many points.

        Args:
            points: how many are left, at least one.
            ready: the ways whose passes are made already; others have to pay for that.
        """
        for way in self.ways:
            if way not in self.seconds and self._worth_trying(way, points, ready):
                return way
        costs = {
            way: seconds * way.count * math.ceil(points / way.count)
            + (0.0 if way in ready else self._making(way))
            for way, seconds in self.seconds.items()
        }
        best = min(costs, key=costs.__getitem__)
        return best if costs[ALONE] >= _QUICKER * costs[best] else ALONE

    def took(self, way: Way, points: int, seconds: float, *, ready: bool = True) -> str | None:
        """Take note of how many seconds `points` took.

        Args:
            way: how they were measured.
            points: how many; fewer than it takes at a time tell nothing.
            seconds: all in all.
            ready: whether the passes of the way were there already.

        Returns:
            What is known of a way, in words, when it has been tried.
        """
        if points < way.count:
            return None
        if not ready or way not in self.first:
            self.first[way] = seconds
            return None
        if way in self.seconds:
            return None
        self.seconds[way] = seconds / points
        if way == ALONE:
            return None
        times = self.seconds[ALONE] / self.seconds[way]
        told = f"points measured {way.words}: {times:.2g} times as fast as one by one"
        making = self._making(way)
        return f"{told}, made ready in {making:.0f} s" if making >= 1 else told

    def never(self, way: Way, error: Exception) -> str:
        """Let there not be `way`, which has ended in `error`; return that in words."""
        self.ways = tuple(other for other in self.ways if other != way)
        self.seconds.pop(way, None)
        why = str(error).partition("\n")[0]
        return f"points are not measured {way.words}: {type(error).__name__}, {why}"

    def _worth_trying(self, way: Way, points: int, ready: Container[Way]) -> bool:
        """Tell whether there is work enough left to try `way` on."""
        if points < way.count or (points == 1 and way.make and way not in ready):
            return False  # of what a lone point takes to make it ready, none would come back
        if not way.least or way in ready:
            return True
        return points * min(self.seconds.values()) >= way.least

    def _making(self, way: Way) -> float:
        """Return the seconds it takes to make a way ready."""
        if way.make is None:
            return 0.0
        return max(0.0, self.first.get(way, 0.0) - self.seconds[way] * way.count)
