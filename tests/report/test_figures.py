"""Figures of a report: what they show, that they are valid, and that pictures of them are there."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import altair as alt
from PIL import Image

from mergekit_perm.report import Report
from mergekit_perm.report.charts import Figure
from mergekit_perm.report.figures import figures
from mergekit_perm.report.model import Change
from mergekit_perm.report.pictures import save_figures
from tests.report.drawn import records

Make = Callable[..., Report]


def by_name(report: Report) -> dict[str, Figure]:
    return {figure.name: figure for figure in figures(report)}


def test_every_kind_is_there_in_every_case(make_report: Make) -> None:
    found = figures(make_report())
    cases = ["train loss", "train error", "test loss", "test error"]
    for kind in ("Curves", "Simplex", "Barriers of pairs"):
        for alignment in ("naive", "aligned"):
            of_kind = [f.case for f in found if f.kind == f"{kind}, {alignment}"]
            assert of_kind == cases
    assert [f.title for f in found if not f.case] == ["Similarity by group"]
    names = [figure.name for figure in found]
    assert len(set(names)) == len(names)


def test_specifications_are_valid(make_report: Make) -> None:
    for figure in figures(make_report()):
        specification = figure.chart.to_dict(validate=True)  # raises where the schema says no
        assert specification["$schema"].endswith(f"{alt.SCHEMA_VERSION}.json")


def test_curves_are_the_excesses_of_every_pair(make_report: Make) -> None:
    found = by_name(make_report())
    loss = records(found["curves-test-loss-none-naive"])
    assert {record["pair"] for record in loss} == {"a - b", "a - c", "b - c"}
    first = [(r["share"], r["excess"]) for r in loss if r["pair"] == "b - c"]
    assert first == [(0.0, 0.0), (0.25, 0.25), (0.5, 1.0), (0.75, 0.25), (1.0, 0.0)]
    error = records(found["curves-test-error-none-naive"])
    assert max(record["excess"] for record in error) == 50.0  # percentage points


def test_simplexes_have_corners_and_a_ring_round_the_highest(make_report: Make) -> None:
    figure = by_name(make_report())["simplex-test-loss-none-naive"]
    dots, (ring,) = records(figure, 1), records(figure, 2)
    places = {(round(r["x"], 6), round(r["y"], 6)) for r in dots}
    assert {(0.0, 0.0), (1.0, 0.0), (0.5, round(math.sqrt(3) / 2, 6)), (0.5, 0.0)} < places
    assert ring["mixture"] == "0.5 a, 0.5 b"
    assert ring["excess"] == 1.0
    assert len(dots) == 5


def test_matrices_are_symmetric(make_report: Make) -> None:
    figure = by_name(make_report())["matrix-test-loss-none-aligned"]
    values = {(r["one"], r["other"]): r["barrier"] for r in records(figure)}
    assert values["a", "c"] == values["c", "a"] == 0.03125
    assert len(values) == 6


def test_what_is_infinite_is_a_gap_that_the_caption_counts(make_report: Make) -> None:
    report = make_report()
    barriers = []
    for barrier in report.barriers:
        points = tuple(
            replace(point, value=math.inf) if 0.5 in point.weights else point
            for point in barrier.points
        )
        barriers.append(replace(barrier, barrier=math.inf, points=points))
    found = by_name(replace(report, alignment=None, barriers=tuple(barriers)))
    curves = found["curves-train-loss-none-naive"]
    heights = [r["excess"] for r in records(curves) if r["pair"] == "a - b"]
    assert heights == [0.0, 0.125, None, 0.125, 0.0]
    assert curves.caption.endswith("3 points are infinite or no number, and not shown.")
    simplex = found["simplex-train-loss-none-naive"]
    assert len(records(simplex, 1)) == 4
    assert simplex.caption.endswith("1 point is infinite or no number, and not shown.")
    assert not any(name.startswith(("matrix", "groups")) for name in found)
    for figure in found.values():
        alt.Chart.from_dict(figure.chart.to_dict(validate=True))


def test_controls_stand_between_naive_and_aligned_pairs(of_everything: Report) -> None:
    figure = by_name(of_everything)["controls-test-loss-none-known"]
    figure.chart.to_dict()  # checked against the schema
    heights: dict[str, list[float]] = {}
    for record in records(figure):
        heights.setdefault(record["line"], []).append(record["excess"])
    assert heights == {
        "pair, naive": [0.5, 0.75, 1.0],
        "pair, aligned": [0.0, 0.03125, 0.0625],
        "random permutation": [0.4375, 0.8125],
        "planted copy": [0.0],
    }
    assert "controls-test-loss-none-known" not in by_name(replace(of_everything, controls=()))


def test_paths_stand_by_their_length_beside_the_ends_of_the_run(of_everything: Report) -> None:
    endless = replace(of_everything.compositions[0], networks=("c", "a", "b"), barrier=math.inf)
    report = replace(of_everything, compositions=(*of_everything.compositions, endless))
    found = by_name(report)
    figure = found["compositions-train-loss-none-composed"]
    figure.chart.to_dict()  # checked against the schema
    dots = [(r["line"], r["permutations"], r["networks"], r["excess"]) for r in records(figure)]
    assert dots == [
        ("path of 2", "composed", "a - b - c", 0.5),
        ("path of 2", "of this run", "a - b - c", 0.0625),
        ("path of 2", "composed", "b - c - a", 0.75),
        ("path of 2", "of this run", "b - c - a", 0.03125),
        ("cycle of 3", "composed", "a - b - c - a", 0.375),
        ("path of 2", "composed", "c - a - b", None),
        ("path of 2", "of this run", "c - a - b", 0.0625),
    ]
    assert figure.caption.endswith("1 point is infinite or no number, and not shown.")
    percent = records(found["compositions-test-error-none-composed"])
    assert percent[0]["excess"] == 50.0


def test_every_training_under_a_mask_has_a_dot(of_everything: Report) -> None:
    figure = by_name(of_everything)["masks-test-error-none-trained"]
    figure.chart.to_dict()  # checked against the schema
    dots = [(r["line"], r["level"], r["value"]) for r in records(figure)]
    assert dots[:4] == [
        ("permuted mask", "prune1", 9.375),
        ("permuted mask", "prune1", 15.625),
        ("permuted mask", "prune2", 9.375),
        ("permuted mask", "prune2", 15.625),
    ]
    assert len(dots) == 8
    assert figure.caption == "Error, in percent, of every training."


def test_figures_of_splits_with_like_names_have_names_of_their_own(make_report: Make) -> None:
    report = make_report()
    one = [replace(b, split="val 1") for b in report.barriers if b.split == "test"]
    other = [replace(b, split="val-1") for b in report.barriers if b.split == "test"]
    found = figures(replace(report, barriers=(*one, *other)))
    assert len({figure.name for figure in found}) == len(found)
    assert "curves-val-1-loss-none-naive-2" in {figure.name for figure in found}


def test_a_report_without_barriers_or_figures_of_groups_has_none(make_report: Make) -> None:
    report = make_report()
    assert report.alignment is not None
    group = replace(report.alignment.groups[0], similarity=Change(math.nan, 0.5))
    broken = replace(report, alignment=replace(report.alignment, groups=(group,)), barriers=())
    assert figures(broken) == figures(replace(report, alignment=None, barriers=())) == []


def test_pictures_are_drawn(make_report: Make, tmp_path: Path) -> None:
    chosen = [f for f in figures(make_report()) if "test-loss" in f.name or f.name == "groups"]
    written = save_figures(chosen, tmp_path / "pictures")
    assert len(written) == 2 * len(chosen) == 14
    for file in written:
        if file.suffix == ".svg":
            assert file.read_text(encoding="utf-8").startswith("<svg")
        else:
            with Image.open(file) as image:
                assert min(image.size) > 200
                colours = image.convert("RGB").getcolors(1 << 24)
                assert colours is not None and len(colours) > 10
