"""What the terminal shows, to the letter. UPDATE_GOLDEN=1 writes the files again."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from mergekit_perm.errors import RunError
from mergekit_perm.report import Report, compare, render, render_comparison
from mergekit_perm.report.terminal import alignment_sentences, number

GOLDEN = Path(__file__).parent.parent / "golden/report"

Make = Callable[..., Report]


def shown(draw: Callable[[Console], None], *, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    draw(Console(file=stream, width=80, color_system=None, legacy_windows=False))
    stream.flush()
    text = raw.getvalue().decode(encoding)
    assert all(len(line) <= 80 for line in text.splitlines())
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def check(name: str, text: str) -> None:
    file = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(text)
    assert text == file.read_text()


def test_a_joint_report(make_report: Make) -> None:
    check("joint", shown(lambda console: render(make_report(), console)))


def test_a_report_with_a_reference_tells_spokes_from_far_edges(make_report: Make) -> None:
    text = shown(lambda console: render(make_report(reference="b"), console))
    check("reference", text)
    assert "worst spoke" in text and "worst far edge" in text


def test_a_terminal_without_unicode_gets_ascii(make_report: Make) -> None:
    text = shown(lambda console: render(make_report(), console), encoding="ascii")
    assert "_-#-_" in text


def test_a_report_of_a_merge_alone(make_report: Make) -> None:
    report = replace(
        make_report(),
        networks={"a": {}, "b": {}},
        alignment=None,
        barriers=(),
        gates=(),
        notes=(),
        merged={"mean": replace(make_report().merged["mean"], calibration={})},
    )
    check("merge_only", shown(lambda console: render(report, console)))


def test_alignment_that_did_nothing_says_so(make_report: Make) -> None:
    alignment = make_report(moved=0).alignment
    assert alignment is not None
    sentences = alignment_sentences(alignment, ["a", "b", "c"])
    assert "It did nothing: every permutation found is the identity." in sentences


def test_a_trusted_spec_is_called_not_proven(make_report: Make) -> None:
    alignment = make_report().alignment
    assert alignment is not None
    permutations = replace(alignment.permutations, verified=False, trusted=True)
    sentences = alignment_sentences(replace(alignment, permutations=permutations), ["a", "b", "c"])
    assert sentences[-1] == (
        "Permutation spec: mlp's own, trusted, NOT proven; it covers 99.9 % of the parameters."
    )


def test_numbers() -> None:
    assert number(0.12345) == "0.1235"
    assert number(0.12345, metric="error") == "12.35 %"
    assert number(None) == "-"
    assert number(float("inf")) == "inf"


def test_comparison_side_by_side(make_report: Make) -> None:
    first, second = make_report(), make_report(name="other")
    better = tuple(replace(b, barrier=b.barrier / 2) for b in second.barriers)
    comparison = compare([first, replace(second, barriers=better)], split="test")
    check("comparison", shown(lambda console: render_comparison(comparison, console)))
    row = comparison.rows[0]
    assert (row.values, row.best) == ((0.5, 0.25), 0.25)
    assert comparison.to_json()["rows"][0]["differences"] == [None, -0.25]


def test_many_runs_wrap_into_blocks_and_share_no_name(make_report: Make) -> None:
    comparison = compare([make_report()] * 4, metric="loss", split="test")
    assert comparison.runs == ("example (1)", "example (2)", "example (3)", "example (4)")
    text = shown(lambda console: render_comparison(comparison, console))
    assert text.count("test loss") == 2


def test_rows_that_a_run_does_not_have_are_empty(make_report: Make) -> None:
    fewer = replace(make_report(), barriers=make_report().barriers[:1])
    comparison = compare([fewer, make_report()], metric="loss", split="train")
    missing = next(row for row in comparison.rows if row.label == "b-c")
    assert missing.values == (None, 1.0) and missing.best is None
    assert comparison.to_json()["rows"][1]["differences"] == [None, None]
    assert " - " in shown(lambda console: render_comparison(comparison, console))


def test_an_unknown_metric_or_split_is_refused(make_report: Make) -> None:
    with pytest.raises(RunError) as error:
        compare([make_report()], metric="los")
    assert str(error.value) == (
        "no run has the metric 'los' (did you mean 'loss'?); there is loss, error"
    )
    with pytest.raises(RunError, match="there is no barrier at all"):
        compare([replace(make_report(), barriers=())], split="test")
