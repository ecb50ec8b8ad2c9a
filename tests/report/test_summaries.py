"""Figures that sum up barriers, and curves as characters."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from mergekit_perm.report import summaries
from mergekit_perm.report.model import Point, Report
from mergekit_perm.report.sparkline import ASCII, BLOCKS, marks_for, sparkline

Make = Callable[..., Report]


def test_rows_hold_naive_and_aligned_of_the_same_barrier(make_report: Make) -> None:
    rows = summaries.rows(make_report())
    assert len(rows) == 4 * 4
    first = rows[0]
    assert (first.label, first.case.split, first.case.metric) == ("a - b", "train", "loss")
    assert first.naive is not None and first.aligned is not None
    assert (first.naive.barrier, first.aligned.barrier) == (0.5, 0.0)
    assert rows[3].label == "simplex of 3"


def test_excesses_are_over_the_mix_of_the_ends(make_report: Make) -> None:
    barrier = make_report().barriers[0]
    assert summaries.excesses(barrier) == [0.0, 0.125, 0.5, 0.125, 0.0]


def test_the_barycentre_may_be_below_the_ends(make_report: Make) -> None:
    simplex = make_report().barriers[3]
    assert summaries.barycentre(simplex) == pytest.approx(-0.125)
    assert summaries.barycentre(make_report().barriers[0]) == 0.5
    assert summaries.barycentre(replace(simplex, points=simplex.points[:4])) is None


def test_values_that_are_not_finite_are_infinitely_high(make_report: Make) -> None:
    barrier = make_report().barriers[0]
    points = list(barrier.points)
    points[2] = Point((0.5, 0.5), math.nan)
    assert summaries.excesses(replace(barrier, points=tuple(points)))[1:3] == [0.125, math.inf]
    points[0] = Point((1.0, 0.0), math.inf)
    assert summaries.excesses(replace(barrier, points=tuple(points))) == [math.inf] * 5


def test_worst_and_mean(make_report: Make) -> None:
    pairs = list(make_report().barriers[:3])
    assert summaries.worst(pairs) == 1.0
    assert summaries.mean(pairs) == 0.75
    assert summaries.worst([None]) is None and summaries.mean([]) is None


def test_figures_sum_up_one_case(make_report: Make) -> None:
    def figures(report: Report) -> list[tuple[str, float | None, float | None]]:
        rows = [row for row in summaries.rows(report) if row.case.split == "test"]
        loss = [row for row in rows if row.case.metric == "loss"]
        return [(f.label, f.naive, f.aligned) for f in summaries.figures(loss)]

    both = [("mean pair", 0.75, 0.03125), ("barycentre", -0.125, -0.125)]
    report = make_report(reference="b")
    assert figures(report) == [
        ("worst spoke", 1.0, 0.0625),
        ("worst far edge", 0.75, 0.03125),
        *both,
    ]
    assert figures(make_report()) == [("worst pair", 1.0, 0.0625), *both]
    spokes = replace(report, barriers=tuple(b for b in report.barriers if b.spoke))
    assert figures(spokes) == [("worst spoke", 1.0, 0.0625), ("mean pair", 0.75, 0.03125)]
    single = replace(make_report(), barriers=make_report().barriers[4 * 2 : 4 * 2 + 1])
    assert figures(single) == []


def test_a_sparkline_is_to_scale() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], top=7) == BLOCKS
    assert sparkline([0, 7, 14], top=14) == "▁▅█"
    assert sparkline([-1, 0.0], top=0.0) == "▁▁"
    assert sparkline([], top=1.0) == ""


def test_a_sparkline_keeps_peaks_when_it_is_shortened() -> None:
    curve = [0.0] * 25
    curve[12] = 1.0
    assert sparkline(curve, top=1.0, width=5) == "▁▁█▁▁"
    assert len(sparkline(curve, top=1.0)) == 11


def test_a_sparkline_marks_what_is_no_number() -> None:
    assert sparkline([0.0, math.nan, math.inf, 1.0], top=1.0) == "▁!!█"


def test_terminals_without_blocks_get_ascii() -> None:
    assert marks_for("utf-8") == BLOCKS
    assert marks_for("ascii") == ASCII
    assert marks_for("no such encoding") == ASCII
