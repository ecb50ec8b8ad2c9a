"""Barriers along paths and cycles of matched networks in a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from mergekit_perm.report.model import Report
from mergekit_perm.report.numbers import number
from mergekit_perm.report.show import indented, plain_table, show, show_heading
from mergekit_perm.report.summaries import Case


def show_compositions(report: Report, console: Console) -> None:
    """Print mean, lowest and highest barrier of every kind of path, beside the run's own."""
    cases = dict.fromkeys(Case(c.split, c.metric, c.calibration) for c in report.compositions)
    for case in cases:
        aside = case.split
        aside += "" if case.calibration == "none" else f", after calibration {case.calibration}"
        show_heading(console, f"{case.metric.capitalize()} barriers along matched networks", aside)
        columns = ["paths", "mean", "lowest", "highest", "this run\nmean", "units\nback"]
        table = plain_table("", columns)
        of_case = [
            each
            for each in report.compositions
            if Case(each.split, each.metric, each.calibration) == case
        ]
        for label in dict.fromkeys(each.label for each in of_case):
            some = [each for each in of_case if each.label == label]
            heights = [each.barrier for each in some]
            own = [each.aligned for each in some if each.aligned is not None]
            fixed = [each.fixed for each in some if each.fixed is not None]
            cells = [_mean(heights), min(heights), max(heights), _mean(own)]
            table.add_row(
                Text(label),
                str(len(some)),
                *(number(value, metric=case.metric) for value in cells),
                number(_mean(fixed), metric="error") if fixed else "",
            )
        show(console, indented(table))


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
