"""Several runs side by side: the same barriers in columns, with differences to the first run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mergekit_perm.errors import RunError, suggest
from mergekit_perm.report import summaries
from mergekit_perm.report.compare_json import comparison_to_json
from mergekit_perm.report.intervals import Mean, mean, mean_difference
from mergekit_perm.report.model import Barrier, Report
from mergekit_perm.report.repeats import Repeats, each_alone, repeated, same_seeds
from mergekit_perm.report.summaries import Case

# What a line is of: the case, the label, and how the networks were placed.
Line = tuple[Case, str, str | None]


@dataclass(frozen=True, slots=True)
class Column:
    """A run, or runs that repeat one another.

    Attributes:
        name: of the run; of several what their names begin with.
        runs: the names of the runs.
        alignment: the method and what it saw, or None without alignment.
        values: by field what a sweep has set it to; none of runs of no sweep.
        precision: in which networks were measured, such as ``float32``.
    """

    name: str
    runs: tuple[str, ...]
    alignment: tuple[str, str] | None
    values: Mapping[str, Any] = field(default_factory=dict)
    precision: str = ""

    @property
    def saw(self) -> str:
        """What alignment saw, "" without alignment."""
        return "" if self.alignment is None else self.alignment[1]


@dataclass(frozen=True, slots=True)
class ComparedRow:
    """One figure in every column; None where a column does not have it.

    Attributes:
        alignment: ``naive`` or ``aligned``; None for a merged network, whose value is no barrier,
            and for paths of networks matched in pairs.
        means: over the runs of a column.
        differences: of the means to that of the first column; None for that one, and where one is
            infinite or missing.
        kinds: what the alignment of every column saw, "" where the figure is that of naive
            networks.
    """

    case: Case
    label: str
    alignment: str | None
    means: tuple[Mean | None, ...]
    differences: tuple[Mean | None, ...]
    kinds: tuple[str, ...]

    @property
    def values(self) -> tuple[float | None, ...]:
        """The value of every column: a mean where runs repeat one another."""
        return tuple(None if mean is None else mean.value for mean in self.means)

    @property
    def full_label(self) -> str:
        """The label, and how the networks were placed."""
        return self.label if self.alignment is None else f"{self.label}, {self.alignment}"

    def is_called(self, figure: str) -> bool:
        """Tell whether `figure` means this line: by its label, with or without the alignment."""
        label = "simplex" if self.label.startswith("simplex of ") else self.label
        return figure in (self.label, self.full_label, label, f"{label}, {self.alignment}")

    def is_best(self, place: int) -> bool:
        """Tell whether a column has the lowest value of at least two that saw the same.

        What looked at weights alone is not ranked with what looked at data.
        """
        known = [
            value
            for value, kind in zip(self.values, self.kinds, strict=True)
            if kind == self.kinds[place] and value is not None and not math.isnan(value)
        ]
        return len(known) > 1 and self.values[place] == min(known)


@dataclass(frozen=True, slots=True)
class ComparedCurve:
    """The excesses along the worst pair of every column; None where a column has no pair.

    Attributes:
        curves: of every column the share of the second network and the excess, point by point:
            the mean where runs repeat one another, each with its own worst pair.
    """

    case: Case
    alignment: str
    curves: tuple[tuple[tuple[float, Mean], ...] | None, ...]


@dataclass(frozen=True, slots=True)
class ComparedMatrix:
    """A matrix of one column: its means over runs.

    Attributes:
        column: its name.
        networks: the pair.
        naive: the barriers without permutations, one for each step of `applied_at`.
        barriers: row by row, one for each step of `found_at`.
        end: which step is the network itself.
        kept: the share of weights that is left at each step of `applied_at`.
    """

    case: Case
    column: str
    networks: tuple[str, ...]
    found_at: tuple[str, ...]
    applied_at: tuple[str, ...]
    naive: tuple[Mean, ...]
    barriers: tuple[tuple[Mean, ...], ...]
    end: str
    kept: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The barriers and merged networks of several runs; differences are to the first column."""

    columns: tuple[Column, ...]
    rows: tuple[ComparedRow, ...]
    curves: tuple[ComparedCurve, ...]
    matrices: tuple[ComparedMatrix, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(column.name for column in self.columns)

    @property
    def differ_in_precision(self) -> bool:
        """Whether runs were measured in more than one precision."""
        return len({column.precision for column in self.columns}) > 1

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as plain data; an interval is half its width, null for none."""
        return comparison_to_json(self)


def compare(
    reports: Sequence[Report],
    *,
    metric: str | None = None,
    split: str | None = None,
    sort: str | None = None,
    each: bool = False,
) -> Comparison:
    """Return the barriers of `reports` side by side.

    Runs of one spec that differ by their seeds are one column, of means with 95 % t-intervals.
    Where two columns have runs of the same seeds, the interval of their difference is that of the
    differences seed by seed; otherwise it is Welch's.

    Args:
        reports: at least one.
        metric: only this one, "loss" or "error".
        split: only this one.
        sort: put the columns in the order of this figure, the lowest first: the label of a line,
            such as "simplex" or "merged: mean". Of several lines with that label it is the first,
            of aligned networks where there are any.
        each: give every run a column of its own.

    Raises:
        RunError: no report has the metric, split or figure that is asked for.
    """
    groups = each_alone(reports) if each else repeated(reports)
    return compare_groups(groups, metric=metric, split=split, sort=sort)


def compare_groups(
    groups: Sequence[Repeats],
    *,
    metric: str | None = None,
    split: str | None = None,
    sort: str | None = None,
) -> Comparison:
    """Return the barriers of `groups` of runs side by side, each as one; see `compare`."""
    if not groups:
        raise RunError("there is nothing to compare; name at least one run")
    found = _compared(groups, metric, split)
    if sort is None:
        return found
    return _compared([groups[place] for place in _order(found, sort)], metric, split)


def _compared(groups: Sequence[Repeats], metric: str | None, split: str | None) -> Comparison:
    columns = tuple(
        Column(
            group.name,
            tuple(report.name for report in group.reports),
            None
            if (alignment := group.reports[0].alignment) is None
            else (alignment.method, alignment.saw),
            group.values,
            ", ".join(dict.fromkeys(report.provenance.dtype for report in group.reports)),
        )
        for group in groups
    )
    found = _values(groups)
    for name, wanted in (("metric", metric), ("split", split)):
        known = dict.fromkeys(getattr(case, name) for case, _, _ in found)
        if wanted is not None and wanted not in known:
            raise RunError(
                f"no run has the {name} '{wanted}'{suggest(wanted, known)}; "
                f"there is {', '.join(known) or 'no barrier at all'}"
            )
    rows = tuple(
        ComparedRow(
            case,
            label,
            alignment,
            tuple(mean(list(each.values())) if each else None for each in values),
            tuple(_differences(groups, values)),
            tuple("" if alignment == "naive" else column.saw for column in columns),
        )
        for (case, label, alignment), values in found.items()
        if metric in (None, case.metric) and split in (None, case.split)
    )
    cases = dict.fromkeys(row.case for row in rows)
    matrices = (
        matrix
        for matrix in _matrices(groups)
        if metric in (None, matrix.case.metric) and split in (None, matrix.case.split)
    )
    return Comparison(columns, rows, tuple(_curves(groups, cases)), tuple(matrices))


def _order(found: Comparison, figure: str) -> list[int]:
    """Return the places of the columns by the values of a figure, those without one last."""
    labels = dict.fromkeys(row.label for row in found.rows)
    rows = [row for row in found.rows if row.is_called(figure)]
    if not rows:
        raise RunError(
            f"no run has the figure '{figure}'{suggest(figure, labels)}; "
            f"there is {', '.join(labels) or 'no barrier at all'}"
        )
    row = next((row for row in rows if row.alignment == "aligned"), rows[0])

    def height(place: int) -> float:
        value = row.values[place]
        return math.inf if value is None or math.isnan(value) else value

    return sorted(range(len(found.columns)), key=height)


def _values(groups: Sequence[Repeats]) -> dict[Line, list[dict[int, float]]]:
    """Return the values of every line: for every group, those of its runs by their place."""
    found: dict[Line, list[dict[int, float]]] = {}
    for place, group in enumerate(groups):
        for number_of, report in enumerate(group.reports):
            for *line, value in _values_of(report):
                values = found.setdefault(tuple(line), [{} for _ in groups])  # type: ignore[arg-type]
                values[place][number_of] = value
    return found


def _values_of(report: Report) -> Iterator[tuple[Case, str, str | None, float]]:
    every = summaries.rows(report)
    for row in every:
        for alignment, barrier in (("naive", row.naive), ("aligned", row.aligned)):
            if barrier is not None:
                yield row.case, row.label, alignment, barrier.barrier
    for case in dict.fromkeys(row.case for row in every):
        for figure in summaries.figures([row for row in every if row.case == case]):
            for alignment, value in (("naive", figure.naive), ("aligned", figure.aligned)):
                if value is not None:
                    yield case, figure.label, alignment, value
    for case in summaries.other_cases(report):
        for label, value in summaries.others(report, case).items():
            yield case, label, None, value
    for name, merged in report.merged.items():
        for calibration, by_split in merged.calibration.items():
            for split, metrics in by_split.items():
                yield Case(split, "loss", calibration), f"merged: {name}", None, metrics.loss
                yield Case(split, "error", calibration), f"merged: {name}", None, metrics.error


def _differences(
    groups: Sequence[Repeats], values: Sequence[Mapping[int, float]]
) -> Iterator[Mean | None]:
    """Yield how far the values of every group are above those of the first."""
    yield None
    for group, ours in zip(groups[1:], values[1:], strict=True):
        first = values[0]
        if not ours or not first:
            yield None
            continue
        pairs = same_seeds(group, groups[0])
        if pairs and all(a in ours and b in first for a, b in pairs):
            own, other = [ours[a] for a, _ in pairs], [first[b] for _, b in pairs]
            yield mean_difference(own, other, paired=True)
        else:
            yield mean_difference(list(ours.values()), list(first.values()), paired=False)


def _curves(groups: Sequence[Repeats], cases: Iterable[Case]) -> Iterator[ComparedCurve]:
    every = [[summaries.rows(report) for report in group.reports] for group in groups]
    for case in cases:
        for alignment in ("naive", "aligned"):
            worst = [
                [
                    summaries.worst_pair([row for row in rows if row.case == case], alignment)
                    for rows in of_group
                ]
                for of_group in every
            ]
            curves = [_mean_curve([b for b in barriers if b is not None]) for barriers in worst]
            if any(curves):
                yield ComparedCurve(case, alignment, tuple(curves))


def _matrices(groups: Sequence[Repeats]) -> Iterator[ComparedMatrix]:
    """Yield the mean of every matrix over the runs of each column."""
    for group in groups:
        # Runs of one spec have the same matrices, in the same order.
        for matrices in zip(*(report.matrices for report in group.reports), strict=True):
            first = matrices[0]
            yield ComparedMatrix(
                Case(first.split, first.metric, first.calibration),
                group.name,
                first.networks,
                first.found_at,
                first.applied_at,
                tuple(mean(values) for values in zip(*(m.naive for m in matrices), strict=True)),
                tuple(
                    tuple(mean(values) for values in zip(*rows, strict=True))
                    for rows in zip(*(m.barriers for m in matrices), strict=True)
                ),
                first.end,
                summaries.kept(group.reports[0], first),
            )


def _mean_curve(barriers: Sequence[Barrier]) -> tuple[tuple[float, Mean], ...] | None:
    """Return share and mean excess of every point; the curves of one spec have the same points."""
    if not barriers:
        return None
    shares = [point.weights[1] for point in barriers[0].points]
    heights = zip(*(summaries.excesses(barrier) for barrier in barriers), strict=True)
    return tuple(zip(shares, (mean(values) for values in heights), strict=True))
