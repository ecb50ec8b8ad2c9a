"""Several runs side by side: the same barriers in columns, with differences to the first run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from mergekit_perm.errors import RunError, suggest
from mergekit_perm.report import summaries
from mergekit_perm.report.model import LOOKED_AT, Report, plain
from mergekit_perm.report.show import indented, plain_table, show
from mergekit_perm.report.sparkline import marks_for, sparkline
from mergekit_perm.report.summaries import Case
from mergekit_perm.report.terminal import number

_GAP = 2


@dataclass(frozen=True, slots=True)
class ComparedRow:
    """One figure in every run; None where a run does not have it.

    Attributes:
        alignment: ``naive`` or ``aligned``; None for a merged network, whose value is no barrier.
        kinds: what the alignment of every run saw, "" where the figure is that of naive networks.
    """

    case: Case
    label: str
    alignment: str | None
    values: tuple[float | None, ...]
    kinds: tuple[str, ...]

    @property
    def full_label(self) -> str:
        """The label, and how the networks were placed."""
        return self.label if self.alignment is None else f"{self.label}, {self.alignment}"

    def is_called(self, figure: str) -> bool:
        """Tell whether `figure` means this line: by its label, with or without the alignment."""
        label = "simplex" if self.label.startswith("simplex of ") else self.label
        return figure in (self.label, self.full_label, label, f"{label}, {self.alignment}")

    def is_best(self, place: int) -> bool:
        """Tell whether a run has the lowest value of at least two runs that saw the same.

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
    """The excesses along the worst pair of every run; None where a run has no pair."""

    case: Case
    alignment: str
    curves: tuple[tuple[float, ...] | None, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The barriers and merged networks of several runs; differences are to the first run.

    Attributes:
        alignments: of every run the method and what it saw, or None without alignment.
    """

    runs: tuple[str, ...]
    rows: tuple[ComparedRow, ...]
    curves: tuple[ComparedCurve, ...]
    alignments: tuple[tuple[str, str] | None, ...]

    @staticmethod
    def difference(row: ComparedRow, place: int) -> float | None:
        """Return how far a run is from the first in `row`; None where that is no number."""
        value, first = row.values[place], row.values[0]
        if place == 0 or value is None or first is None:
            return None
        return value - first if math.isfinite(value) and math.isfinite(first) else None

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as plain data."""
        return {
            "runs": list(self.runs),
            "alignments": [
                None if each is None else {"method": each[0], "saw": each[1]}
                for each in self.alignments
            ],
            "rows": [
                {
                    "split": row.case.split,
                    "metric": row.case.metric,
                    "calibration": row.case.calibration,
                    "figure": row.label,
                    "alignment": row.alignment,
                    "values": plain(row.values),
                    "differences": [self.difference(row, place) for place in range(len(self.runs))],
                }
                for row in self.rows
            ],
        }


def compare(
    reports: Sequence[Report],
    *,
    metric: str | None = None,
    split: str | None = None,
    sort: str | None = None,
) -> Comparison:
    """Return the barriers of `reports` side by side.

    Args:
        reports: at least one.
        metric: only this one, "loss" or "error".
        split: only this one.
        sort: put the runs in the order of this figure, the lowest first: the label of a line, such
            as "simplex" or "merged: mean". Of several lines with that label it is the first, of
            aligned networks where there are any.

    Raises:
        RunError: no report has the metric, split or figure that is asked for.
    """
    if sort is not None:
        reports = _sorted(reports, compare(reports, metric=metric, split=split), sort)
    if not reports:
        raise RunError("there is nothing to compare; name at least one run")
    found: dict[tuple[Case, str, str | None], list[float | None]] = {}
    for place, report in enumerate(reports):
        for case, label, alignment, value in _values(report):
            blank: list[float | None] = [None] * len(reports)
            found.setdefault((case, label, alignment), blank)[place] = value
    for name, wanted in (("metric", metric), ("split", split)):
        known = dict.fromkeys(getattr(case, name) for case, _, _ in found)
        if wanted is not None and wanted not in known:
            raise RunError(
                f"no run has the {name} '{wanted}'{suggest(wanted, known)}; "
                f"there is {', '.join(known) or 'no barrier at all'}"
            )
    alignments = tuple(
        None if report.alignment is None else (report.alignment.method, report.alignment.saw)
        for report in reports
    )
    saw = tuple("" if each is None else each[1] for each in alignments)
    rows = tuple(
        ComparedRow(
            case, label, alignment, tuple(values), saw if alignment != "naive" else ("",) * len(saw)
        )
        for (case, label, alignment), values in found.items()
        if metric in (None, case.metric) and split in (None, case.split)
    )
    cases = dict.fromkeys(row.case for row in rows)
    return Comparison(_names(reports), rows, tuple(_curves(reports, cases)), alignments)


def _sorted(reports: Sequence[Report], found: Comparison, figure: str) -> list[Report]:
    """Return `reports` by the values of a figure in `found`, those without one last."""
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

    return [reports[place] for place in sorted(range(len(reports)), key=height)]


def _values(report: Report) -> Iterator[tuple[Case, str, str | None, float | None]]:
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
    for name, merged in report.merged.items():
        for calibration, by_split in merged.calibration.items():
            for split, metrics in by_split.items():
                yield Case(split, "loss", calibration), f"merged: {name}", None, metrics.loss
                yield Case(split, "error", calibration), f"merged: {name}", None, metrics.error


def _curves(reports: Sequence[Report], cases: Iterable[Case]) -> Iterator[ComparedCurve]:
    every = [summaries.rows(report) for report in reports]
    for case in cases:
        for alignment in ("naive", "aligned"):
            worst = [
                summaries.worst_pair([row for row in rows if row.case == case], alignment)
                for rows in every
            ]
            if any(barrier is not None for barrier in worst):
                curves = (None if b is None else tuple(summaries.excesses(b)) for b in worst)
                yield ComparedCurve(case, alignment, tuple(curves))


def _names(reports: Sequence[Report]) -> tuple[str, ...]:
    """Return the names of the runs; runs that share one are numbered."""
    names = [report.name for report in reports]
    return tuple(
        f"{name} ({names[: place + 1].count(name)})" if names.count(name) > 1 else name
        for place, name in enumerate(names)
    )


def render_comparison(comparison: Comparison, console: Console) -> None:
    """Print `comparison`: a block of columns after the other where they do not fit side by side."""
    marks = marks_for(console.encoding)
    _show_alignments(comparison, console)
    for case in dict.fromkeys(row.case for row in comparison.rows):
        title = f"{case.split} {case.metric}"
        title += "" if case.calibration == "none" else f", calibration {case.calibration}"
        lines = _lines(comparison, case, marks)
        for places in _blocks(lines, comparison.runs, console.width):
            show(console)
            show(console, Text(title, style="bold"))
            table = plain_table("", [comparison.runs[place] for place in places])
            for label, cells in lines:
                table.add_row(Text(label), *(cells[place] for place in places))
            show(console, indented(table))
    show(console)


def _show_alignments(comparison: Comparison, console: Console) -> None:
    """Print by what each run was aligned: one line of a run for another with more to go by."""
    if not any(comparison.alignments):
        return
    show(console)
    show(console, Text("alignment", style="bold"))
    table = plain_table("", [""])
    table.show_header = False
    table.columns[1].justify = "left"
    for run, each in zip(comparison.runs, comparison.alignments, strict=True):
        words = "none" if each is None else f"{each[0]}, saw {LOOKED_AT[each[1]]}"
        table.add_row(Text(run), Text(words))
    show(console, indented(table))


def _lines(comparison: Comparison, case: Case, marks: str) -> list[tuple[str, list[Text]]]:
    """Return the label of every line of a case, and its cell for every run."""
    chosen_rows = [row for row in comparison.rows if row.case == case]
    columns = [_column(chosen_rows, place) for place in range(len(comparison.runs))]
    found = [
        (row.full_label, [column[i] for column in columns]) for i, row in enumerate(chosen_rows)
    ]
    chosen = [compared for compared in comparison.curves if compared.case == case]
    heights = [height for c in chosen for curve in c.curves for height in curve or ()]
    top = max((height for height in heights if math.isfinite(height)), default=0.0)
    for compared in chosen:
        pictures = (sparkline(curve or (), top=top, marks=marks) for curve in compared.curves)
        label = f"worst curve, {compared.alignment}"
        found.append((label, [Text(picture or "-") for picture in pictures]))
    return found


def _blocks(
    lines: Sequence[tuple[str, Sequence[Text]]], names: Sequence[str], width: int
) -> list[list[int]]:
    """Return the places of the runs that fit beside one another, at least one at a time."""
    labels = min(max(cell_len(label) for label, _ in lines), width // 3)
    blocks: list[list[int]] = []
    left = 0
    for place, name in enumerate(names):
        cells = [cells[place].cell_len for _, cells in lines]
        needed = max(cell_len(name), *cells) + _GAP
        if not blocks or needed > left:
            blocks.append([])
            left = width - _GAP - labels
        blocks[-1].append(place)
        left -= needed
    return blocks


def _column(rows: Sequence[ComparedRow], place: int) -> list[Text]:
    """Return the cells of one run; differences are as wide as the widest, so decimals align."""
    changes = [_change(row, place) for row in rows]
    width = max(map(len, changes))
    return [
        _cell(row, place, change.rjust(width)) for row, change in zip(rows, changes, strict=True)
    ]


def _change(row: ComparedRow, place: int) -> str:
    change = Comparison.difference(row, place)
    if change is None:
        return ""
    text = number(change, metric=row.case.metric)
    return f" ({'' if text.startswith('-') else '+'}{text})"


def _cell(row: ComparedRow, place: int, change: str) -> Text:
    value = row.values[place]
    shown = Text(number(value, metric=row.case.metric))
    if row.is_best(place):
        shown.stylize("bold")
    return shown.append(change, style="dim")
