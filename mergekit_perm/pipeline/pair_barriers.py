"""The barrier between two networks that are in memory, for what a run measures beside its own."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from mergekit_perm import evaluate
from mergekit_perm.pipeline.inputs import digest
from mergekit_perm.pipeline.stages import measure_kept, read_points
from mergekit_perm.pipeline.workshop import State, Workshop
from mergekit_perm.progress import silent

Heights = dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True)
class Place:
    """Which of the pairs of a stage is measured.

    Attributes:
        stage: its name.
        key: its content key.
        which: tells the pair from others of the stage.
    """

    stage: str
    key: str
    which: tuple[Hashable, ...]

    @property
    def points_key(self) -> str:
        """The key that points of the pair are kept by until the stage is finished."""
        return digest(self.key, *map(str, self.which))


def pair_barriers(
    place: Place, pair: Mapping[str, State], points: int, calibration: str, shop: Workshop
) -> Heights:
    """Return the barrier of a pair by split and metric.

    Points are kept as soon as they are measured, so that a run that is killed goes on from there.

    Args:
        place: the stage, and which of its pairs this is.
        pair: the two networks.
        points: on the line between them, both ends included.
        calibration: of mixtures.
        shop: where to work.
    """
    names = tuple(pair)
    (path,) = evaluate.paths_between(names, "all", reference=None, points=points, simplex=None)
    engine = shop.engine_for((place, calibration), lambda: pair, calibration)
    wanted = list(path.points(names))
    found = measure_kept(place.stage, place.points_key, engine, wanted, "", shop, progress=silent)
    values = read_points(found["points"])
    return {
        split: {
            metric: path.barrier(names, values, calibration, split, metric, "aligned").barrier
            for metric in evaluate.METRICS
        }
        for split in shop.inputs.splits
    }
