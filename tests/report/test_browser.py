"""Pages in a browser: every figure is drawn, and nothing is out of reach at any width.

Screenshots stay in build/screenshots, to be looked at.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mergekit_perm.report import Report, compare
from mergekit_perm.report.compare import Comparison, compare_groups
from mergekit_perm.report.compare_figures import compared_figures
from mergekit_perm.report.compare_html import comparison_to_html
from mergekit_perm.report.figures import figures
from mergekit_perm.report.html import to_html
from mergekit_perm.report.repeats import Repeats
from tests.report.conftest import sweep

SCREENSHOTS = Path(__file__).parents[2] / "build/screenshots"

Make = Callable[..., Report]

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)

# What the page itself knows once it is drawn: how tall it is, whether it is wider than its window,
# what scrolls sideways though no key reaches it, and where the figures are.
MEASURE = """<script>
setTimeout(() => {
  const all = [...document.querySelectorAll("*")];
  document.body.dataset.measured = JSON.stringify({
    height: document.documentElement.scrollHeight,
    wider: document.body.scrollWidth - document.body.clientWidth,
    stuck: all.filter((each) => each.scrollWidth > each.clientWidth && each.tabIndex < 0
      && getComputedStyle(each).overflowX === "auto").length,
    figures: [...document.querySelectorAll(".chart")].map((each) => each.getBoundingClientRect())
      .map((box) => [box.left, box.top + scrollY, box.right, box.bottom + scrollY].map(Math.round)),
  });
}, 10000);
</script>"""


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("page", ["report", "comparison", "sweep"])
def test_a_browser_draws_every_figure(
    make_report: Make, of_everything: Report, tmp_path: Path, page: str, width: int
) -> None:
    again = repeats_of(make_report(name="again"))
    text, count = {
        "report": lambda: of_run(on_test(of_everything)),
        "comparison": lambda: of_runs(compare([make_report(), *again], split="test")),
        "sweep": lambda: of_runs(compare_groups(pruned_sweep(of_everything), split="test")),
    }[page]()
    file, picture = tmp_path / "page.html", SCREENSHOTS / f"{page}-{width}.png"
    before, _, after = text.rpartition("</body>")
    # No window is narrower than 500 pixels, but a page can be.
    narrow = f"<style>html {{ width: {width}px; }}</style>{MEASURE}"
    file.write_text(f"{before}{narrow}</body>{after}", encoding="utf-8")
    shown = opened(file, tmp_path, f"--window-size={width},2400", "--dump-dom")
    assert "CONSOLE" not in shown.stderr, shown.stderr
    assert f'data-drawn="{count}"' in shown.stdout
    assert shown.stdout.count("<svg") >= count
    measured = measures(shown.stdout)
    assert measured["wider"] <= 0
    assert measured["stuck"] == 0
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.unlink(missing_ok=True)
    size = f"--window-size={width},{measured['height']}"
    opened(file, tmp_path, size, f"--screenshot={picture}")
    with Image.open(picture) as image:
        assert image.size == (width, measured["height"])
        assert len(measured["figures"]) == count
        for box in measured["figures"]:
            colours = image.crop(box).convert("RGB").getcolors(1 << 24)
            assert colours is not None and len(colours) > 30


def opened(file: Path, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    assert BROWSER is not None
    common = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
        "--hide-scrollbars", "--virtual-time-budget=20000", f"--user-data-dir={folder / 'profile'}",
    ]  # fmt: skip
    return subprocess.run(
        [*common, *options, file.as_uri()], capture_output=True, text=True, timeout=120
    )


def measures(dumped: str) -> dict[str, Any]:
    """What the page found out about itself."""
    match = re.search(r'data-measured="([^"]*)"', dumped)
    assert match is not None
    found: dict[str, Any] = json.loads(html.unescape(match[1]))
    return found


def on_test(report: Report) -> Report:
    """The report with its barriers and matrices on one split alone."""
    parts = ("barriers", "matrices", "compositions", "controls")
    chosen = {p: tuple(x for x in getattr(report, p) if x.split == "test") for p in parts}
    return replace(report, **chosen)


def of_run(report: Report) -> tuple[str, int]:
    return to_html(report), len(figures(report))


def of_runs(comparison: Comparison) -> tuple[str, int]:
    return comparison_to_html(comparison), len(compared_figures(comparison))


def pruned_sweep(report: Report) -> list[Repeats]:
    """Runs of networks that were pruned, over a field of numbers."""
    matrices = report.matrices
    steps = report.checkpoints
    return [
        replace(
            group,
            reports=tuple(
                replace(each, matrices=matrices, checkpoints=steps) for each in group.reports
            ),
        )
        for group in sweep({"options.hidden": [8, 8]}, {"options.hidden": [64, 64]})
    ]


def repeats_of(report: Report) -> list[Report]:
    """The report, and another that repeats it with other seeds and lower barriers."""
    made = replace(report.provenance, repeats="again", seeds={"networks/a": 0})
    lower = tuple(replace(barrier, barrier=barrier.barrier / 2) for barrier in report.barriers)
    return [
        replace(report, provenance=made),
        replace(report, barriers=lower, provenance=replace(made, seeds={"networks/a": 1})),
    ]
