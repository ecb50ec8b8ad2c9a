"""The matrix of barriers: permutations found at one checkpoint of sequences, applied at another.

A row is where permutations are found, a column where they are applied and the barriers of pairs
measured; beside it are the barriers without permutations (arXiv 2404.06498, section 4).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from mergekit_perm import evaluate
from mergekit_perm.pipeline.checkpoint_alignments import alignment_at
from mergekit_perm.pipeline.inputs import Inputs, calibrations, digest
from mergekit_perm.pipeline.keys import (
    Weights,
    evaluation_key,
    networks_key,
    permutations_key,
)
from mergekit_perm.pipeline.stage import Stage
from mergekit_perm.pipeline.stages import measure_kept, read_points
from mergekit_perm.pipeline.workshop import Result, State, Workshop
from mergekit_perm.spec.fields import PRUNED
from mergekit_perm.spec.models import MatrixSpec
from mergekit_perm.spec.sequences import end_of


def matrix_stages(inputs: Inputs) -> Iterator[Stage]:
    """Yield the stages that measure barriers at checkpoints."""
    settings = _settings(inputs)
    if settings is None:
        return
    spec = inputs.spec
    rows = spec.chosen_steps(settings.found_at)
    points = _points(inputs, settings)
    for calibration, row, applied in itertools.product(
        calibrations(inputs), (None, *rows), spec.chosen_steps(settings.applied_at)
    ):
        name = _name(calibration, row, applied)
        which = networks_key(inputs, applied)
        if row is not None:
            which = digest(permutations_key(inputs, [row]), which)
        key = evaluation_key(inputs, which, calibration, points)
        placed = "no permutation" if row is None else f"permutations of {row}"
        task = f"evaluating {applied}, {placed}"
        task += "" if calibration == "none" else f", {calibration}"
        work = partial(_measure, name, key, calibration, row, applied, points, task)
        yield Stage(name, f"{task}: {len(points)} points", key, (), work)


def count_points(inputs: Inputs) -> int:
    """Return how many mixtures the matrix takes."""
    settings = _settings(inputs)
    if settings is None:
        return 0
    rows, columns = map(inputs.spec.chosen_steps, (settings.found_at, settings.applied_at))
    points = len(_points(inputs, settings))
    return len(calibrations(inputs)) * (len(rows) + 1) * len(columns) * points


def matrices(inputs: Inputs, results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the matrix of every pair, calibration, split and metric, from the results."""
    settings = _settings(inputs)
    if settings is None:
        return []
    names = list(inputs.spec.networks)
    rows, columns = map(inputs.spec.chosen_steps, (settings.found_at, settings.applied_at))
    found = []
    for calibration in calibrations(inputs):
        values = {
            (row, applied): read_points(results[_name(calibration, row, applied)]["points"])
            for row, applied in itertools.product((None, *rows), columns)
        }
        for path, split, metric in itertools.product(
            _paths(inputs, settings), inputs.splits, evaluate.METRICS
        ):
            heights = {
                place: path.barrier(names, measured, calibration, split, metric, "aligned").barrier
                for place, measured in values.items()
            }
            found.append({
                "networks": path.networks, "calibration": calibration, "split": split,
                "metric": metric, "found_at": rows, "applied_at": columns,
                "end": end_of(inputs.spec.steps),
                "naive": [heights[None, applied] for applied in columns],
                "barriers": [[heights[row, applied] for applied in columns] for row in rows],
            })  # fmt: skip
    return found


def checkpoints(
    inputs: Inputs, results: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return how every checkpoint that the matrix has a column of does as it is, by network."""
    settings = _settings(inputs)
    if settings is None:
        return {}
    found: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in inputs.spec.networks}
    for step in inputs.spec.chosen_steps(settings.applied_at):
        points = results[_name(calibrations(inputs)[0], None, step)]["points"]
        # The networks themselves are the first points.
        for name, point in zip(found, points, strict=False):
            kept = 1.0
            if step.startswith(PRUNED):
                levels = [s for s in inputs.spec.steps_of(name) if s.startswith(PRUNED)]
                kept = results[f"prune/{name}"]["kept"][levels.index(step)]
            found[name][step] = {"kept": kept, "metrics": point["metrics"]}
    return found


def _settings(inputs: Inputs) -> MatrixSpec | None:
    evaluating, aligning = inputs.spec.evaluate, inputs.permutations
    return None if evaluating is None or aligning is None else evaluating.matrix


def _name(calibration: str, row: str | None, applied: str) -> str:
    return f"matrix/{calibration}/{'naive' if row is None else row}/{applied}"


def _paths(inputs: Inputs, settings: MatrixSpec) -> list[evaluate.Path]:
    spec = inputs.spec
    return evaluate.paths_between(
        tuple(spec.networks), spec.pairs, reference=None, points=settings.points, simplex=None
    )


def _points(inputs: Inputs, settings: MatrixSpec) -> list[Weights]:
    """Return the mixtures on all pairs, each once, the networks themselves first."""
    names = list(inputs.spec.networks)
    ends = (evaluate.vertex(len(names), place) for place in range(len(names)))
    inner = (point for path in _paths(inputs, settings) for point in path.points(names))
    return list(dict.fromkeys([*ends, *inner]))


# ----------------------------------------------------------------------------------------- work


def _measure(
    name: str,
    key: str,
    calibration: str,
    row: str | None,
    applied: str,
    points: Sequence[Weights],
    task: str,
    shop: Workshop,
) -> Result:
    """Measure mixtures of the networks at `applied`, permuted as found at `row`, if that is any."""
    networks = partial(_placed, row, applied, shop)
    engine = partial(shop.engine_for, (row, applied, calibration), networks, calibration)
    return measure_kept(name, key, engine, points, task, shop)


def _placed(row: str | None, applied: str, shop: Workshop) -> dict[str, State]:
    family = shop.checkpoints_of(applied)
    if row is None:
        return family
    return {name: alignment_at(name, row, shop).apply(state) for name, state in family.items()}
