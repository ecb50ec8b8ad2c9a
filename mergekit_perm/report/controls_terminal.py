"""Controls and networks trained under masks in a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from mergekit_perm.report import summaries
from mergekit_perm.report.model import Report
from mergekit_perm.report.numbers import number
from mergekit_perm.report.show import indented, plain_table, show, show_heading
from mergekit_perm.report.summaries import Case


def show_controls(report: Report, console: Console) -> None:
    """Print the highest barrier of every control, and the units that alignment found again."""
    if not report.controls:
        return
    show_heading(console, "Controls", "highest barriers")
    first = report.controls[0].calibration
    columns = {(c.split, c.metric): None for c in report.controls if c.calibration == first}
    table = plain_table("", [*(f"{split}\n{metric}" for split, metric in columns), "units\nfound"])
    for kind, calibration in dict.fromkeys((c.kind, c.calibration) for c in report.controls):
        cells = []
        for split, metric in columns:
            heights = summaries.controls(report, Case(split, metric, calibration))
            cells.append(number(heights.get(kind), metric=metric))
        found = [
            c.found
            for c in report.controls
            if (c.kind, c.calibration) == (kind, calibration) and c.found is not None
        ]
        label = kind if calibration == "none" else f"{kind}, {calibration}"
        table.add_row(Text(label), *cells, number(min(found), metric="error") if found else "")
    show(console, indented(table))


def show_masks(report: Report, console: Console) -> None:
    """Print how networks do under every kind of mask, level by level: means over trainings."""
    for level in dict.fromkeys(each.level for each in report.transported):
        of_level = [each for each in report.transported if each.level == level]
        kept = f"{100 * of_level[0].kept:.3g} % of the weights"
        show_heading(console, f"Networks trained under masks of {level}", kept)
        cases = [
            Case(split, metric, "none")
            for metric in ("loss", "error")
            for split in of_level[0].trainings[0]
        ]
        table = plain_table("mask", ["trainings", *(f"{c.split} {c.metric}" for c in cases)])
        for mask in dict.fromkeys(each.mask for each in of_level):
            count = sum(len(each.trainings) for each in of_level if each.mask == mask)
            cells = [
                number(summaries.masks(report, case)[f"{mask} mask at {level}"], metric=case.metric)
                for case in cases
            ]
            table.add_row(Text(mask), str(count), *cells)
        show(console, indented(table))
