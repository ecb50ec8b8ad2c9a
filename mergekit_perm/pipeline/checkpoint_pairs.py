"""Barriers of the pairs that name checkpoints of sequences, as in ``[a@5, b@end]``.

Between checkpoints of one network the path is that of its own training (arXiv 1912.05671); between
those of two networks each is permuted as its network was aligned.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from mergekit_perm import evaluate
from mergekit_perm.evaluate import Barrier
from mergekit_perm.pipeline.inputs import Inputs, alignments, calibrations, digest
from mergekit_perm.pipeline.keys import Weights, evaluation_key, family_key, network_key
from mergekit_perm.pipeline.stage import Stage
from mergekit_perm.pipeline.stages import measure_kept, read_points
from mergekit_perm.pipeline.workshop import Result, Workshop


def checkpoint_pair_stages(inputs: Inputs) -> Iterator[Stage]:
    """Yield the stages that measure pairs of checkpoints, naive and aligned."""
    for path, alignment, calibration in _measured(inputs):
        points = list(path.points(path.networks))
        name = _name(path.networks, alignment, calibration)
        key = evaluation_key(inputs, _key(inputs, path.networks, alignment), calibration, points)
        task = f"evaluating {'+'.join(path.networks)}, {alignment}"
        task += "" if calibration == "none" else f", {calibration}"
        work = partial(_measure, name, key, path.networks, alignment, calibration, points, task)
        yield Stage(name, f"{task}: {len(points)} points", key, (), work)


def checkpoint_barriers(
    inputs: Inputs, results: Mapping[str, Mapping[str, Any]]
) -> Iterator[Barrier]:
    """Yield the barrier of every such pair, calibration, split and metric."""
    for path, alignment, calibration in _measured(inputs):
        name = _name(path.networks, alignment, calibration)
        values = read_points(results[name]["points"])
        for split, metric in itertools.product(inputs.splits, evaluate.METRICS):
            yield path.barrier(path.networks, values, calibration, split, metric, alignment)


def count_points(inputs: Inputs) -> int:
    """Return how many mixtures these pairs take."""
    return sum(len(path.weights) for path, _, _ in _measured(inputs))


def _measured(inputs: Inputs) -> Iterator[tuple[evaluate.Path, str, str]]:
    """Yield the path of every pair with how its networks are placed, and the calibration."""
    settings = inputs.spec.evaluate
    if settings is None:
        return
    for alignment, calibration, pair in itertools.product(
        alignments(inputs), calibrations(inputs), inputs.spec.checkpoint_pairs
    ):
        (path,) = evaluate.paths_between(
            pair, "all", reference=None, points=settings.points, simplex=None
        )
        yield path, alignment, calibration


def _name(pair: Sequence[str], alignment: str, calibration: str) -> str:
    return f"checkpoints/{alignment}/{calibration}/{'+'.join(pair)}"


def _key(inputs: Inputs, pair: Sequence[str], alignment: str) -> str:
    family = family_key(inputs, alignment) if alignment == "aligned" else ""
    own = (network_key(inputs, *inputs.spec.checkpoint_named(name)) for name in pair)
    return digest(family, *own)


def _measure(
    name: str,
    key: str,
    pair: Sequence[str],
    alignment: str,
    calibration: str,
    points: Sequence[Weights],
    task: str,
    shop: Workshop,
) -> Result:
    networks = partial(shop.named, pair, alignment)
    which = tuple(pair), alignment, calibration
    engine = partial(shop.engine_for, which, networks, calibration)
    return measure_kept(name, key, engine, points, task, shop)
