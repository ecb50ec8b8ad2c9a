"""A comparison for other programs: CSV with a line for every value, and tables in Markdown."""

from __future__ import annotations

import csv
import io

from mergekit_perm.report.compare import ComparedRow, Comparison
from mergekit_perm.report.model import LOOKED_AT, plain
from mergekit_perm.report.terminal import number

_COLUMNS = (
    "run", "method", "saw", "split", "metric", "calibration", "figure", "alignment", "value",
    "difference",
)  # fmt: skip


def to_csv(comparison: Comparison) -> str:
    """Return a line for every figure of every run, numbers in full.

    What a run does not have has no line; errors are shares, not percents; the difference is to the
    first run.
    """
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(_COLUMNS)
    for row in comparison.rows:
        for place, (run, value) in enumerate(zip(comparison.runs, row.values, strict=True)):
            if value is None:
                continue
            method, saw = comparison.alignments[place] or ("", "")
            difference = comparison.difference(row, place)
            case = row.case
            lines.writerow([
                run, method, saw, case.split, case.metric, case.calibration, row.label,
                row.alignment or "", plain(value), "" if difference is None else difference,
            ])  # fmt: skip
    return text.getvalue()


def to_markdown(comparison: Comparison) -> str:
    """Return a table for every split, metric and calibration; the best of a line is bold."""
    parts = []
    if any(comparison.alignments):
        lines = [
            "none" if each is None else f"{each[0]}, saw {LOOKED_AT[each[1]]}"
            for each in comparison.alignments
        ]
        parts.append(_table(["alignment", *comparison.runs], [["", *lines]]))
    for case in dict.fromkeys(row.case for row in comparison.rows):
        title = f"### {case.split} {case.metric}"
        title += "" if case.calibration == "none" else f", calibration {case.calibration}"
        rows = [
            [row.full_label, *(_cell(row, place) for place in range(len(comparison.runs)))]
            for row in comparison.rows
            if row.case == case
        ]
        parts += [f"{title}\n", _table(["", *comparison.runs], rows)]
    return "\n".join(parts)


def _cell(row: ComparedRow, place: int) -> str:
    shown = number(row.values[place], metric=row.case.metric)
    return f"**{shown}**" if row.is_best(place) else shown


def _table(head: list[str], rows: list[list[str]]) -> str:
    marks = [":---", *["---:"] * (len(head) - 1)]
    lines = ([cell.replace("|", "\\|") for cell in line] for line in (head, marks, *rows))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
