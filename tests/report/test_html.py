"""The HTML report, by itself and in a browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest
from PIL import Image

from mergekit_perm.report import Report, compare
from mergekit_perm.report.compare_figures import compared_figures
from mergekit_perm.report.compare_html import comparison_to_html
from mergekit_perm.report.figures import figures
from mergekit_perm.report.html import to_html

SCREENSHOTS = Path(__file__).parents[2] / "build/screenshots"

Make = Callable[..., Report]

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)


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


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("page", ["report", "sequences", "comparison"])
def test_a_browser_draws_every_figure(
    make_report: Make, of_sequences: Report, tmp_path: Path, page: str, width: int
) -> None:
    """Screenshots stay in build/screenshots, to be looked at."""
    assert BROWSER is not None
    first = make_report()
    if page != "comparison":
        report = first if page == "report" else of_sequences
        text, count = to_html(report), len(figures(report))
    else:
        comparison = compare([first, *repeats_of(make_report(name="again"))])
        text, count = comparison_to_html(comparison), len(compared_figures(comparison))
    file, picture = tmp_path / "page.html", SCREENSHOTS / f"{page}-{width}.png"
    file.write_text(text, encoding="utf-8")
    common = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
        "--virtual-time-budget=20000", f"--window-size={width},2400",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]  # fmt: skip
    shown = subprocess.run(
        [*common, "--dump-dom", file.as_uri()], capture_output=True, text=True, timeout=120
    )
    assert "CONSOLE" not in shown.stderr, shown.stderr
    assert f'data-drawn="{count}"' in shown.stdout
    assert shown.stdout.count("<svg") >= count
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.unlink(missing_ok=True)
    subprocess.run(
        [*common, f"--screenshot={picture}", file.as_uri()], capture_output=True, timeout=120
    )
    with Image.open(picture) as image:
        assert image.width == width
        colours = image.convert("RGB").getcolors(1 << 24)
        assert colours is not None and len(colours) > 100


def repeats_of(report: Report) -> list[Report]:
    """The report, and another that repeats it with other seeds and lower barriers."""
    made = replace(report.provenance, repeats="again", seeds={"networks/a": 0})
    lower = tuple(replace(barrier, barrier=barrier.barrier / 2) for barrier in report.barriers)
    return [
        replace(report, provenance=made),
        replace(report, barriers=lower, provenance=replace(made, seeds={"networks/a": 1})),
    ]
