"""A comparison for other programs: CSV with a line for every value, and tables in Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from mergekit_perm.report.compare import Column, ComparedMatrix, ComparedRow, Comparison
from mergekit_perm.report.compare_terminal import (
    change_words,
    column_words,
    has_column_words,
    spread_words,
)
from mergekit_perm.report.intervals import Mean
from mergekit_perm.report.numbers import number
from mergekit_perm.report.plain_data import plain
from mergekit_perm.report.summaries import Case

_COLUMNS = (
    "run", "method", "saw", "split", "metric", "calibration", "figure", "alignment", "n", "value",
    "interval", "difference", "difference_interval", "precision", "found_at", "applied_at",
)  # fmt: skip


def to_csv(comparison: Comparison) -> str:
    """Return a line for every figure of every run, then for every cell of matrices.

    Numbers are in full. What a run does not have has no line; errors are shares, not percents; the
    difference is to the first run. Of runs that repeat one another there are their number, the
    mean, and half the width of its 95 % interval. Cells of a matrix are of the figure ``a - b over
    checkpoints``, and say where permutations were found (nowhere for naive networks) and applied.
    """
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(_COLUMNS)
    for row in comparison.rows:
        for column, mean, change in zip(
            comparison.columns, row.means, row.differences, strict=True
        ):
            if mean is not None:
                start = _start(column, row.case, row.label, row.alignment or "", mean)
                lines.writerow([*start, *_change(change), column.precision, "", ""])
    columns = {column.name: column for column in comparison.columns}
    for matrix in comparison.matrices:
        column = columns[matrix.column]
        figure = f"{' - '.join(matrix.networks)} over checkpoints"
        for found, applied, mean in _matrix_cells(matrix):
            start = _start(column, matrix.case, figure, "aligned" if found else "naive", mean)
            lines.writerow([*start, *_change(None), column.precision, found, applied])
    return text.getvalue()


def _start(
    column: Column, case: Case, figure: str, alignment: str, mean: Mean
) -> list[str | float]:
    """Return what a line of CSV begins with, up to the interval."""
    return [
        column.name, *(column.alignment or ("", "")), case.split, case.metric, case.calibration,
        figure, alignment, mean.n, plain(mean.value), _or_empty(mean.half),
    ]  # fmt: skip


def _change(change: Mean | None) -> tuple[float | str, float | str]:
    return ("", "") if change is None else (change.value, _or_empty(change.half))


def _matrix_cells(matrix: ComparedMatrix) -> Iterator[tuple[str, str, Mean]]:
    """Yield where permutations were found, "" without any, where applied, and the barrier."""
    for found, row in (("", matrix.naive), *zip(matrix.found_at, matrix.barriers, strict=True)):
        for applied, mean in zip(matrix.applied_at, row, strict=True):
            yield found, applied, mean


def _or_empty(value: float | None) -> float | str:
    return "" if value is None else value


def to_markdown(comparison: Comparison) -> str:
    """Return a table for every split, metric and calibration, and for every matrix.

    The best of a line is bold, and the difference to the first run is in brackets.
    """
    parts = []
    if has_column_words(comparison):
        lines = column_words(comparison)
        parts.append(_table(["alignment", *comparison.names], [["", *lines]]))
    if len(comparison.columns) > 1:
        parts.append(f"In brackets: the difference to {comparison.names[0]}.\n")
    for case in dict.fromkeys(row.case for row in comparison.rows):
        title = f"### {case.split} {case.metric}"
        title += "" if case.calibration == "none" else f", calibration {case.calibration}"
        rows = [
            [row.full_label, *(_cell(row, place) for place in range(len(comparison.columns)))]
            for row in comparison.rows
            if row.case == case
        ]
        parts += [f"{title}\n", _table(["", *comparison.names], rows)]
    for matrix in comparison.matrices:
        parts += [f"{_matrix_title(matrix)}\n", _matrix(matrix)]
    return "\n".join(parts)


def _matrix_title(matrix: ComparedMatrix) -> str:
    case = matrix.case
    title = f"### {matrix.column}, {' - '.join(matrix.networks)}: {case.split} {case.metric}"
    title += "" if case.calibration == "none" else f", calibration {case.calibration}"
    return f"{title}, found at (rows) and applied at (columns)"


def _matrix(matrix: ComparedMatrix) -> str:
    rows = [("no permutation", matrix.naive), *zip(matrix.found_at, matrix.barriers, strict=True)]
    metric = matrix.case.metric
    cells = [
        [label, *(f"{number(m.value, metric=metric)}{spread_words(m, metric)}" for m in row)]
        for label, row in rows
    ]
    return _table(["", *matrix.applied_at], cells)


def _cell(row: ComparedRow, place: int) -> str:
    shown = number(row.values[place], metric=row.case.metric)
    shown = f"**{shown}**" if row.is_best(place) else shown
    spread = spread_words(row.means[place], row.case.metric)
    return shown + spread + change_words(row.differences[place], row.case.metric)


def _table(head: list[str], rows: list[list[str]]) -> str:
    marks = [":---", *["---:"] * (len(head) - 1)]
    lines = ([cell.replace("|", "\\|") for cell in line] for line in (head, marks, *rows))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
