"""Heat maps: numbers that can be read on their cells, and scales that are shared."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import vl_convert

from mergekit_perm.report import Report, compare
from mergekit_perm.report.charts import Figure
from mergekit_perm.report.compare_figures import compared_figures
from mergekit_perm.report.figures import figures
from mergekit_perm.report.heat_maps import domain
from mergekit_perm.report.pictures import VEGA_LITE

Make = Callable[..., Report]


def named(found: list[Figure], name: str) -> Figure:
    return next(figure for figure in found if figure.name == name)


def scale(figure: Figure) -> dict[str, Any]:
    found: dict[str, Any] = figure.specification()["layer"][0]["encoding"]["color"]
    return found


def drawn(figure: Figure) -> list[tuple[tuple[int, ...], str]]:
    """The colours of every cell and of the number on it."""
    specification = figure.specification()
    if specification["width"] == "container":
        specification["width"] = 400
    svg = vl_convert.vegalite_to_svg(specification, vl_version=VEGA_LITE)
    cells, words = (
        svg.split(f'class="mark-{kind} role-mark layer_{layer}_marks"')[1].split("</g>")[0]
        for layer, kind in enumerate(("rect", "text"))
    )
    fills = [
        tuple(map(int, re.findall(r"\d+", fill)))
        for fill in re.findall(r'fill="(rgb\([^)]*\))"', cells)
    ]
    return list(zip(fills, re.findall(r'<text[^>]*fill="([^"]*)"', words), strict=True))


def luminance(colour: tuple[int, ...]) -> float:
    parts = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def contrast(cell: tuple[int, ...], words: str) -> float:
    """The contrast of WCAG 2, from 1 for none to 21 for black on white."""
    one, other = sorted([luminance(cell), {"#fff": 1.0, "#000": 0.0}[words]])
    return (other + 0.05) / (one + 0.05)


@pytest.mark.parametrize("low", [0.0, 0.5, 0.96, 1.0])
def test_numbers_can_be_read_on_every_cell(of_sequences: Report, low: float) -> None:
    steps = [low + (1 - low) * place / 8 for place in range(9)]
    rows = (tuple(steps[:3]), tuple(steps[3:6]), tuple(steps[6:]))
    matrices = tuple(replace(m, barriers=rows, naive=rows[0]) for m in of_sequences.matrices)
    pairs = {("a", "b"): low, ("a", "c"): (1 + low) / 2, ("b", "c"): 1.0}
    barriers = tuple(
        replace(b, barrier=pairs[b.networks]) for b in of_sequences.barriers if b.kind == "pair"
    )
    found = figures(replace(of_sequences, matrices=matrices, barriers=barriers))
    for name, cells in (
        ("checkpoints-test-error-none-a-b", 12),
        ("matrix-test-loss-none-naive", 6),
    ):
        colours = drawn(named(found, name))
        assert len(colours) == cells
        assert min(contrast(*each) for each in colours) > 4


def test_colours_begin_at_nothing_so_that_what_hardly_differs_looks_alike() -> None:
    assert domain([0.96, 1.0]) == (0.0, 1.0)
    assert domain([-0.25, 1.0]) == (-0.25, 1.0)
    assert domain([0.0, 0.0]) == (0.0, 1.0)
    assert domain([]) == (0.0, 1.0)


def test_legends_are_below_where_there_is_room_for_their_titles(of_everything: Report) -> None:
    coloured = [
        layer["encoding"]["color"]
        for figure in figures(of_everything)
        for layer in figure.specification().get("layer", [])
        if layer["encoding"].get("color", {}).get("scale", {}).get("scheme")
    ]
    assert len(coloured) == 4 * (2 + 2 + 1)  # of four cases: simplexes, pairs, and checkpoints
    assert {each["legend"]["orient"] for each in coloured} == {"bottom"}


def test_naive_and_aligned_pairs_have_one_scale(make_report: Make) -> None:
    found = figures(make_report())
    for alignment in ("naive", "aligned"):
        ends = scale(named(found, f"matrix-test-error-none-{alignment}"))["scale"]["domain"]
        assert ends == [0.0, 50.0]


def test_matrices_of_several_runs_have_one_scale(of_sequences: Report) -> None:
    higher = tuple(replace(m, naive=(0.0, 1.0, 2.0)) for m in of_sequences.matrices)
    other = replace(of_sequences, name="other", matrices=higher)
    found = compared_figures(compare([of_sequences, other], metric="loss", split="test"))
    maps = [figure for figure in found if figure.kind.startswith("Permutations")]
    assert [scale(figure)["scale"]["domain"] for figure in maps] == [[0.0, 2.0]] * 2
