"""A matrix of barriers over checkpoints in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from mergekit_perm.report.model import Matrix, Report
from mergekit_perm.report.numbers import number
from mergekit_perm.report.show import indented, plain_table, show, show_heading
from mergekit_perm.report.summaries import Case

_HEAD = "applied at"


def step_words(step: str) -> str:
    """Return what a checkpoint of a sequence is: an epoch, or a level of pruning."""
    return f"epoch {step}" if step.isdecimal() else step


def show_checkpoints(report: Report, console: Console) -> None:
    """Print how each checkpoint of every sequence does as it is."""
    if not report.checkpoints:
        return
    show_heading(console, "Checkpoints")
    splits = list(dict.fromkeys(
        split
        for steps in report.checkpoints.values()
        for each in steps.values()
        for split in each.metrics
    ))  # fmt: skip
    pruned = any(each.kept < 1 for steps in report.checkpoints.values() for each in steps.values())
    columns = [f"{split} {metric}" for metric in ("loss", "error") for split in splits]
    table = plain_table("", [*(["weights"] if pruned else []), *columns])
    for name, steps in report.checkpoints.items():
        for step, each in steps.items():
            cells = [
                number(getattr(each.metrics[split], metric), metric=metric)
                for metric in ("loss", "error")
                for split in splits
            ]
            kept = [f"{100 * each.kept:.3g} %"] if pruned else []
            table.add_row(Text(f"{name}, {step_words(step)}"), *kept, *cells)
    show(console, indented(table))


def show_matrix(matrix: Matrix, console: Console) -> None:
    """Print where permutations were found in rows, and where they were applied in columns."""
    case = Case(matrix.split, matrix.metric, matrix.calibration)
    rows = [
        [number(value, metric=matrix.metric) for value in row]
        for row in (matrix.naive, *matrix.barriers)
    ]
    aside = " - ".join(matrix.networks)
    show_steps(case, aside, matrix.found_at, matrix.applied_at, rows, console)


def show_steps(
    case: Case,
    aside: str,
    found_at: Sequence[str],
    applied_at: Sequence[str],
    rows: Sequence[Sequence[str]],
    console: Console,
) -> None:
    """Print the cells of a matrix, the row without permutations first.

    Columns that do not fit beside one another come in tables below.
    """
    aside += f", {case.split}"
    aside += "" if case.calibration == "none" else f", after calibration {case.calibration}"
    show_heading(console, f"{case.metric.capitalize()} barriers over checkpoints", aside)
    columns = [step_words(step) for step in applied_at]
    labels = ["no permutation", *(f"found at {step_words(step)}" for step in found_at)]
    room = console.width - 2 - max(map(cell_len, [_HEAD, *labels])) - 2
    width = 2 + max(map(cell_len, [*columns, *(cell for row in rows for cell in row)]))
    at_once = max(1, room // width)
    for first in range(0, len(columns), at_once):
        part = slice(first, first + at_once)
        table = plain_table(_HEAD, columns[part])
        for label, row in zip(labels, rows, strict=True):
            table.add_row(Text(label), *row[part])
        show(console, indented(table))
