"""The curve of a path as it forms, for what is shown while a run works."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Mapping, Sequence

from mergekit_perm import evaluate
from mergekit_perm.pipeline.keys import Weights
from mergekit_perm.progress import Progress
from mergekit_perm.report.sparkline import ASCII, BLOCKS, marks_for, sparkline

Measured = Mapping[Weights, Mapping[str, evaluate.Metrics]]

# How many marks a curve has, and what stands where nothing is measured yet.
_WIDTH = 11
_OPEN = {BLOCKS: "·", ASCII: "?"}


class FormingCurve:
    """The loss along a path above the mix of the networks' own, as points are measured.

    Points inside one path, and nothing else, have a curve.
    """

    def __init__(self, points: Sequence[Weights], ends: Measured, known: Measured) -> None:
        """Start with what is known.

        Args:
            points: what is measured.
            ends: the networks themselves.
            known: points that were measured before.
        """
        places = {tuple(i for i, share in enumerate(point) if share) for point in points}
        pair = places.pop() if len(places) == 1 else ()
        self._path = sorted(points, key=lambda point: point[pair[1]]) if len(pair) == 2 else []
        self._ends = ends
        self._heights: dict[Weights, float] = {}
        for point, metrics in known.items():
            self.add(point, metrics)

    def add(self, point: Weights, metrics: Mapping[str, evaluate.Metrics]) -> None:
        """Take note of a point that has been measured."""
        self._heights[point] = evaluate.height(point, {point: metrics, **self._ends})

    def shown(self, progress: Progress) -> Progress:
        """Return `progress` with the curve behind its notes."""
        if not self._path:
            return progress

        def told(task: str, done: int, total: int, note: str = "", /) -> None:
            progress(task, done, total, f"{note} {self.text()}".lstrip())

        return told

    def text(self) -> str:
        """Return the curve as marks, the highest for the highest point so far."""
        marks = marks_for(sys.stderr.encoding or "ascii")
        top = max((h for h in self._heights.values() if math.isfinite(h)), default=0.0)
        count = min(_WIDTH, len(self._path))
        edges = [round(place * len(self._path) / count) for place in range(count + 1)]
        text = ""
        for start, end in itertools.pairwise(edges):
            found = [self._heights[p] for p in self._path[start:end] if p in self._heights]
            text += sparkline([max(found)], top=top, marks=marks) if found else _OPEN[marks]
        return text
