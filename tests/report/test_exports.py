"""Comparisons as CSV and Markdown, and in the order of a figure."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from mergekit_perm.errors import RunError
from mergekit_perm.report import Report, compare, to_csv, to_markdown

Make = Callable[..., Report]


def scaled(report: Report, factor: float) -> Report:
    barriers = tuple(replace(b, barrier=b.barrier * factor) for b in report.barriers)
    return replace(report, barriers=barriers)


def test_csv_has_a_line_for_every_value_in_full(make_report: Make) -> None:
    other = scaled(make_report(name="other, too", method="mixed", saw="labels"), 1 / 3)
    comparison = compare([make_report(), other], split="test", metric="loss")
    lines = list(csv.DictReader(io.StringIO(to_csv(comparison))))
    values = [value for row in comparison.rows for value in row.values if value is not None]
    assert [float(line["value"]) for line in lines] == values
    simplex = [x for x in lines if (x["figure"], x["alignment"]) == ("simplex of 3", "naive")]
    assert [line["run"] for line in simplex] == ["example", "other, too"]
    assert [(line["method"], line["saw"]) for line in simplex] == [
        ("weight_matching", "weights"),
        ("mixed", "labels"),
    ]
    assert simplex[0]["difference"] == ""
    assert float(simplex[1]["difference"]) == 1 / 3 - 1.0
    assert {line["alignment"] for line in lines if line["figure"] == "merged: mean"} == {""}


def test_csv_leaves_out_what_a_run_has_not_and_says_what_is_infinite(make_report: Make) -> None:
    without = replace(make_report(), merged={}, alignment=None)
    endless = scaled(make_report(), math.inf)
    lines = list(csv.DictReader(io.StringIO(to_csv(compare([without, endless], metric="loss")))))
    assert {line["run"] for line in lines if line["figure"] == "merged: mean"} == {"example (2)"}
    assert "inf" in {line["value"] for line in lines if line["figure"] == "simplex of 3"}
    assert lines[0]["method"] == ""


def test_markdown_has_tables_with_the_best_in_bold(make_report: Make) -> None:
    other = scaled(make_report(name="a|b"), 0.5)
    text = to_markdown(compare([make_report(), other], split="test", metric="loss"))
    lines = text.splitlines()
    assert lines[:3] == [
        "| alignment | example | a\\|b |",
        "| :--- | ---: | ---: |",
        "|  | weight_matching, saw weights alone | weight_matching, saw weights alone |",
    ]
    assert "### test loss" in lines
    assert "| simplex of 3, naive | 1.0000 | **0.5000** (-0.5000) |" in lines
    assert len({line.count(" | ") for line in lines if line.startswith("| ")}) == 1


def test_runs_come_in_the_order_of_a_figure(make_report: Make) -> None:
    factors = {"middle": 1.0, "high": 2.0, "low": 0.5}
    reports = [scaled(make_report(name=name), factor) for name, factor in factors.items()]
    without = replace(make_report(name="none"), barriers=())
    for figure in ("simplex", "simplex, naive", "simplex of 3", "simplex of 3, aligned"):
        found = compare([without, *reports], sort=figure, metric="loss")
        assert found.names == ("low", "middle", "high", "none")
    row = next(row for row in found.rows if row.full_label == "simplex of 3, naive")
    assert row.values == (0.5, 1.0, 2.0, None)
    assert [each and each.value for each in row.differences] == [None, 0.5, 1.5, None]


def test_a_figure_that_is_not_there(make_report: Make) -> None:
    with pytest.raises(
        RunError, match=r"no run has the figure 'simplx' \(did you mean 'simplex of 3'"
    ):
        compare([make_report()], sort="simplx")
