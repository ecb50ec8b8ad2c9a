"""A comparison in a terminal: figures in lines, runs in columns."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from mergekit_perm.report.claims import Finding
from mergekit_perm.report.compare import Column, ComparedRow, Comparison
from mergekit_perm.report.intervals import LEVEL, Mean
from mergekit_perm.report.matrix_terminal import show_steps
from mergekit_perm.report.model import LOOKED_AT
from mergekit_perm.report.numbers import number
from mergekit_perm.report.show import indented, plain_table, show, show_heading
from mergekit_perm.report.sparkline import BLOCKS, marks_for, sparkline
from mergekit_perm.report.summaries import Case

_GAP = 2

# From more runs than so many on, runs are lines.
_MANY = 6


def render_comparison(comparison: Comparison, console: Console) -> None:
    """Print `comparison`, blocks of columns below one another where they do not fit side by side.

    Of many runs every run is a line, and only what sums up its barriers is shown.
    """
    marks, sign = marks_for(console.encoding), _plus_minus(console.encoding)
    _show_columns(comparison, console)
    many = len(comparison.columns) > _MANY
    for case in dict.fromkeys(row.case for row in comparison.rows):
        title = f"{case.split} {case.metric}"
        title += "" if case.calibration == "none" else f", calibration {case.calibration}"
        if many:
            names, lines = _runs_as_lines(comparison, case, sign)
        else:
            names, lines = comparison.names, _lines(comparison, case, marks, sign)
        for places in _blocks(lines, names, console.width):
            show(console)
            show(console, Text(title, style="bold"))
            table = plain_table("", [names[place] for place in places])
            for label, cells in lines:
                table.add_row(Text(label), *(cells[place] for place in places))
            show(console, indented(table))
    for matrix in comparison.matrices:
        rows = [
            [f"{number(mean.value, metric=matrix.case.metric)}"
             f"{spread_words(mean, matrix.case.metric, sign)}" for mean in row]
            for row in (matrix.naive, *matrix.barriers)
        ]  # fmt: skip
        aside = f"{matrix.column}: {' - '.join(matrix.networks)}"
        show_steps(matrix.case, aside, matrix.found_at, matrix.applied_at, rows, console)
    show(console)


def _runs_as_lines(
    comparison: Comparison, case: Case, sign: str
) -> tuple[tuple[str, ...], list[tuple[str, list[Text]]]]:
    """Return what sums up the barriers of a case, and a line with its value for every run."""
    rows = [row for row in comparison.rows if row.case == case]
    if sum(" - " in row.label for row in rows) > 2:  # more than a single pair
        rows = [row for row in rows if " - " not in row.label]
    lines = [_line(row, sign) for row in rows]
    names = tuple(row.full_label for row in rows)
    return names, [
        (name, [line[place] for line in lines]) for place, name in enumerate(comparison.names)
    ]


def render_findings(findings: Sequence[Finding], console: Console) -> None:
    """Print what runs say about claims: the verdict, the barrier and its bound."""
    if not findings:
        return
    sign = _plus_minus(console.encoding)
    show_heading(console, "Claims")
    for finding in findings:
        style = {"holds": "green", "fails": "bold red"}.get(finding.verdict, "yellow")
        show(console, indented(Text.assemble(
            (finding.verdict, style), f"  {finding.claim.text}: ", (finding.run, "bold")
        )))  # fmt: skip
        show(console, indented(indented(Text(finding_words(finding, sign), style="dim"))))


def finding_words(finding: Finding, sign: str = "±") -> str:
    """Return the barrier of a finding, and its bound, over how many runs."""
    claim = finding.claim
    if finding.note:
        return finding.note

    def shown(of: Mean) -> str:
        return f"{number(of.value, metric=claim.metric)}{spread_words(of, claim.metric, sign)}"

    bound = number(claim.bound, metric=claim.metric)
    if claim.of is not None:
        where = f" of {claim.of_run}" if claim.of_run else ""
        bound = f"{shown(finding.bound)} ({claim.bound:g} times {claim.of}{where})"
    return (
        f"{claim.split} {claim.metric}, {claim.value}: {shown(finding.value)}, "
        f"{'at most' if claim.upper else 'at least'} {bound}; {finding.value.n} runs"
    )


def column_words(comparison: Comparison) -> list[str]:
    """Return how the networks of every column were aligned, and of how many runs it is the mean.

    Where columns differ in it, also in which precision they were measured.
    """
    return [
        _words(column, differ_in_precision=comparison.differ_in_precision)
        for column in comparison.columns
    ]


def _words(column: Column, *, differ_in_precision: bool) -> str:
    words = "none"
    if column.alignment is not None:
        words = f"{column.alignment[0]}, saw {LOOKED_AT[column.alignment[1]]}"
    if differ_in_precision:
        words += f"; measured in {column.precision}"
    if len(column.runs) > 1:
        words += f"; mean of {len(column.runs)} runs, {LEVEL:.0%} t-interval"
    return words


def has_column_words(comparison: Comparison) -> bool:
    """Tell whether there is more to say of any column than its name."""
    aligned = any(column.alignment or len(column.runs) > 1 for column in comparison.columns)
    return aligned or comparison.differ_in_precision


def spread_words(mean: Mean | None, metric: str, sign: str = "±") -> str:
    """Return half the width of an interval, with a sign before it; nothing where there is none."""
    return "" if mean is None or mean.half is None else f" {sign}{number(mean.half, metric=metric)}"


def change_words(change: Mean | None, metric: str, sign: str = "±") -> str:
    """Return a difference in brackets; nothing where there is none."""
    if change is None:
        return ""
    text = number(change.value, metric=metric)
    plus = "" if text.startswith("-") else "+"
    return f" ({plus}{text}{spread_words(change, metric, sign)})"


def _show_columns(comparison: Comparison, console: Console) -> None:
    """Print by what each run was aligned: one line of a run for another with more to go by."""
    if not has_column_words(comparison):
        return
    show(console)
    show(console, Text("alignment", style="bold"))
    table = plain_table("", [""])
    table.show_header = False
    # Words wrap to the right of the names, which are broken where they take more than half.
    names, words = table.columns
    names.width = min(max(cell_len(name) for name in comparison.names), console.width // 2)
    words.justify, words.no_wrap = "left", False
    for name, of_column in zip(comparison.names, column_words(comparison), strict=True):
        table.add_row(Text(name), Text(of_column))
    show(console, indented(table))


def _lines(
    comparison: Comparison, case: Case, marks: str, sign: str
) -> list[tuple[str, list[Text]]]:
    """Return the label of every line of a case, and its cell for every column."""
    chosen_rows = [row for row in comparison.rows if row.case == case]
    columns = [_column(chosen_rows, place, sign) for place in range(len(comparison.columns))]
    found = [
        (row.full_label, [column[i] for column in columns]) for i, row in enumerate(chosen_rows)
    ]
    chosen = [compared for compared in comparison.curves if compared.case == case]
    curves = [[[m.value for _, m in curve or ()] for curve in c.curves] for c in chosen]
    heights = [height for each in curves for curve in each for height in curve]
    top = max((height for height in heights if math.isfinite(height)), default=0.0)
    for compared, each in zip(chosen, curves, strict=True):
        pictures = (sparkline(curve, top=top, marks=marks) for curve in each)
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


def _column(rows: Sequence[ComparedRow], place: int, sign: str) -> list[Text]:
    """Return the cells of one column, every part of them as wide as the widest of its kind."""
    return _cells([(row, place) for row in rows], sign)


def _line(row: ComparedRow, sign: str) -> list[Text]:
    """Return the cells of one figure where runs are lines, as wide as those of a column."""
    return _cells([(row, place) for place in range(len(row.means))], sign)


def _cells(places: Sequence[tuple[ComparedRow, int]], sign: str) -> list[Text]:
    def words(
        of: Callable[[Mean | None, str, str], str], means: Iterable[Mean | None]
    ) -> list[str]:
        texts = [
            of(mean, row.case.metric, sign) for (row, _), mean in zip(places, means, strict=True)
        ]
        width = max(map(len, texts))
        return [text.rjust(width) for text in texts]

    spreads = words(spread_words, (row.means[place] for row, place in places))
    changes = words(change_words, (row.differences[place] for row, place in places))
    return [
        _cell(row, place, spread, change)
        for (row, place), spread, change in zip(places, spreads, changes, strict=True)
    ]


def _cell(row: ComparedRow, place: int, spread: str, change: str) -> Text:
    shown = Text(number(row.values[place], metric=row.case.metric))
    if row.is_best(place):
        shown.stylize("bold")
    return shown.append(spread).append(change, style="dim")


def _plus_minus(encoding: str) -> str:
    """Return the sign before half an interval that a terminal with `encoding` can show."""
    return "\u00b1" if marks_for(encoding) is BLOCKS else "+-"
