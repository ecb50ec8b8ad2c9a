"""What a comparison says in a terminal and for other programs, beyond single cells."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import Console

from mergekit_perm.report import Report, compare, render_comparison, to_csv, to_markdown
from mergekit_perm.report.compare import Comparison
from mergekit_perm.report.compare_html import comparison_to_html

Make = Callable[..., Report]


def shown(comparison: Comparison, *, colour: bool = False) -> str:
    stream = io.StringIO()
    system = "standard" if colour else None
    console = Console(file=stream, width=80, color_system=system, force_terminal=colour)  # type: ignore[arg-type]
    render_comparison(comparison, console)
    return stream.getvalue()


def runs(make_report: Make, *factors: float) -> list[Report]:
    return [
        replace(
            report,
            barriers=tuple(replace(b, barrier=b.barrier * factor) for b in report.barriers),
        )
        for place, factor in enumerate(factors)
        for report in [make_report(name=f"run-{place}")]
    ]


def in_precision(report: Report, dtype: str) -> Report:
    return replace(report, provenance=replace(report.provenance, dtype=dtype))


@pytest.mark.parametrize("name", ["weight_matching-of-three", "x" * 70])
def test_how_runs_were_aligned_wraps_between_words(make_report: Make, name: str) -> None:
    reports = [
        replace(
            make_report(name=f"{name}-{seed}", method="composition", saw="labels"),
            provenance=replace(
                make_report().provenance, repeats="again", seeds={"networks/a": seed}
            ),
        )
        for seed in range(3)
    ]
    text = shown(compare(reports, metric="loss"))
    listed = text.split("\n\n")[0]
    words = ["composition,", "saw", "labels;", "mean", "runs,", "95%", "t-interval"]
    assert [word for word in listed.split() if word in words] == words
    assert name in "".join(listed.split()) or len(name) > 40


def test_of_many_runs_the_best_is_bold_and_differences_are_there(make_report: Make) -> None:
    comparison = compare(runs(make_report, 1, 2, 3, 0.5, 4, 5, 6), metric="loss", split="test")
    block = shown(comparison).split("\n\n")[1]
    lines = {words[0]: words[1:] for words in map(str.split, block.splitlines()) if words}
    assert lines["run-0"][:2] == ["1.0000", "0.0625"]
    assert lines["run-1"][:4] == ["2.0000", "(+1.0000)", "0.1250", "(+0.0625)"]
    assert lines["run-3"][:4] == ["0.5000", "(-0.5000)", "0.0312", "(-0.0312)"]
    coloured = shown(comparison, colour=True)
    assert coloured.count("\x1b[1m0.5000\x1b[0m") == 2  # of the simplex, and of the worst pair
    assert "\x1b[1m2.0000" not in coloured


def test_markdown_has_differences(make_report: Make) -> None:
    text = to_markdown(compare(runs(make_report, 1, 0.5), split="test", metric="loss"))
    assert "In brackets: the difference to run-0.\n" in text
    assert "| simplex of 3, naive | 1.0000 | **0.5000** (-0.5000) |" in text
    assert "In brackets" not in to_markdown(compare(runs(make_report, 1)))


def test_json_has_the_points_of_worst_curves(make_report: Make) -> None:
    one, other = runs(make_report, 1, 1)
    report = compare([one, replace(other, barriers=())], metric="error").to_json()
    found = json.loads(json.dumps(report, allow_nan=False))["curves"]
    naive = next(c for c in found if (c["split"], c["alignment"]) == ("test", "naive"))
    assert (naive["metric"], naive["calibration"]) == ("error", "none")
    heights, missing = naive["points"]
    assert missing is None
    assert [(p["share"], p["excess"]) for p in heights] == [
        (0.0, 0.0), (0.25, 0.125), (0.5, 0.5), (0.75, 0.125), (1.0, 0.0),
    ]  # fmt: skip
    assert {p["interval"] for p in heights} == {None}


def test_csv_has_every_cell_of_matrices(of_sequences: Report) -> None:
    endless = replace(of_sequences.matrices[2], naive=(0.0, math.inf, 1.0))
    matrices = (*of_sequences.matrices[:2], endless, *of_sequences.matrices[3:])
    comparison = compare([replace(of_sequences, matrices=matrices)], metric="loss", split="test")
    lines = list(csv.DictReader(io.StringIO(to_csv(comparison))))
    cells = [line for line in lines if line["figure"] == "a - b over checkpoints"]
    found = {(c["found_at"], c["applied_at"], c["alignment"]): c["value"] for c in cells}
    assert len(found) == len(cells) == 3 + 3 * 3
    assert found["", "5", "naive"] == "inf"
    assert found["20", "prune1", "aligned"] == "0.03125"
    assert {(c["run"], c["method"], c["split"], c["metric"], c["n"]) for c in cells} == {
        ("sequences", "weight_matching", "test", "loss", "1")
    }
    others = [line for line in lines if line not in cells]
    assert {(line["found_at"], line["applied_at"]) for line in others} == {("", "")}


def test_runs_that_differ_in_precision_say_so(make_report: Make) -> None:
    one, other = runs(make_report, 1, 1)
    apart = compare([one, in_precision(other, "bfloat16")])
    for text in (shown(apart), to_markdown(apart), comparison_to_html(apart)):
        assert "measured in float32" in text and "measured in bfloat16" in text
    alike = compare([one, other])
    for text in (shown(alike), to_markdown(alike), comparison_to_html(alike)):
        assert "measured in" not in text
    assert apart.to_json()["precisions"] == ["float32", "bfloat16"]
    lines = list(csv.DictReader(io.StringIO(to_csv(apart))))
    assert {(line["run"], line["precision"]) for line in lines} == {
        ("run-0", "float32"), ("run-1", "bfloat16"),
    }  # fmt: skip


def test_runs_without_alignment_that_differ_in_precision_are_listed(make_report: Make) -> None:
    one, other = (replace(report, alignment=None) for report in runs(make_report, 1, 1))
    text = shown(compare([one, in_precision(other, "bfloat16")]))
    assert "run-1 none; measured in bfloat16 train loss" in " ".join(text.split())
