"""A matrix of barriers over checkpoints in a terminal."""

from __future__ import annotations

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from mergekit_perm.report.model import Matrix
from mergekit_perm.report.numbers import number
from mergekit_perm.report.show import indented, plain_table, show, show_heading

_HEAD = "applied at epoch"


def show_matrix(matrix: Matrix, console: Console) -> None:
    """Print where permutations were found in rows, and where they were applied in columns.

    Columns that do not fit beside one another come in tables below.
    """
    aside = f"{' - '.join(matrix.networks)}, {matrix.split}"
    aside += "" if matrix.calibration == "none" else f", after calibration {matrix.calibration}"
    show_heading(console, f"{matrix.metric.capitalize()} barriers over checkpoints", aside)
    columns = [str(epoch) for epoch in matrix.applied_at]
    labels = ["no permutation", *(f"found at {epoch}" for epoch in matrix.found_at)]
    cells = [
        [number(value, metric=matrix.metric) for value in row]
        for row in (matrix.naive, *matrix.barriers)
    ]
    room = console.width - 2 - max(map(cell_len, [_HEAD, *labels])) - 2
    width = 2 + max(map(cell_len, [*columns, *(cell for row in cells for cell in row)]))
    at_once = max(1, room // width)
    for first in range(0, len(columns), at_once):
        part = slice(first, first + at_once)
        table = plain_table(_HEAD, columns[part])
        for label, row in zip(labels, cells, strict=True):
            table.add_row(Text(label), *row[part])
        show(console, indented(table))
