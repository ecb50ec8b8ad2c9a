"""Tables of what is neither a pair nor a simplex: controls, paths of networks, and masks.

They are the same in a terminal and in HTML.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mergekit_perm.report import summaries
from mergekit_perm.report.model import Composition, Report
from mergekit_perm.report.numbers import number
from mergekit_perm.report.summaries import Case


@dataclass(frozen=True, slots=True)
class ResultTable:
    """A table of words, numbers rounded as they are shown.

    Attributes:
        title: what it is about.
        aside: in which case, or which figures they are.
        label: what the lines are.
        columns: their titles; a line break is where a narrow one may be broken.
        rows: the label of each, and a cell for every column.
    """

    title: str
    aside: str
    label: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def control_tables(report: Report) -> Iterator[ResultTable]:
    """Yield the highest barrier of every control, and the units that alignment found again."""
    if not report.controls:
        return
    first = report.controls[0].calibration
    columns = {(c.split, c.metric): None for c in report.controls if c.calibration == first}
    rows = []
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
        rows.append((label, *cells, number(min(found), metric="error") if found else ""))
    titles = (*(f"{split}\n{metric}" for split, metric in columns), "units\nfound")
    yield ResultTable("Controls", "highest barriers", "", titles, tuple(rows))


def composition_tables(report: Report) -> Iterator[ResultTable]:
    """Yield mean, lowest and highest barrier of every kind of path, beside the run's own."""
    cases = dict.fromkeys(Case(c.split, c.metric, c.calibration) for c in report.compositions)
    for case in cases:
        aside = case.split
        aside += "" if case.calibration == "none" else f", after calibration {case.calibration}"
        of_case = summaries.compositions(report, case)
        yield ResultTable(
            f"{case.metric.capitalize()} barriers along matched networks",
            aside,
            "",
            ("paths", "mean", "lowest", "highest", "this run\nmean", "units\nback"),
            tuple(
                _composition_row(label, [c for c in of_case if c.label == label], case.metric)
                for label in dict.fromkeys(c.label for c in of_case)
            ),
        )


def _composition_row(label: str, some: Sequence[Composition], metric: str) -> tuple[str, ...]:
    heights = [each.barrier for each in some]
    own = [each.aligned for each in some if each.aligned is not None]
    fixed = [each.fixed for each in some if each.fixed is not None]
    cells = (_mean(heights), min(heights), max(heights), _mean(own))
    back = number(_mean(fixed), metric="error") if fixed else ""
    return label, str(len(some)), *(number(value, metric=metric) for value in cells), back


def mask_tables(report: Report) -> Iterator[ResultTable]:
    """Yield how networks do under every kind of mask, level by level: means over trainings."""
    trained = [each for each in report.transported if each.trainings]
    for level in dict.fromkeys(each.level for each in trained):
        of_level = [each for each in trained if each.level == level]
        cases = [
            Case(split, metric, "none")
            for metric in ("loss", "error")
            for split in of_level[0].trainings[0]
        ]
        means = [(case.metric, summaries.masks(report, case)) for case in cases]
        rows = []
        for mask in dict.fromkeys(each.mask for each in of_level):
            count = sum(len(each.trainings) for each in of_level if each.mask == mask)
            cells = [
                number(some[f"{mask} mask at {level}"], metric=metric) for metric, some in means
            ]
            rows.append((mask, str(count), *cells))
        yield ResultTable(
            f"Networks trained under masks of {level}",
            f"{100 * of_level[0].kept:.3g} % of the weights",
            "mask",
            ("trainings", *(f"{case.split} {case.metric}" for case in cases)),
            tuple(rows),
        )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
