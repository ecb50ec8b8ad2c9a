"""The barrier between two networks that are in memory, for what a run measures beside its own."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import partial

from mergekit_perm import evaluate
from mergekit_perm.pipeline.inputs import digest
from mergekit_perm.pipeline.stages import Beside, measure_kept, read_points, unfinished
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
        beside: name and key of the stage that measures the same pairs with the temperature, or
            without it, if there is one.
    """

    stage: str
    key: str
    which: tuple[Hashable, ...]
    beside: Beside = None

    def kept_by(self, key: str) -> str:
        """Return the key that points of the pair are kept by until a stage with `key` is done."""
        return digest(key, *map(str, self.which))


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
    other = unfinished(place.beside, shop)
    beside = other and (other[0], place.kept_by(other[1]))
    engine = partial(
        shop.engine_for, (place, calibration), lambda: pair, calibration, both=beside is not None
    )
    found = measure_kept(
        place.stage,
        place.kept_by(place.key),
        engine,
        list(path.points(names)),
        "",
        shop,
        beside=beside,
        progress=silent,
    )
    values = read_points(found["points"])
    return {
        split: {
            metric: path.barrier(names, values, calibration, split, metric, "aligned").barrier
            for metric in evaluate.METRICS
        }
        for split in shop.inputs.splits
    }
