"""Runs that repeat one another, put together in a comparison."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import vl_convert
from rich.console import Console
from scipy import stats

from mergekit_perm.report import Report, compare, render_comparison, to_csv, to_markdown
from mergekit_perm.report.compare_figures import compared_figures
from mergekit_perm.report.compare_html import comparison_to_html
from mergekit_perm.report.pictures import VEGA_LITE
from mergekit_perm.report.repeats import repeated
from tests.report.drawn import records

Make = Callable[..., Report]

FACTORS = {"wm": (1.0, 1.25, 1.5), "mixed": (0.5, 0.7, 1.1)}


def repeat(report: Report, factor: float, seed: int, repeats: str) -> Report:
    barriers = tuple(
        replace(
            barrier,
            barrier=barrier.barrier * factor,
            points=tuple(
                replace(point, value=0.25 + factor * (point.value - 0.25))
                for point in barrier.points
            ),
        )
        for barrier in report.barriers
    )
    made = replace(report.provenance, repeats=repeats, seeds={"networks/a": seed, "align": 0})
    return replace(report, barriers=barriers, provenance=made)


@pytest.fixture
def repeats(make_report: Make) -> list[Report]:
    """Two methods, each over three seeds, in any order."""
    return [
        repeat(make_report(name=f"{name}-{seed}"), factor, seed, name)
        for name, factors in FACTORS.items()
        for seed, factor in enumerate(factors)
    ]


def test_runs_that_differ_by_seeds_are_one_column(repeats: list[Report]) -> None:
    mixed_up = [repeats[i] for i in (0, 3, 5, 1, 2, 4)]
    comparison = compare(mixed_up, metric="loss", split="test")
    assert comparison.names == ("wm", "mixed")
    assert [column.runs for column in comparison.columns] == [
        ("wm-0", "wm-1", "wm-2"),
        ("mixed-0", "mixed-2", "mixed-1"),
    ]
    row = next(row for row in comparison.rows if row.full_label == "b - c, naive")
    assert row.values == pytest.approx((1.25, 2.3 / 3))
    assert row.means[0] is not None
    assert row.means[0].half == pytest.approx(4.302653 * 0.25 / 3**0.5)
    # Seed by seed, though they came in another order.
    pairs = stats.ttest_rel(FACTORS["mixed"], FACTORS["wm"]).confidence_interval()
    change = row.differences[1]
    assert change is not None and change.half is not None
    assert (change.value - change.half, change.value + change.half) == pytest.approx(
        (pairs.low, pairs.high)
    )


def test_runs_of_other_seeds_are_compared_as_samples(repeats: list[Report]) -> None:
    others = [
        replace(report, provenance=replace(report.provenance, seeds={"networks/a": 10 + place}))
        for place, report in enumerate(repeats[3:])
    ]
    paired, apart = (
        compare([*repeats[:3], *second], metric="loss").rows[0].differences[1]
        for second in (repeats[3:], others)
    )
    assert paired is not None and paired.half is not None
    assert apart is not None and apart.half is not None
    assert apart.value == pytest.approx(paired.value)
    assert apart.half > 2 * paired.half


def test_each_run_has_a_column_if_wanted_or_if_it_repeats_nothing(
    make_report: Make, repeats: list[Report]
) -> None:
    assert compare(repeats, each=True).names == tuple(report.name for report in repeats)
    assert compare(repeats[::3]).names == ("wm-0", "mixed-0")
    # The same seeds again, on another machine, say nothing of what chance does.
    assert compare([repeats[0], repeats[0]]).names == ("wm-0 (1)", "wm-0 (2)")
    # A report of an earlier version does not tell.
    assert len(repeated([make_report(), make_report()])) == 2


def test_names_of_repeats(make_report: Make) -> None:
    def named(*names: str) -> str:
        reports = [repeat(make_report(name=n), 1.0, seed, "x") for seed, n in enumerate(names)]
        (group,) = repeated(reports)
        return group.name

    assert named("wm-1", "wm-2", "wm-12") == "wm"
    assert named("same", "same") == "same"
    assert named("one", "two") == "one"


def test_means_go_by_the_order_of_a_figure(repeats: list[Report]) -> None:
    assert compare(repeats, sort="simplex, naive").names == ("mixed", "wm")


def test_a_run_without_a_figure_is_left_out_of_its_mean(repeats: list[Report]) -> None:
    fewer = replace(repeats[2], merged={}, barriers=repeats[2].barriers[1:])
    first = compare([*repeats[:2], fewer, *repeats[3:]]).rows[0]
    assert first.means[0] is not None and first.means[0].n == 2
    assert first.differences[1] is not None


def test_an_infinite_barrier_has_no_interval(repeats: list[Report]) -> None:
    endless = replace(
        repeats[0], barriers=tuple(replace(b, barrier=math.inf) for b in repeats[0].barriers)
    )
    comparison = compare([endless, *repeats[1:]], metric="loss")
    row = comparison.rows[0]
    assert row.means[0] is not None
    assert (row.means[0].value, row.means[0].half, row.differences[1]) == (math.inf, None, None)
    figure = compared_figures(comparison)[0]
    assert "not shown" in figure.caption


def test_exports_have_intervals(repeats: list[Report]) -> None:
    comparison = compare(repeats, metric="loss", split="test")
    row = comparison.to_json()["rows"][0]
    assert len(row["intervals"]) == 2 and row["difference_intervals"][0] is None
    lines = list(csv.DictReader(io.StringIO(to_csv(comparison))))
    assert lines[0]["run"] == "wm" and lines[0]["n"] == "3"
    assert float(lines[0]["interval"]) == row["intervals"][0]
    assert float(lines[1]["difference_interval"]) == row["difference_intervals"][1]
    assert "mean of 3 runs, 95% t-interval" in to_markdown(comparison)
    assert "| simplex of 3, naive | 1.2500 ±0.6210 |" in to_markdown(comparison)


def test_figures_have_bars_and_bands(repeats: list[Report]) -> None:
    comparison = compare(repeats, metric="loss", split="test")
    heights, naive, aligned = compared_figures(comparison)
    assert (heights.kind, naive.kind, aligned.kind) == (
        "Barriers", "Worst curves, naive", "Worst curves, aligned",
    )  # fmt: skip
    for figure in (heights, naive, aligned):
        figure.chart.to_dict()  # checked against the schema
        assert "95 % t-interval" in figure.caption
    shown = records(naive, 0)
    middle = [record for record in shown if (record["run"], record["share"]) == ("wm", 0.5)]
    assert middle[0]["excess"] == pytest.approx(1.25)
    assert middle[0]["high"] - middle[0]["excess"] == pytest.approx(0.6210, abs=1e-4)
    assert "t-interval" not in compared_figures(compare(repeats[:1]))[0].caption


def test_naive_and_aligned_curves_have_one_axis(repeats: list[Report]) -> None:
    found = compared_figures(compare(repeats))
    for case in ("test loss", "test error"):
        ends = [
            figure.specification()["layer"][0]["encoding"]["y"]["scale"]["domain"]
            for figure in found
            if figure.case == case and figure.kind.startswith("Worst curves")
        ]
        tops = [
            max(record["high"] for record in records(figure, 0))
            for figure in found
            if figure.case == case and figure.kind.startswith("Worst curves")
        ]
        assert ends[0] == ends[1] and len(ends) == 2
        assert ends[0][1] == max(tops) > 2 * min(tops)


def test_legends_of_bands_are_in_full_colours(repeats: list[Report]) -> None:
    figure = compared_figures(compare(repeats, metric="loss", split="test"))[1]
    specification = {**figure.specification(), "width": 400}
    svg = vl_convert.vegalite_to_svg(specification, vl_version=VEGA_LITE)
    symbols = re.findall(r"role-legend-symbol.*?</g>", svg, re.DOTALL)
    assert len(symbols) == 2
    assert not any(re.search(r'opacity="0?\.\d', symbol) for symbol in symbols)


def test_html_has_every_line_and_figure(repeats: list[Report]) -> None:
    comparison = compare(repeats, metric="loss")
    text = comparison_to_html(comparison)
    assert "1.2500 ±0.6210" in text
    assert "In brackets: the difference to wm." in text
    assert "mean of 3 runs" in text and "wm-0, wm-1, wm-2" in text
    assert "<td><strong>" in text
    for figure in compared_figures(comparison):
        assert text.count(f'id="figure-{figure.name}"') == 1


def test_of_many_runs_every_run_is_a_line(repeats: list[Report]) -> None:
    many = [
        replace(report, name=f"{n}-{report.name}", provenance=replace(
            report.provenance, repeats=f"{n}{report.provenance.repeats}"))
        for n in range(4)
        for report in repeats
    ]  # fmt: skip
    comparison = compare(many, metric="loss", split="test")
    assert len(comparison.columns) == 8
    stream = io.StringIO()
    render_comparison(comparison, Console(file=stream, width=80, color_system=None))
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    (first, *_) = (line for line in lines if line.split()[:1] == ["0-wm"] and "±" in line)
    assert first.split()[1:5] == ["1.2500", "±0.6210", "0.0781", "±0.0388"]
    text = stream.getvalue()
    # What sums up the pairs is there, and no pair.
    assert "worst pair, aligned" in text and "b - c" not in text


def test_matrices_are_averaged(of_sequences: Report) -> None:
    reports = []
    for seed in range(3):
        made = replace(of_sequences.provenance, repeats="x", seeds={"networks/a": seed})
        matrices = tuple(
            replace(m, naive=tuple(value + seed for value in m.naive))
            for m in of_sequences.matrices
        )
        reports.append(replace(of_sequences, provenance=made, matrices=matrices))
    comparison = compare(reports, metric="loss", split="test")
    (matrix,) = comparison.matrices
    assert [mean.value for mean in matrix.naive] == [1.0, 1.5, 2.0]
    assert matrix.naive[0].half == pytest.approx(4.302653 / 3**0.5)
    assert matrix.barriers[0][1].half == 0.0
    found = comparison.to_json()["matrices"][0]
    assert found["naive"] == [1.0, 1.5, 2.0] and found["intervals"][1] == [0.0, 0.0, 0.0]
    stream = io.StringIO()
    render_comparison(comparison, Console(file=stream, width=80, color_system=None))
    assert "Loss barriers over checkpoints  sequences: a - b, test" in stream.getvalue()
    assert "1.0000 ±2.4841" in stream.getvalue()
    assert "| no permutation | 1.0000 ±2.4841 | 1.5000 ±2.4841 |" in to_markdown(comparison)
    (figure,) = (f for f in compared_figures(comparison) if f.kind.startswith("Permutations"))
    figure.chart.to_dict()
    cells = {(cell["found"], cell["applied"]): cell for cell in records(figure)}
    assert cells["none", "0"]["high"] == pytest.approx(1 + 2.4841, abs=1e-4)
