"""Figures that sum up the barriers of one report."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from mergekit_perm.report.model import Barrier, Calibrated, Composition, Matrix, Report


@dataclass(frozen=True, slots=True)
class Case:
    """One way to look at the barriers: what was measured, where, after which calibration."""

    split: str
    metric: str
    calibration: str


@dataclass(frozen=True, slots=True)
class Row:
    """One pair or simplex in one case: without alignment, and with it where there was one."""

    case: Case
    kind: str
    networks: tuple[str, ...]
    spoke: bool | None
    naive: Barrier | None
    aligned: Barrier | None

    @property
    def label(self) -> str:
        """Return "a - b", or "simplex of 3"; names have dashes, but no spaces."""
        if self.kind == "simplex":
            return f"simplex of {len(self.networks)}"
        return " - ".join(self.networks)


@dataclass(frozen=True, slots=True)
class Figure:
    """One number that sums up the barriers of a case, without alignment and with it."""

    label: str
    naive: float | None
    aligned: float | None


def calibration_words(calibrated: Calibrated) -> str:
    """Return what was re-estimated in a merged network, as the end of a sentence."""
    layers = {
        "batch_norm": "its BatchNorm statistics were estimated again on the training inputs",
        "repair": "its channels were given the means and deviations of the networks (REPAIR)",
    }
    words = [words for step, words in layers.items() if step in calibrated.name]
    if calibrated.split is not None:
        logits = f"its logits were multiplied by {calibrated.scale:.4g}, the best on "
        if calibrated.scale == 1.0:
            logits = "its logits were left as they are, as no temperature is best on "
        words.append(f"{logits}{calibrated.split}")
    return " and ".join(words)


def rows(report: Report) -> list[Row]:
    """Return every pair, then every simplex, of every case, in the order of the report."""
    found: dict[tuple[Case, str, tuple[str, ...]], dict[str, Barrier]] = {}
    for barrier in report.barriers:
        case = Case(barrier.split, barrier.metric, barrier.calibration)
        place = found.setdefault((case, barrier.kind, barrier.networks), {})
        place[barrier.alignment] = barrier
    return [
        Row(
            case,
            kind,
            networks,
            next(iter(both.values())).spoke,
            both.get("naive"),
            both.get("aligned"),
        )
        for (case, kind, networks), both in found.items()
    ]


def cases(report: Report) -> list[Case]:
    """Return the cases of a report, each once, in order."""
    return list(dict.fromkeys(row.case for row in rows(report)))


def figures(rows: Sequence[Row]) -> list[Figure]:
    """Return what sums up the rows of one case; none for a single pair, which says it all.

    With a reference, spokes and far edges are apart: only spokes were matched to one another.
    """
    pairs = [row for row in rows if row.kind == "pair"]
    simplexes = [row for row in rows if row.kind == "simplex"]
    found = []
    if any(row.spoke is not None for row in pairs):
        for label, spoke in (("worst spoke", True), ("worst far edge", False)):
            if members := [row for row in pairs if row.spoke is spoke]:
                found.append(_figure(label, worst, members))
    elif len(pairs) > 1:
        found.append(_figure("worst pair", worst, pairs))
    if len(pairs) > 1:
        found.append(_figure("mean pair", mean, pairs))
    if simplexes:
        found.append(_figure("barycentre", _first_barycentre, simplexes))
    return found


def others(report: Report, case: Case) -> dict[str, float]:
    """Return all figures of one case that are neither of a pair nor of a simplex, by label."""
    return {**composed(report, case), **controls(report, case), **masks(report, case)}


def other_cases(report: Report) -> list[Case]:
    """Return the cases that `others` has figures of, each once."""
    found = [Case(c.split, c.metric, c.calibration) for c in report.compositions]
    found += [Case(c.split, c.metric, c.calibration) for c in report.controls]
    found += [
        Case(split, metric, "none")
        for each in report.transported
        for training in each.trainings[:1]
        for split in training
        for metric in ("loss", "error")
    ]
    return list(dict.fromkeys(found))


def controls(report: Report, case: Case) -> dict[str, float]:
    """Return the highest barrier of every kind of control of one case, by kind."""
    found: dict[str, float] = {}
    for each in report.controls:
        if Case(each.split, each.metric, each.calibration) == case:
            found[each.kind] = max(found.get(each.kind, -math.inf), each.barrier)
    return found


def masks(report: Report, case: Case) -> dict[str, float]:
    """Return the mean of networks trained under every kind of mask and level, by label.

    As in ``permuted mask at prune3``.
    """
    found: dict[str, list[float]] = {}
    for each in report.transported if case.calibration == "none" else ():
        values = [getattr(run[case.split], case.metric) for run in each.trainings]
        found.setdefault(f"{each.mask} mask at {each.level}", []).extend(values)
    return {label: math.fsum(values) / len(values) for label, values in found.items()}


def compositions(report: Report, case: Case) -> list[Composition]:
    """Return the paths and cycles of one case, in the order of the report."""
    return [c for c in report.compositions if Case(c.split, c.metric, c.calibration) == case]


def composed(report: Report, case: Case) -> dict[str, float]:
    """Return the mean barrier of every kind of path and cycle of one case, by label.

    ``path of 2`` is of composed permutations, ``ends of path of 2`` of the run's own alignment of
    the same ends.
    """
    found: dict[str, list[float]] = {}
    for each in compositions(report, case):
        found.setdefault(each.label, []).append(each.barrier)
        if each.aligned is not None:
            found.setdefault(f"ends of {each.label}", []).append(each.aligned)
    return {label: math.fsum(values) / len(values) for label, values in found.items()}


def kept(report: Report, matrix: Matrix) -> tuple[float, ...]:
    """Return the share of weights that is left at every step that `matrix` has a column of."""
    shares = []
    for step in matrix.applied_at:
        steps = [report.checkpoints.get(name, {}).get(step) for name in matrix.networks]
        known = [each.kept for each in steps if each is not None]
        shares.append(math.fsum(known) / len(known) if known else 1.0)
    return tuple(shares)


def worst_pair(rows: Iterable[Row], alignment: str) -> Barrier | None:
    """Return the highest barrier of a pair, or None when there is none."""
    pairs = [getattr(row, alignment) for row in rows if row.kind == "pair"]
    return max((b for b in pairs if b is not None), key=lambda b: b.barrier, default=None)


def excesses(barrier: Barrier) -> list[float]:
    """Return how far each point is above the mix of the networks' own values; may be negative."""
    ends = list(_ends(barrier))
    if not all(map(math.isfinite, ends)):
        return [math.inf] * len(barrier.points)
    return [
        math.fsum(w * (p.value - v) for w, v in zip(p.weights, ends, strict=True))
        if math.isfinite(p.value)
        else math.inf
        for p in barrier.points
    ]


def barycentre(barrier: Barrier) -> float | None:
    """Return the excess where all weights are equal; None where it was not measured."""
    share = 1 / len(barrier.networks)
    for point, height in zip(barrier.points, excesses(barrier), strict=True):
        if all(math.isclose(weight, share, abs_tol=1e-12) for weight in point.weights):
            return height
    return None


def worst(barriers: Iterable[Barrier | None]) -> float | None:
    """Return the highest of `barriers`, or None when there is none."""
    return max((barrier.barrier for barrier in barriers if barrier is not None), default=None)


def mean(barriers: Iterable[Barrier | None]) -> float | None:
    """Return the mean of `barriers`, or None when there is none."""
    values = [barrier.barrier for barrier in barriers if barrier is not None]
    return math.fsum(values) / len(values) if values else None


def _figure(
    label: str, sum_up: Callable[[Iterable[Barrier | None]], float | None], rows: Sequence[Row]
) -> Figure:
    return Figure(label, sum_up([row.naive for row in rows]), sum_up([row.aligned for row in rows]))


def _first_barycentre(barriers: Iterable[Barrier | None]) -> float | None:
    return next((barycentre(barrier) for barrier in barriers if barrier is not None), None)


def _ends(barrier: Barrier) -> Iterator[float]:
    for place in range(len(barrier.networks)):
        yield next(point.value for point in barrier.points if point.weights[place] == 1.0)
