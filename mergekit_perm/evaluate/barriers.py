"""The barrier of a path or simplex: the highest excess over the mix of the endpoints' values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from mergekit_perm.errors import EvaluationError
from mergekit_perm.evaluate.points import Weights, barycentre, vertex

Kind = Literal["pair", "simplex"]


@dataclass(frozen=True, slots=True)
class Point:
    """The value of one mix of networks.

    Attributes:
        weights: one per network of the barrier, summing to 1.
        value: loss in nats or error rate of the network with the mixed weights.
    """

    weights: Weights
    value: float


@dataclass(frozen=True, slots=True)
class Barrier:
    """The barrier between networks on a finite set of points (arXiv 2404.06498, and 2110.06296).

    For weights w over networks with values v_i, the excess of a point of value v is
    v - sum_i w_i v_i; `barrier` is the highest excess. The endpoints are among the points and
    have excess 0, so it is never negative. For a simplex it is a lower bound of the supremum.
    It is infinite where any value is infinite or no number.

    Attributes:
        kind: ``pair`` or ``simplex``.
        networks: the names that the weights of the points refer to.
        alignment: ``naive`` or ``aligned``; a label.
        calibration: what was re-estimated at every point, the endpoints included.
        split: where the values were measured.
        metric: ``loss`` or ``error``.
        barrier: the highest excess, in the unit of the metric.
        argmax: the weights of the first point that has it.
        spoke: whether the pair contains the reference; None for a simplex or without a reference.
        points: every point measured.
    """

    kind: Kind
    networks: tuple[str, ...]
    alignment: str
    calibration: str
    split: str
    metric: str
    barrier: float
    argmax: Weights
    spoke: bool | None
    points: tuple[Point, ...]

    @property
    def excesses(self) -> tuple[float, ...]:
        """The excess of every point, in order; may be negative."""
        vertices = _vertex_values(self.points, len(self.networks))
        return tuple(excess(point.weights, point.value, vertices) for point in self.points)

    @property
    def barycentre(self) -> float | None:
        """The excess where all weights are equal, negative or not; None if it is no point."""
        centre = barycentre(len(self.networks))
        values = zip(self.points, self.excesses, strict=True)
        return next((value for point, value in values if point.weights == centre), None)


def excess(weights: Sequence[float], value: float, vertices: Sequence[float]) -> float:
    """Return how far `value` is above the mix of the endpoints' values; below is negative.

    Args:
        weights: one per network, summing to 1.
        value: the value of the mixed network.
        vertices: the value of each network alone.

    Returns:
        The excess, or infinity when any of the values is infinite or no number.
    """
    if not all(map(math.isfinite, (value, *vertices))):
        return math.inf
    # Term by term, so that it is exactly 0 at the endpoints and where all the values are equal.
    return math.fsum(w * (value - v) for w, v in zip(weights, vertices, strict=True))


def from_points(
    points: Iterable[Point],
    *,
    kind: Kind,
    networks: Sequence[str],
    alignment: str,
    calibration: str,
    split: str,
    metric: str,
    spoke: bool | None = None,
) -> Barrier:
    """Return the barrier that `points` show; see `Barrier` for the arguments.

    Raises:
        EvaluationError: an endpoint is missing among the points.
    """
    points = tuple(points)
    vertices = _vertex_values(points, len(networks))
    highest, argmax = 0.0, vertex(len(networks), 0)
    for point in points:
        height = excess(point.weights, point.value, vertices)
        if height > highest:
            highest, argmax = height, point.weights
    return Barrier(
        kind=kind,
        networks=tuple(networks),
        alignment=alignment,
        calibration=calibration,
        split=split,
        metric=metric,
        barrier=highest,
        argmax=argmax,
        spoke=spoke,
        points=points,
    )


def _vertex_values(points: Sequence[Point], n: int) -> tuple[float, ...]:
    values = {point.weights: point.value for point in points}
    for index in range(n):
        if vertex(n, index) not in values:
            raise EvaluationError(
                "the points of a barrier must include every endpoint; "
                f"{vertex(n, index)} is missing"
            )
    return tuple(values[vertex(n, index)] for index in range(n))
