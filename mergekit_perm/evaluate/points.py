"""Where paths and simplexes are sampled: tuples of weights, one weight per network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from mergekit_perm.errors import EvaluationError

Weights = tuple[float, ...]
Spots = npt.NDArray[np.float64]


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


def simplex_samples(n: int, count: int, *, seed: int = 0) -> tuple[Weights, ...]:
    """Return `count` random weights of `n` networks, uniformly distributed over the simplex.

    Raises:
        EvaluationError: `count` below 0.
    """
    if count < 0:
        raise EvaluationError(f"a simplex has at least 0 random points, not {count}")
    drawn = np.random.default_rng(seed).dirichlet(np.ones(n), size=count)
    return tuple(tuple(weights) for weights in drawn.tolist())


def vertex(n: int, index: int) -> Weights:
    """Return the weights of network `index` alone, among `n`."""
    return tuple(1.0 if i == index else 0.0 for i in range(n))


def barycentre(n: int) -> Weights:
    """Return equal weights for `n` networks."""
    return (_share(1, n),) * n


def refining(points: Sequence[Weights]) -> list[int]:
    """Return the places of `points` in an order that shows the whole soon, and details later.

    First the networks themselves, then always the point that is farthest from them and from all
    before it: on a path its ends, its middle, its quarters and so on.
    """
    if not points:
        return []
    spots = np.asarray(points, dtype=np.float64)
    distance = np.min([_squared(spots, end) for end in np.eye(spots.shape[1])], axis=0)
    order = [int(place) for place in np.flatnonzero(distance == 0.0)]
    distance[order] = -1.0
    while len(order) < len(points):
        order.append(int(np.argmax(distance)))
        distance = np.minimum(distance, _squared(spots, spots[order[-1]]))
        distance[order[-1]] = -1.0
    return order


def _squared(spots: Spots, spot: Spots) -> Spots:
    """Return the squared distance of every spot from one."""
    squared: Spots = np.square(spots - spot).sum(axis=1)
    return squared


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
