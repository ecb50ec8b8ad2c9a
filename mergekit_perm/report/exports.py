"""A comparison for other programs: CSV with a line for every value, and tables in Markdown."""

from __future__ import annotations

import csv
import io

from mergekit_perm.report.compare import ComparedMatrix, ComparedRow, Comparison
from mergekit_perm.report.compare_terminal import column_words, spread_words
from mergekit_perm.report.numbers import number
from mergekit_perm.report.plain_data import plain

_COLUMNS = (
    "run", "method", "saw", "split", "metric", "calibration", "figure", "alignment", "n", "value",
    "interval", "difference", "difference_interval",
)  # fmt: skip


def to_csv(comparison: Comparison) -> str:
    """Return a line for every figure of every run, numbers in full.

    What a run does not have has no line; errors are shares, not percents; the difference is to the
    first run. Of runs that repeat one another there are their number, the mean, and half the width
    of its 95 % interval.
    """
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(_COLUMNS)
    for row in comparison.rows:
        for column, mean, change in zip(
            comparison.columns, row.means, row.differences, strict=True
        ):
            if mean is None:
                continue
            case = row.case
            lines.writerow([
                column.name, *(column.alignment or ("", "")), case.split, case.metric,
                case.calibration, row.label, row.alignment or "", mean.n, plain(mean.value),
                _or_empty(mean.half),
                *(("", "") if change is None else (change.value, _or_empty(change.half))),
            ])  # fmt: skip
    return text.getvalue()


def _or_empty(value: float | None) -> float | str:
    return "" if value is None else value


def to_markdown(comparison: Comparison) -> str:
    """Return a table for every split, metric and calibration, and for every matrix.

    The best of a line is bold.
    """
    parts = []
    if any(column.alignment or len(column.runs) > 1 for column in comparison.columns):
        lines = [column_words(column) for column in comparison.columns]
        parts.append(_table(["alignment", *comparison.names], [["", *lines]]))
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
    return shown + spread_words(row.means[place], row.case.metric)


def _table(head: list[str], rows: list[list[str]]) -> str:
    marks = [":---", *["---:"] * (len(head) - 1)]
    lines = ([cell.replace("|", "\\|") for cell in line] for line in (head, marks, *rows))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
