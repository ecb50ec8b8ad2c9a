"""Which way points are measured: one by one, unless another way has been found quicker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

# Small is a network of which so many take no more memory all in all.
_POINTS = 8
_BYTES = 2**28

# Another way must be as many times as fast, as its figures are not the same to the bit.
_QUICKER = 1.1


@dataclass(frozen=True, slots=True)
class Way:
    """A way to measure points.

    Attributes:
        words: what a report calls it.
        count: how many points at a time.
        graphed: whether passes are CUDA graphs.
    """

    words: str
    count: int = 1
    graphed: bool = False


ALONE = Way("one by one")
GRAPHED = Way("as CUDA graphs", graphed=True)
TOGETHER = Way(f"{_POINTS} in one pass", count=_POINTS)


@dataclass(slots=True)
class Pace:
    """The ways there are, and how long each takes.

    All are tried on points that are to be measured anyway, each first once to warm up.

    Attributes:
        ways: `ALONE` first.
        seconds: what a point took, by way.
    """

    ways: Sequence[Way] = (ALONE,)
    seconds: dict[Way, float] = field(default_factory=dict)
    _warm: set[Way] = field(default_factory=set)

    @classmethod
    def of(cls, module: nn.Module, device: torch.device, precision: str) -> Pace:
        """Return all ways for a small network on a CUDA device; for others, one by one.

        Args:
            module: the network.
            device: where it is.
            precision: of its passes. With bfloat16 there are no graphs: autocast may keep copies of
                weights, and graphs would read those.
        """
        size = sum(tensor.nbytes for tensor in module.state_dict().values())
        if device.type != "cuda" or _POINTS * size > _BYTES:
            return cls()
        return cls((ALONE, TOGETHER) if precision == "bfloat16" else (ALONE, GRAPHED, TOGETHER))

    def next(self) -> Way:
        """Return the way to measure the next points."""
        for way in self.ways:
            if way not in self.seconds:
                return way
        best = min(self.ways, key=self.seconds.__getitem__)
        return best if self._times(best) >= _QUICKER else ALONE

    def took(self, way: Way, points: int, seconds: float) -> str | None:
        """Take note of how many seconds `points` took.

        Returns:
            What that settles, in words, once all ways but one by one are known.
        """
        if points < way.count or way in self.seconds:
            return None
        if way not in self._warm:
            self._warm.add(way)
            return None
        self.seconds[way] = seconds / points
        others = [other for other in self.ways if other != ALONE]
        if not others or not self.seconds.keys() >= set(self.ways):
            return None
        times = [f"{other.words} {self._times(other):.2g} times as fast" for other in others]
        return f"points are measured {self.next().words} ({', '.join(times)} as one by one)"

    def never(self, way: Way, error: Exception) -> str:
        """Let there not be `way`, which has ended in `error`; return that in words."""
        self.ways = tuple(other for other in self.ways if other != way)
        why = str(error).partition("\n")[0]
        return f"points are not measured {way.words}: {type(error).__name__}, {why}"

    def _times(self, way: Way) -> float:
        return self.seconds[ALONE] / self.seconds[way]
