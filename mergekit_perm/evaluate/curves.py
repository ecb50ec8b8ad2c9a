"""Metrics along paths and over simplexes, and the barriers they show."""

from __future__ import annotations

import itertools
import math
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from mergekit_perm.devices import device as find_device
from mergekit_perm.errors import EvaluationError
from mergekit_perm.evaluate.barriers import Barrier
from mergekit_perm.evaluate.batch_norms import has_batch_norm
from mergekit_perm.evaluate.calibration import (
    effective_calibration,
    known_calibration,
    other_temperature,
)
from mergekit_perm.evaluate.engine import Engine
from mergekit_perm.evaluate.metrics import METRICS, Metrics
from mergekit_perm.evaluate.pairs import known
from mergekit_perm.evaluate.paths import paths_between
from mergekit_perm.evaluate.points import Weights, refining
from mergekit_perm.evaluate.precision import Precision
from mergekit_perm.evaluate.search import height, search_simplex
from mergekit_perm.evaluate.team import Team
from mergekit_perm.progress import Progress, silent
from mergekit_perm.weighted import State

if TYPE_CHECKING:
    from mergekit_perm.data import Data, Split

Found = dict[Weights, dict[str, Metrics]]


def evaluate_points(
    module: nn.Module,
    states: Sequence[State],
    weights: Sequence[Weights],
    splits: Mapping[str, Split],
    *,
    train_split: Split | None = None,
    calibration: str = "none",
    device: str | torch.device = "cpu",
    batch_size: int | None = None,
    precision: Precision = "float32",
    progress: Progress = silent,
    task: str = "evaluating",
) -> list[dict[str, Metrics]]:
    """Return the metrics of each mix of `states`, by split.

    Points are measured in an order that refines: the networks themselves, then always the point
    that is farthest from them and from all before.

    Args:
        module: the architecture; it is copied, and neither it nor the states are changed.
        states: the networks, state dicts with the module's tensors.
        weights: one tuple per point, with one weight per network.
        splits: what to measure on, by name.
        train_split: what to calibrate on; not needed for ``none``.
        calibration: a name in `CALIBRATIONS`, applied at every point, the networks themselves
            included.
        device: where to evaluate; holds all the networks at once.
        batch_size: examples at a time; None for what suits the device (512 to calibrate with).
            Halved as often as it takes if memory runs out, with a warning while calibrating.
        precision: a name in `PRECISIONS`.
        progress: called as `progress(task, points done, points, note)`, as in `measure_points`.
        task: what to call this in `progress`.

    Raises:
        EvaluationError: networks that do not fit the module or one another, or what `measure`
            and `calibrate` refuse.
    """
    engine = Engine(
        module, states, splits, train_split=train_split, calibration=calibration,
        device=torch.device(device), batch_size=batch_size, precision=precision,
    )  # fmt: skip
    return measure_points(engine, weights, progress=progress, task=task)


def measure_points(
    engine: Engine | Team,
    weights: Sequence[Weights],
    *,
    known: Mapping[Weights, dict[str, Metrics]] | None = None,
    ends: Mapping[Weights, dict[str, Metrics]] | None = None,
    keep: Callable[[Weights, dict[str, Metrics]], None] | None = None,
    progress: Progress = silent,
    task: str = "evaluating",
) -> list[dict[str, Metrics]]:
    """Return the metrics of each mix, as `evaluate_points` does, by an engine that is there.

    Args:
        engine: of the networks, or a team of engines on several devices.
        weights: one tuple per point.
        known: what is known of some points already; they are not measured again.
        ends: what is known of the networks themselves, where they are not among the points.
        keep: called with every point that has been measured, as soon as it is.
        progress: called as `progress(task, points done, points, note)`; the note says how high the
            loss of the first split has been above the mix of the networks' own so far.
        task: what to call this in `progress`.
    """
    points = list(dict.fromkeys(weights[place] for place in refining(weights)))
    wanted = set(points)
    found = {point: metrics for point, metrics in (known or {}).items() if point in wanted}
    missing = [point for point in points if point not in found]
    everything = ChainMap(found, dict(ends or {}))
    highest = -math.inf
    each = itertools.chain(list(found.items()), engine.each(missing))
    for done, (point, metrics) in enumerate(each, start=1):
        if point not in found:
            found[point] = metrics
            if keep is not None:
                keep(point, metrics)
        highest = max(highest, height(point, everything))
        note = [] if highest == -math.inf else [f"highest excess {highest:.4f}"]
        progress(task, done, len(points), *note)
    return [found[point] for point in weights]


def barrier(
    states: Mapping[str, State],
    module: nn.Module,
    data: Data,
    *,
    points: int = 25,
    pairs: str | Sequence[Sequence[str]] = "all",
    simplex: int | None = None,
    samples: int = 0,
    search: int = 0,
    seed: int = 0,
    splits: Sequence[str] | None = None,
    calibration: str | Sequence[str] = "none",
    reference: str | None = None,
    alignment: str = "naive",
    device: str | torch.device = "auto",
    batch_size: int | None = None,
    precision: Precision = "float32",
    progress: Progress = silent,
    task: str = "measuring barriers",
) -> tuple[Barrier, ...]:
    """Return the barriers between `states`: every pair, then the simplex, for every choice.

    Each is measured for every calibration, split and metric (loss, then error). A point that
    several pairs or the simplex share is evaluated once, the networks themselves among them. The
    points of the simplex are its grid, the barycentre, and all points of the pairs, so that its
    barrier is at least that of each pair.

    Args:
        states: the networks by name, state dicts of one architecture. Aligning them is not done
            here: `alignment` only labels the result.
        module: the architecture; it is copied and stays as it is.
        data: its splits are measured; ``train`` is what ``batch_norm`` and ``repair`` look at.
        points: points per path, both ends included.
        pairs: ``all``, ``none``, ``spokes``, ``far_edges``, or a list of pairs of names.
        simplex: steps per edge of the simplex over all networks; None leaves it out.
        samples: random points of the simplex besides, uniformly distributed.
        search: how many points to measure besides where the loss of the first split may be highest;
            see `search_simplex`.
        seed: of the random points.
        splits: the names of the splits to measure, or None for all.
        calibration: one or more names in `CALIBRATIONS`; ``repair`` and ``repair+temperature`` are
            measured in one pass, and so are others of which one adds the temperature. Without
            BatchNorm in the module, ``batch_norm`` has nothing to do and gives the values of
            ``none``.
        reference: the network that pairs are spokes of; None or ``joint`` for no network.
        alignment: what the result says under `Barrier.alignment`.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``; holds all networks at once.
        batch_size: examples at a time; None for what suits the device (512 to calibrate with).
            Halved as often as it takes if memory runs out, with a warning while calibrating.
        precision: a name in `PRECISIONS`.
        progress: called as `progress(task, points done, points, note)` per calibration.
        task: what to call this in `progress`.

    Raises:
        EvaluationError: fewer than two networks, unknown names, networks that do not fit, a device
            that is not there, or points inside a simplex without a simplex.
    """
    names = tuple(states)
    if simplex is None and (samples or search):
        raise EvaluationError("`samples` and `search` are points of a simplex: give `simplex` too")
    paths = paths_between(
        names, pairs, reference=reference, points=points, simplex=simplex, samples=samples,
        seed=seed,
    )  # fmt: skip
    chosen = _splits(data, splits)
    calibrations = [calibration] if isinstance(calibration, str) else list(calibration)
    place, has_norm = find_device(device), has_batch_norm(module)
    effective = {
        name: effective_calibration(known_calibration(name), batch_norm=has_norm)
        for name in calibrations
    }
    needed = list(dict.fromkeys(point for path in paths for point in path.points(names)))
    values: dict[str, Found] = {}
    beside: dict[str, Found] = {}
    for name in dict.fromkeys(effective.values()):
        if name in beside and not search:
            values[name] = beside[name]
            progress(task, len(needed), len(needed))
            continue
        other = other_temperature(name)
        engine = Engine(
            module, list(states.values()), chosen, train_split=data.splits.get("train"),
            calibration=name, device=place, batch_size=batch_size, precision=precision,
            both=other in effective.values() and other not in values,
        )  # fmt: skip
        values[name], beside[other] = _measured(engine, needed, beside.get(name), progress, task)
        if simplex is not None and search:
            values[name] |= search_simplex(
                engine, values[name], grid=simplex, count=search, progress=progress
            )
    return tuple(
        path.with_all(values[done]).barrier(names, values[done], name, split, metric, alignment)
        for path in paths
        for name, done in ((name, effective[name]) for name in calibrations)
        for split in chosen
        for metric in METRICS
    )


def _measured(
    engine: Engine, points: Sequence[Weights], known: Found | None, progress: Progress, task: str
) -> tuple[Found, Found]:
    """Return what an engine measures at `points`, and what it measures beside that."""
    metrics = measure_points(engine, points, known=known, progress=progress, task=task)
    beside = ((point, engine.beside(point)) for point in points)
    return (
        dict(zip(points, metrics, strict=True)),
        {point: found for point, found in beside if found is not None},
    )


def _splits(data: Data, names: Sequence[str] | None) -> dict[str, Split]:
    there = tuple(data.splits)
    wanted = there if names is None else [known(name, there, what="split") for name in names]
    return {name: data.splits[name] for name in wanted}
