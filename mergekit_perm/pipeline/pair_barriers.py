"""The barrier between two networks that are in memory, for what a run measures beside its own."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from mergekit_perm import evaluate
from mergekit_perm.pipeline.workshop import State, Workshop

Heights = dict[str, dict[str, float]]


def pair_barriers(
    which: Hashable, pair: Mapping[str, State], points: int, calibration: str, shop: Workshop
) -> Heights:
    """Return the barrier of a pair by split and metric.

    Args:
        which: tells these networks and the calibration from others.
        pair: the two networks.
        points: on the line between them, both ends included.
        calibration: of mixtures.
        shop: where to work.
    """
    names = tuple(pair)
    (path,) = evaluate.paths_between(names, "all", reference=None, points=points, simplex=None)
    engine = shop.engine_for(which, lambda: pair, calibration)
    values = {point: engine.measure(point) for point in path.points(names)}
    return {
        split: {
            metric: path.barrier(names, values, calibration, split, metric, "aligned").barrier
            for metric in evaluate.METRICS
        }
        for split in shop.inputs.splits
    }
