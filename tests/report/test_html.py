"""The HTML report, by itself."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import fields, replace

import pytest

from mergekit_perm.report import Report, charts, compare
from mergekit_perm.report.compare import compare_groups
from mergekit_perm.report.compare_figures import compared_figures
from mergekit_perm.report.compare_html import comparison_to_html
from mergekit_perm.report.figures import figures
from mergekit_perm.report.html import to_html
from tests.report.conftest import sweep

Make = Callable[..., Report]


def test_it_needs_nothing_from_elsewhere(make_report: Make) -> None:
    text = to_html(make_report())
    page = re.sub(r"(<script[^>]*>).*?</script>", r"\1", text, flags=re.DOTALL)
    assert not re.search(r"<(script|link|img|iframe)[^>]*(src|href)=", page)
    assert "http" not in page and "@import" not in page
    assert page.count("</html>") == 1
    assert len(text) > 500_000  # the library itself


def test_it_has_every_figure_with_a_place_a_link_and_a_caption(make_report: Make) -> None:
    report = make_report()
    text = to_html(report)
    match = re.search(r'id="figures">(.*?)</script>', text, re.DOTALL)
    assert match is not None
    specifications = json.loads(match[1])
    assert list(specifications) == [f"figure-{figure.name}" for figure in figures(report)]
    for name in specifications:
        assert text.count(f'id="{name}"') == 1
        assert text.count(f'href="#{name}"') == 1
    assert text.count("<figcaption>") == len(specifications)


def test_it_says_what_the_terminal_says(make_report: Make) -> None:
    text = to_html(replace(make_report(), notes=("Mind <this> & that.",)))
    assert "Mind &lt;this&gt; &amp; that." in text
    assert "by weight_matching" in text
    assert '<th scope="row">simplex of 3</th><td>1.0000</td><td>0.0625</td>' in text
    assert '<th scope="row">merged: mean</th>' in text


def row_of(*cells: str) -> str:
    label, *others = cells
    return f'<tr><th scope="row">{label}</th>{"".join(f"<td>{cell}</td>" for cell in others)}</tr>'


# What a page has for every part of a report: a line of a table, words, or a heading.
TOLD = {
    "name": "<h1>sequences</h1>",
    "networks": row_of("c", "test", "0.2500", "6.25 %", "450"),
    "alignment": "by weight_matching",
    "barriers": row_of("a - c", "0.7500", "0.0312"),
    "merged": row_of("merged: mean", "test", "0.2500", "6.25 %", "450"),
    "gates": "<h2>Gates</h2>",
    "provenance": row_of("dtype", "float32"),
    "notes": "Note: A plain sentence.",
    "matrices": 'id="figure-checkpoints-test-loss-none-a-b"',
    "checkpoints": row_of("b, prune1, 80 % of weights", "test", "0.2500", "6.25 %", "450"),
    "compositions": row_of("path of 2", "2", "0.6250", "0.5000", "0.7500", "0.0469", ""),
    "controls": row_of("planted copy", "0.0000", "0.00 %", "0.0000", "0.00 %", "96.88 %"),
    "transported": row_of("permuted", "2", "0.2500", "0.2500", "12.50 %", "12.50 %"),
}
EMPTY = {
    "alignment": None, "networks": {name: {} for name in "abc"}, "merged": {}, "checkpoints": {},
}  # fmt: skip


@pytest.mark.parametrize("part", [each.name for each in fields(Report) if each.name != "format"])
def test_every_part_of_a_report_is_told(of_everything: Report, part: str) -> None:
    assert TOLD[part] in to_html(of_everything)
    if part not in ("name", "provenance"):
        without = replace(of_everything, **{part: EMPTY.get(part, ())})
        assert TOLD[part] not in to_html(without)


def test_gates_are_told_as_in_the_terminal(make_report: Make) -> None:
    report = make_report()
    failed = replace(report.gates[0], value=0.050001, at_most=0.05, passed=False)
    text = to_html(replace(report, gates=(failed,)))
    assert '<strong class="failed">FAILED</strong>: ' in text
    assert "0.050001, at most 0.05</p>" in text


def test_a_name_that_is_markup_is_shown_as_text(make_report: Make) -> None:
    text = to_html(make_report(name="</title><script>alert(1)</script>"))
    assert "<script>alert(1)" not in text


def test_a_report_without_barriers(make_report: Make) -> None:
    text = to_html(replace(make_report(), barriers=(), alignment=None, merged={}, gates=()))
    assert "<h2>Figures</h2>" not in text
    assert "Provenance" in text


def without_scripts(text: str) -> str:
    return re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)


def opened(text: str, kind: str) -> list[str]:
    """The opening tags of what is of a class."""
    return re.findall(rf'<div class="{kind}"[^>]*>', without_scripts(text))


def test_what_scrolls_is_reached_by_keys_and_has_a_name(of_everything: Report) -> None:
    comparison = compare_groups(sweep({"train.epochs": 20}, {"train.epochs": 30}))
    pages = {
        to_html(of_everything): len(figures(of_everything)),
        comparison_to_html(comparison): len(compared_figures(comparison)),
    }
    for text, count in pages.items():
        tags = opened(text, "chart") + opened(text, "scroll")
        names = [re.findall(r'tabindex="0" role="region" aria-label="([^"]+)"', t) for t in tags]
        assert len(opened(text, "chart")) == count
        assert len(opened(text, "scroll")) == without_scripts(text).count("<table>") > count
        assert all(len(found) == 1 for found in names)
        assert len({found[0] for found in names}) == len(names)


def test_every_figure_has_a_table_of_its_values_and_a_description(of_everything: Report) -> None:
    text = to_html(of_everything)
    drawn = re.findall(r"<figure.*?</figure>", without_scripts(text), re.DOTALL)
    specifications = json.loads(re.findall(r'id="figures">(.*?)</script>', text, re.DOTALL)[0])
    for figure, place in zip(figures(of_everything), drawn, strict=True):
        assert "<details><summary>Values of this figure</summary>" in place
        assert place.count("<tr>") == 1 + len(figure.values.rows) > 1
        for row in figure.values.rows:
            assert row_of(*row) in place
        assert figure.caption in specifications[f"figure-{figure.name}"]["description"]


def test_values_have_units_and_no_places(of_everything: Report) -> None:
    tables = {figure.name: figure.values for figure in figures(of_everything)}
    curve = tables["curves-test-error-none-naive"]
    assert curve.head == ("pair", "share of the second network", "excess, points", "error, %")
    assert curve.rows[2] == ("a - b", "0.5", "25", "50")
    simplex = tables["simplex-test-loss-none-naive"]
    assert simplex.head == ("mixture", "excess, nats", "loss, nats")
    assert simplex.rows[3] == ("0.5 a, 0.5 b", "1", "1.25")
    assert len(tables["matrix-test-loss-none-naive"].rows) == 3  # every pair once
    steps = tables["checkpoints-test-loss-none-a-b"]
    assert steps.head == ("found at", "applied at", "excess, nats")
    assert steps.rows[0] == ("none", "5", "0.25")
    pruning = tables["pruning-test-loss-none-a-b"]
    assert pruning.head == ("permutations", "weights that are left, %", "excess, nats")
    assert tables["masks-test-error-none-trained"].head[-1] == "error, %"


def test_a_figure_of_nothing_has_no_values() -> None:
    assert charts.values_of([]) == charts.Values((), ())


def test_values_of_runs_that_repeat_one_another_have_intervals() -> None:
    comparison = compare_groups(sweep({"train.epochs": 20}, {"train.epochs": 30}))
    found = {figure.name: figure.values for figure in compared_figures(comparison)}
    swept = found["worst-pair-against-train.epochs-test-loss-none-compared"]
    assert swept.head == ("train.epochs", "excess, nats", "from", "to", "runs", "run")
    assert swept.rows[0][0] == "20" and swept.rows[0][4] == "2"
    alone = compared_figures(compare([sweep({})[0].reports[0]]))
    assert all("from" not in figure.values.head for figure in alone)


def test_what_is_infinite_is_told_in_words(make_report: Make) -> None:
    report = make_report()
    barrier = report.barriers[0]
    points = tuple(
        replace(point, value=math.inf) if 0.5 in point.weights else point
        for point in barrier.points
    )
    endless = replace(barrier, barrier=math.inf, points=points)
    curve = figures(replace(report, barriers=(endless,), alignment=None))[0]
    assert curve.values.rows[2] == ("a - b", "0.5", "infinite or no number", "inf")
