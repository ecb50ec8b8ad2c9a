"""Matrices of barriers over checkpoints: as data, in a terminal, and as figures."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import pytest
from rich.console import Console

from mergekit_perm.errors import RunError
from mergekit_perm.report import Report, render
from mergekit_perm.report.figures import figures
from mergekit_perm.report.html import to_html
from mergekit_perm.report.matrix_terminal import show_matrix
from tests.report.drawn import records


def shown(report: Report, width: int) -> str:
    stream = io.StringIO()
    for matrix in report.matrices[:1]:
        show_matrix(matrix, Console(file=stream, width=width, color_system=None))
    return stream.getvalue()


def test_it_reads_back_as_it_was(of_sequences: Report) -> None:
    assert Report.from_json(of_sequences.to_json()) == of_sequences


def test_a_matrix_of_another_shape_is_refused(of_sequences: Report) -> None:
    data = of_sequences.to_json()
    data["matrices"][2]["barriers"][1].pop()
    with pytest.raises(RunError, match=r"report\.matrices\[2\]: expected 3 rows and `naive`"):
        Report.from_json(data)


def test_a_terminal_shows_rows_and_columns(of_sequences: Report) -> None:
    assert shown(of_sequences, 80).splitlines() == [
        "",
        "Loss barriers over checkpoints  a - b, train",
        "  applied at         epoch 0  epoch 5  prune1",
        "  no permutation      0.0000   0.5000  1.0000",
        "  found at epoch 0    0.0000   0.2500  0.7500",
        "  found at epoch 5    0.0000   0.0625  0.5000",
        "  found at epoch 20   0.0000   0.0625  0.0312",
    ]


def test_columns_that_do_not_fit_come_below(of_sequences: Report) -> None:
    narrow = shown(of_sequences, 38)
    assert narrow.count("applied at") == 3
    assert max(map(len, narrow.splitlines())) <= 38 + len("Loss barriers over checkpoints")
    numbers = [word for word in shown(of_sequences, 80).split() if "." in word]
    assert sorted(word for word in narrow.split() if "." in word) == sorted(numbers)


def test_the_report_says_where_permutations_were_found(of_sequences: Report) -> None:
    stream = io.StringIO()
    render(of_sequences, Console(file=stream, width=80, color_system=None))
    text = " ".join(stream.getvalue().split())
    assert "The permutations were found at epoch 5, prune1 together, not at the end." in text
    assert text.count("barriers over checkpoints") == 4
    assert "b, prune1 80 % 0.2500 0.2500 6.25 % 6.25 %" in text
    assert "b, prune1, 80 % of weights" in to_html(of_sequences)
    assert of_sequences.alignment is not None
    early = replace(of_sequences, alignment=replace(of_sequences.alignment, at=("5",)))
    assert "found at epoch 5, not at the end" in to_html(early)


def test_a_figure_has_every_cell(of_sequences: Report) -> None:
    drawn = [figure for figure in figures(of_sequences) if figure.kind.startswith("Permutations")]
    assert [figure.case for figure in drawn] == [
        "train loss",
        "train error",
        "test loss",
        "test error",
    ]
    drawn[1].chart.to_dict()  # checked against the schema
    cells = records(drawn[1])
    assert len(cells) == 4 * 3
    found = {(cell["found"], cell["applied"]): cell["excess"] for cell in cells}
    assert found["none", "5"] == 50.0
    assert found["20", "prune1"] == 3.125


def test_an_infinite_barrier_is_a_gap(of_sequences: Report) -> None:
    matrix = replace(of_sequences.matrices[0], naive=(0.0, math.inf, 1.0))
    (figure,) = (
        figure
        for figure in figures(replace(of_sequences, matrices=(matrix,)))
        if figure.kind.startswith("Permutations")
    )
    assert "1 point is infinite or no number" in figure.caption
    assert len(records(figure)) == 11
