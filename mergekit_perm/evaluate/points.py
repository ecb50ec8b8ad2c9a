"""Where paths and simplexes are sampled: tuples of weights, one weight per network."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from mergekit_perm.errors import EvaluationError

Weights = tuple[float, ...]


def edge(points: int) -> tuple[Weights, ...]:
    """Return `points` weights (1 - a, a) at equal distances from (1, 0) to (0, 1), ends included.

    Worked out in fractions and rounded once, so that a point which two grids share is the same
    floats in both.

    Raises:
        EvaluationError: fewer than 2 points.
    """
    if points < 2:
        raise EvaluationError(f"a path needs at least its 2 endpoints, not {points} points")
    steps = points - 1
    return tuple((_share(steps - i, steps), _share(i, steps)) for i in range(points))


def simplex_grid(n: int, grid: int) -> tuple[Weights, ...]:
    """Return all weights of `n` networks that are multiples of 1/`grid`, and the barycentre.

    The vertices are among them, and with ``grid`` of at least 2 points on every edge. There are
    C(grid + n - 1, n - 1) points (28 for 3 networks and a grid of 6), and one more where the
    barycentre is not on the grid, which comes last.

    Raises:
        EvaluationError: `n` below 2 or `grid` below 1.
    """
    if n < 2:
        raise EvaluationError(f"a simplex needs at least 2 networks, not {n}")
    if grid < 1:
        raise EvaluationError(f"the grid of a simplex has at least 1 step per edge, not {grid}")
    weights = [tuple(_share(part, grid) for part in parts) for parts in _splits(grid, n)]
    return tuple(dict.fromkeys([*weights, barycentre(n)]))


def vertex(n: int, index: int) -> Weights:
    """Return the weights of network `index` alone, among `n`."""
    return tuple(1.0 if i == index else 0.0 for i in range(n))


def barycentre(n: int) -> Weights:
    """Return equal weights for `n` networks."""
    return (_share(1, n),) * n


def _share(part: int, whole: int) -> float:
    return float(Fraction(part, whole))


def _splits(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    """Yield every way to write `total` as an ordered sum of `parts` whole numbers from 0."""
    if parts == 1:
        yield (total,)
        return
    for first in range(total, -1, -1):
        for rest in _splits(total - first, parts - 1):
            yield (first, *rest)
