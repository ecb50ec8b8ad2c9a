"""Claims: what a sweep is to show, and whether its runs show it.

A claim bounds a barrier by a number, or by a multiple of another barrier. The margin of a run is
the barrier less its bound. Of the margins of all sets of seeds there is a 95 % t-interval: a claim
holds if all of it is on the right side of 0, and fails if all of it is on the wrong one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mergekit_perm.errors import RunError, suggest
from mergekit_perm.report import summaries
from mergekit_perm.report.intervals import Mean, mean
from mergekit_perm.report.model import Report
from mergekit_perm.report.repeats import Repeats, repeated, same_seeds
from mergekit_perm.report.summaries import Case

Verdict = Literal["holds", "fails", "not distinguishable"]

WITHOUT = "none"
"""Where permutations are found that are none: the row of a matrix without."""


@dataclass(frozen=True, slots=True)
class Height:
    """Which barrier of a run: a line of its report, or cells of its matrix.

    Attributes:
        figure: the label of the line, such as ``worst far edge`` or ``simplex``; ``pair`` is the
            highest of all pairs. None where it is of the matrix.
        alignment: ``naive`` or ``aligned``, of a line.
        found_at: rows of the matrix; ``none`` is the row without permutations.
        applied_at: columns of the matrix. Of several cells the highest counts.
    """

    figure: str | None = None
    alignment: str = "aligned"
    found_at: tuple[str, ...] = ()
    applied_at: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.figure is not None:
            return f"{self.figure}, {self.alignment}"
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
    """

    claim: Claim
    run: str
    value: Mean
    bound: Mean
    margin: Mean
    verdict: Verdict

    def to_json(self) -> dict[str, Any]:
        """Return the finding as plain data."""
        return {
            "claim": self.claim.text,
            "run": self.run,
            "verdict": self.verdict,
            "value": dataclasses.asdict(self.value),
            "bound": dataclasses.asdict(self.bound),
            "margin": dataclasses.asdict(self.margin),
        }


def findings(claims: Sequence[Claim], reports: Sequence[Report]) -> list[Finding]:
    """Return what `reports` say about every claim, variation by variation.

    Raises:
        RunError: a claim is about a run, line or checkpoint that there is not.
    """
    groups = repeated(reports)
    return [finding for claim in claims for finding in _of_claim(claim, groups)]


def _of_claim(claim: Claim, groups: Sequence[Repeats]) -> Iterator[Finding]:
    by_label = {group.name: group for group in groups}
    for label in (*(claim.runs or ()), *([claim.of_run] if claim.of_run else [])):
        if label not in by_label:
            raise RunError(
                f"claim '{claim.text}': no runs '{label}'{suggest(label, by_label)}; there is "
                f"{', '.join(by_label)}"
            )
    for label, group in by_label.items():
        if claim.runs is None or label in claim.runs:
            values = [_measured(claim, claim.value, report) for report in group.reports]
            bounds = _bounds(claim, group, by_label)
            margin = mean([a - b for a, b in zip(values, bounds, strict=True)])
            verdict = _verdict(margin, upper=claim.upper)
            yield Finding(claim, label, mean(values), mean(bounds), margin, verdict)


def _bounds(claim: Claim, group: Repeats, by_label: Mapping[str, Repeats]) -> list[float]:
    """Return the bound for every run of `group`."""
    if claim.of is None:
        return [claim.bound] * len(group.reports)
    others = group.reports
    if claim.of_run is not None:
        other = by_label[claim.of_run]
        pairs = same_seeds(group, other)
        if pairs is None:
            raise RunError(
                f"claim '{claim.text}': '{group.name}' and '{other.name}' have other seeds, so "
                "that they cannot be compared seed by seed"
            )
        others = tuple(other.reports[place] for _, place in pairs)
    return [claim.bound * _measured(claim, claim.of, report) for report in others]


def _verdict(margin: Mean, *, upper: bool) -> Verdict:
    """Return whether the interval of `margin` is on the right side of 0."""
    if margin.half is None:
        return "not distinguishable"
    low, high = margin.value - margin.half, margin.value + margin.half
    if not upper:
        low, high = -high, -low
    return "holds" if high <= 0 else "fails" if low > 0 else "not distinguishable"


def _measured(claim: Claim, height: Height, report: Report) -> float:
    case = Case(claim.split, claim.metric, claim.calibration)
    if height.figure is None:
        return _in_matrix(claim, height, case, report)
    rows = [row for row in summaries.rows(report) if row.case == case]
    lines: dict[str, float | None] = {}
    for row in rows:
        barrier = getattr(row, height.alignment)
        lines[row.label] = None if barrier is None else barrier.barrier
    lines |= {each.label: getattr(each, height.alignment) for each in summaries.figures(rows)}
    lines |= summaries.composed(report, case)
    pairs = (getattr(row, height.alignment) for row in rows if row.kind == "pair")
    lines["pair"] = summaries.worst(pairs)
    simplexes = (getattr(row, height.alignment) for row in rows if row.kind == "simplex")
    lines["simplex"] = summaries.worst(simplexes)
    value = lines.get(height.figure)
    if value is None:
        known = [label for label, value in lines.items() if value is not None]
        raise RunError(
            f"claim '{claim.text}': {report.name} has no {height} of {claim.split} {claim.metric}"
            f"{suggest(height.figure, known)}; there is {', '.join(known) or 'no barrier'}"
        )
    return value


def _in_matrix(claim: Claim, height: Height, case: Case, report: Report) -> float:
    """Return the highest of the cells, over all pairs."""
    cells = []
    for matrix in report.matrices:
        if Case(matrix.split, matrix.metric, matrix.calibration) != case:
            continue
        rows = {WITHOUT: matrix.naive, **dict(zip(matrix.found_at, matrix.barriers, strict=True))}
        for found in height.found_at:
            for applied in height.applied_at:
                if found not in rows or applied not in matrix.applied_at:
                    raise RunError(
                        f"claim '{claim.text}': {report.name} has no permutations found at {found} "
                        f"and applied at {applied}; found at {', '.join(rows)}, applied at "
                        f"{', '.join(matrix.applied_at)}"
                    )
                cells.append(rows[found][matrix.applied_at.index(applied)])
    if not cells:
        raise RunError(
            f"claim '{claim.text}': {report.name} has no matrix of {claim.split} {claim.metric}"
        )
    return max(cells)


def _height(data: Mapping[str, Any]) -> Height:
    return Height(
        data["figure"], data["alignment"], tuple(data["found_at"]), tuple(data["applied_at"])
    )
