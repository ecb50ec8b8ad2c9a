"""Looking for the highest point of a simplex, from the highest that is known."""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction

from mergekit_perm.evaluate.barriers import excess
from mergekit_perm.evaluate.engine import Engine
from mergekit_perm.evaluate.metrics import Metrics
from mergekit_perm.evaluate.points import Weights, vertex
from mergekit_perm.evaluate.team import Team
from mergekit_perm.progress import Progress, silent

Measured = Mapping[Weights, Mapping[str, Metrics]]

# The finest steps, as a share of those of the grid.
_FINEST = 64


def search_simplex(
    engine: Engine | Team,
    measured: Mapping[Weights, dict[str, Metrics]],
    *,
    grid: int,
    count: int,
    known: Mapping[Weights, dict[str, Metrics]] | None = None,
    keep: Callable[[Weights, dict[str, Metrics]], None] | None = None,
    progress: Progress = silent,
    task: str = "searching the simplex",
) -> dict[Weights, dict[str, Metrics]]:
    """Measure up to `count` more points where the loss of the first split may be highest.

    A pattern search: from the highest point so far, weight is moved from one network to another in
    steps of half a cell of the grid; where none is higher, steps are halved. It ends before `count`
    where steps are a 64th of a cell, or where an excess is infinite already.

    Devices of a team measure beside a point those that come next if it is not higher; what is found
    does not depend on how many there are.

    Args:
        engine: of the networks, or a team of engines on several devices.
        measured: the points that are known, the networks themselves among them.
        grid: steps per edge of the grid that was measured.
        count: points at most.
        known: points of an earlier search of the same simplex; they are not measured again.
        keep: called with every point that has been measured, as soon as it is.
        progress: called as `progress(task, points done, count, note)`.
        task: what to call this in `progress`.

    Returns:
        What was found, by the weights, in the order of the search.
    """
    found: dict[Weights, dict[str, Metrics]] = {}
    ready = dict(known or {})
    everything = ChainMap(found, dict(measured))
    heights = {point: height(point, measured) for point in measured}
    for done in range(count):
        highest = max(heights.values())
        progress(task, done, count, f"highest excess {highest:.4f}")
        ahead = _ahead(heights, grid, min(_at_once(engine), count - done))
        if not ahead or math.isinf(highest):
            break
        point = ahead[0]
        if point not in ready:
            for one, metrics in engine.each([other for other in ahead if other not in ready]):
                ready[one] = metrics
                if keep is not None:
                    keep(one, metrics)
        found[point] = ready[point]
        heights[point] = height(point, everything)
    progress(task, count, count, f"highest excess {max(heights.values()):.4f}")
    return found


def _at_once(engine: Engine | Team) -> int:
    """Return how many points are measured at the same time."""
    return len(engine.engines) if isinstance(engine, Team) else 1


def _ahead(heights: Mapping[Weights, float], grid: int, count: int) -> list[Weights]:
    """Return the next points, up to `count`, as if none of them was higher than those before."""
    points: list[Weights] = []
    known = dict(heights)
    while len(points) < count and (point := next_point(known, grid)) is not None:
        points.append(point)
        known[point] = -math.inf
    return points


def next_point(heights: Mapping[Weights, float], grid: int) -> Weights | None:
    """Return where to look next, given the heights of points; None where steps are finest."""
    best = max(heights, key=lambda point: heights[point])
    finer = 2
    while finer <= _FINEST:
        for point in _around(best, Fraction(1, grid * finer)):
            if point not in heights:
                return point
        finer *= 2
    return None


def height(point: Weights, measured: Measured) -> float:
    """Return the excess of the loss at `point` on the first split; -inf where it is not known."""
    own = [measured.get(vertex(len(point), place)) for place in range(len(point))]
    known = [
        (weight, metrics) for weight, metrics in zip(point, own, strict=True) if weight and metrics
    ]
    split = next(iter(measured[point]), None)
    if split is None or len(known) < sum(weight != 0 for weight in point):
        return -math.inf
    ends = [metrics[split].loss for _, metrics in known]
    return excess([weight for weight, _ in known], measured[point][split].loss, ends)


def _around(point: Weights, step: Fraction) -> Iterator[Weights]:
    """Yield the points that have `step` more of one network and less of another."""
    exact = [Fraction(weight).limit_denominator(10**6) for weight in point]
    for less in range(len(point)):
        for more in range(len(point)):
            if less != more and exact[less] >= step:
                moved = list(exact)
                moved[less] -= step
                moved[more] += step
                yield tuple(map(float, moved))
