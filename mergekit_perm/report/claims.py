"""Claims: what a sweep is to show, and whether its runs show it.

A claim bounds a barrier by a number, or by a multiple of another barrier. The margin of a run is
the barrier less its bound. Of the margins of all sets of seeds there is a 95 % t-interval: a claim
holds if all of it is on the right side of 0, and fails if all of it is on the wrong one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mergekit_perm.errors import RunError, suggest
from mergekit_perm.report import summaries
from mergekit_perm.report.intervals import Mean, mean
from mergekit_perm.report.model import Matrix, Report
from mergekit_perm.report.plain_data import plain
from mergekit_perm.report.repeats import Repeats, same_seeds
from mergekit_perm.report.summaries import Case

Verdict = Literal["holds", "fails", "not distinguishable", "not measured"]

WITHOUT = "none"
"""Where permutations are found that are none: the row of a matrix without."""


@dataclass(frozen=True, slots=True)
class Height:
    """Which barrier of a run: a line of its report, or cells of its matrix.

    Attributes:
        figure: the label of the line, such as ``worst far edge`` or ``simplex``; ``pair`` is the
            highest of all pairs. None where it is of the matrix.
        alignment: ``naive`` or ``aligned``, of a line that has both; None is aligned.
        found_at: rows of the matrix; ``none`` is the row without permutations, ``all`` all others,
            ``end`` that of the networks themselves.
        applied_at: columns of the matrix. Of several cells the highest counts.
    """

    figure: str | None = None
    alignment: str | None = None
    found_at: tuple[str, ...] = ()
    applied_at: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.figure is not None:
            return ", ".join(filter(None, (self.figure, self.alignment)))
        return f"found at {', '.join(self.found_at)}, applied at {', '.join(self.applied_at)}"


@dataclass(frozen=True, slots=True)
class Claim:
    """A bound on a barrier.

    Attributes:
        text: the claim in words.
        value: the barrier.
        upper: whether the bound is the most it may be; otherwise the least.
        bound: a number, in nats or as a share; or what `of` is multiplied by.
        of: the barrier that bounds it, or None.
        of_run: the label of the variation that `of` is a barrier of, seeds by seeds; None is the
            same one.
        runs: the labels of the variations that it is about; None is all.
    """

    text: str
    value: Height
    upper: bool
    bound: float
    of: Height | None
    of_run: str | None
    metric: str
    split: str
    calibration: str
    runs: tuple[str, ...] | None

    def to_json(self) -> dict[str, Any]:
        """Return the claim as plain data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Claim:
        """Return the claim that `to_json` has made plain."""
        given = {**data, "value": _height(data["value"])}
        given["of"] = None if data["of"] is None else _height(data["of"])
        given["runs"] = None if data["runs"] is None else tuple(data["runs"])
        return cls(**given)


@dataclass(frozen=True, slots=True)
class Finding:
    """What the runs of one variation say about a claim.

    Attributes:
        run: the label of the variation.
        value: the barrier, over runs.
        bound: what bounds it, over runs.
        margin: by how much the barrier is above its bound, over runs.
        note: why it was not measured, if it was not.
    """

    claim: Claim
    run: str
    value: Mean
    bound: Mean
    margin: Mean
    verdict: Verdict
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the finding as plain data."""
        found: dict[str, Any] = plain(
            {
                "claim": self.claim.text,
                "run": self.run,
                "verdict": self.verdict,
                "value": dataclasses.asdict(self.value),
                "bound": dataclasses.asdict(self.bound),
                "margin": dataclasses.asdict(self.margin),
                "note": self.note,
            }
        )
        return found


def findings(claims: Sequence[Claim], groups: Sequence[Repeats]) -> list[Finding]:
    """Return what runs say about every claim, variation by variation.

    What a claim is about may not have been measured; the finding then says why.

    Args:
        claims: about the runs.
        groups: the runs by variation, those that differ by seeds together.
    """
    by_label = {group.name: group for group in groups}
    return [
        _finding(claim, group, by_label)
        for claim in claims
        for group in groups
        if claim.runs is None or group.name in claim.runs
    ]


def _finding(claim: Claim, group: Repeats, by_label: Mapping[str, Repeats]) -> Finding:
    try:
        values = [_measured(claim.value, claim, report) for report in group.reports]
        bounds = _bounds(claim, group, by_label)
    except RunError as error:
        nothing = mean([math.nan])
        return Finding(claim, group.name, nothing, nothing, nothing, "not measured", str(error))
    margin = mean([a - b for a, b in zip(values, bounds, strict=True)])
    verdict = _verdict(margin, upper=claim.upper)
    return Finding(claim, group.name, mean(values), mean(bounds), margin, verdict)


def _bounds(claim: Claim, group: Repeats, by_label: Mapping[str, Repeats]) -> list[float]:
    """Return the bound for every run of `group`."""
    if claim.of is None:
        return [claim.bound] * len(group.reports)
    others = group.reports
    if claim.of_run is not None:
        other = by_label.get(claim.of_run)
        pairs = None if other is None else same_seeds(group, other)
        if other is None or pairs is None:
            raise RunError(f"there are no runs '{claim.of_run}' of the same seeds to compare with")
        others = tuple(other.reports[place] for _, place in pairs)
    return [claim.bound * _measured(claim.of, claim, report) for report in others]


def _verdict(margin: Mean, *, upper: bool) -> Verdict:
    """Return whether the interval of `margin` is on the right side of 0."""
    if margin.half is None:
        return "not distinguishable"
    low, high = margin.value - margin.half, margin.value + margin.half
    if not upper:
        low, high = -high, -low
    return "holds" if high <= 0 else "fails" if low > 0 else "not distinguishable"


def _measured(height: Height, claim: Claim, report: Report) -> float:
    case = Case(claim.split, claim.metric, claim.calibration)
    if height.figure is None:
        return _in_matrix(height, case, report)
    rows = [row for row in summaries.rows(report) if row.case == case]
    alignment = height.alignment or "aligned"
    lines: dict[str, float | None] = {}
    for row in rows:
        barrier = getattr(row, alignment)
        lines[row.label] = None if barrier is None else barrier.barrier
    lines |= {each.label: getattr(each, alignment) for each in summaries.figures(rows)}
    lines |= summaries.others(report, case)
    for kind in ("pair", "simplex"):
        of_kind = (getattr(row, alignment) for row in rows if row.kind == kind)
        lines[kind] = summaries.worst(of_kind)
    value = lines.get(height.figure)
    if value is None:
        known = [label for label, value in lines.items() if value is not None]
        raise RunError(
            f"{report.name} has no '{height}' of {_words(case)}{suggest(height.figure, known)}; "
            f"there is {', '.join(known) or 'no barrier'}"
        )
    return value


def _in_matrix(height: Height, case: Case, report: Report) -> float:
    """Return the highest of the cells, over all pairs."""
    cells = [
        cell
        for matrix in report.matrices
        if Case(matrix.split, matrix.metric, matrix.calibration) == case
        for cell in _cells(height, matrix, report.name)
    ]
    if not cells:
        raise RunError(f"{report.name} has no matrix of {_words(case)}")
    return max(cells)


def _cells(height: Height, matrix: Matrix, run: str) -> Iterator[float]:
    rows = {WITHOUT: matrix.naive, **dict(zip(matrix.found_at, matrix.barriers, strict=True))}
    for found in _steps(height.found_at, matrix.found_at, matrix.end):
        for applied in _steps(height.applied_at, matrix.applied_at, matrix.end):
            if found not in rows or applied not in matrix.applied_at:
                raise RunError(
                    f"{run} has no permutations found at {found} and applied at {applied}; found "
                    f"at {', '.join(rows)}, applied at {', '.join(matrix.applied_at)}"
                )
            yield rows[found][matrix.applied_at.index(applied)]


def _steps(named: Sequence[str], there: Sequence[str], end: str) -> Sequence[str]:
    if tuple(named) == ("all",):
        return there
    return [end if step == "end" else step for step in named]


def _words(case: Case) -> str:
    calibrated = "" if case.calibration == "none" else f", calibration {case.calibration}"
    return f"{case.split} {case.metric}{calibrated}"


def _height(data: Mapping[str, Any]) -> Height:
    return Height(
        data["figure"], data["alignment"], tuple(data["found_at"]), tuple(data["applied_at"])
    )
