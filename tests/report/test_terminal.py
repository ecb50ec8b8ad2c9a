"""What the terminal shows, to the letter. UPDATE_GOLDEN=1 writes the files again."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text

from mergekit_perm.errors import RunError
from mergekit_perm.report import Report, compare, render, render_comparison
from mergekit_perm.report.compare_terminal import _blocks
from mergekit_perm.report.model import Barrier, Change, Point
from mergekit_perm.report.numbers import exact, number
from mergekit_perm.report.show import _encodable
from mergekit_perm.report.terminal import alignment_sentences

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
    assert (
        "It moved no neuron: every permutation found is the identity, and weight_matching found "
        "nothing better than how the networks lay."
    ) in sentences


def test_a_search_that_a_time_limit_ended_says_so(make_report: Make) -> None:
    alignment = make_report().alignment
    assert alignment is not None
    said = "`max_seconds` ended the search: this is the best found by then."
    assert said not in alignment_sentences(alignment, ["a", "b", "c"])
    cut_off = replace(alignment, cut_off=True)
    assert said in alignment_sentences(cut_off, ["a", "b", "c"])


def test_an_objective_that_is_not_of_weights_is_told_apart(make_report: Make) -> None:
    def sentences(saw: str, traces: dict[str, tuple[float, ...]]) -> str:
        alignment = make_report(method="mixed", saw=saw).alignment
        assert alignment is not None
        objective = replace(alignment.objective, traces=traces)
        return " ".join(alignment_sentences(replace(alignment, objective=objective), ["a", "b"]))

    own = "Its own objective, from start to end: "
    assert own + "0.84 to 0.066." in sentences("labels", {"joint": (0.84, 0.1, 0.066)})
    assert own not in sentences("weights", {"joint": (3.0, 4.0)})
    assert own not in sentences("inputs", {})
    many = {f"n{i}": (1.0, 2.0 + i) for i in range(7)}
    assert own + "n0 1 to 2, n1 1 to 3, n2 1 to 4, n3 1 to 5, n4 1 to 6 and 2 more." in (
        sentences("inputs", many)
    )


def test_a_method_that_saw_labels_is_told_from_one_without_data(make_report: Make) -> None:
    words = {}
    for saw in ("weights", "inputs", "labels"):
        alignment = make_report(method="mixed", saw=saw).alignment
        assert alignment is not None
        words[saw] = alignment_sentences(alignment, ["a", "b", "c"])[1]
    assert words == {
        "weights": "It looked at weights alone, at no data.",
        "inputs": "It looked at training INPUTS, at no label.",
        "labels": "It looked at training inputs AND LABELS, which a method without data does not "
        "have.",
    }


def test_what_the_inner_products_say_about_no_gain(make_report: Make) -> None:
    alignment = make_report().alignment
    assert alignment is not None
    fallen = replace(alignment, objective=replace(alignment.objective, after=2.0))
    sentence = "By their weights the networks lie no closer together than before."
    assert sentence in alignment_sentences(fallen, ["a", "b", "c"])
    assert sentence not in alignment_sentences(alignment, ["a", "b", "c"])


def test_only_the_least_alike_groups_are_shown(make_report: Make) -> None:
    report = make_report()
    assert report.alignment is not None
    groups = tuple(
        replace(report.alignment.groups[0], name=f"layers.{i}", similarity=Change(0.0, 1 - i / 100))
        for i in range(40)
    )
    alignment = replace(report.alignment, groups=groups)
    text = shown(lambda console: render(replace(report, alignment=alignment), console))
    block = text.partition("least alike groups")[2].partition("Loss barriers")[0]
    names = [line.split()[0] for line in block.splitlines()[1:] if line]
    assert names == [f"layers.{i}" for i in range(39, 29, -1)] + ["all"]
    assert "all 40 groups" in block and "0.8050" in block


def test_a_report_of_an_earlier_version_has_no_table_of_groups(make_report: Make) -> None:
    data = make_report().to_json()
    del data["alignment"]["saw"]
    for group in data["alignment"]["groups"]:
        del group["objective"], group["similarity"]
    report = Report.from_json(data)
    assert report.alignment is not None and report.alignment.saw == "weights"
    assert "cosine" not in shown(lambda console: render(report, console))


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
    assert number(-0.00001) == "0.0000" and number(-0.00001, metric="error") == "0.00 %"
    assert number(999.9) == "999.9000" and number(123456.0) == "1.235e+05"
    assert exact(3e-5) == "3e-05" and exact(0.05, metric="error") == "5 %"


def test_comparison_side_by_side(make_report: Make) -> None:
    first, second = make_report(), make_report(name="other", method="mixed", saw="labels")
    better = tuple(replace(b, barrier=b.barrier / 2) for b in second.barriers)
    second = replace(second, barriers=better)
    comparison = compare([first, second], split="test")
    check("comparison", shown(lambda console: render_comparison(comparison, console)))
    row = comparison.rows[0]
    assert row.values == (0.5, 0.25)
    assert row.alignment == "naive"
    assert [row.is_best(place) for place in (0, 1)] == [False, True]
    # What saw labels is not ranked with what saw weights alone.
    aligned = [row for row in comparison.rows if row.alignment == "aligned"]
    assert aligned
    assert not any(row.is_best(place) for row in aligned for place in (0, 1))
    assert comparison.to_json()["rows"][0]["differences"] == [None, -0.25]
    assert comparison.to_json()["alignments"] == [
        {"method": "weight_matching", "saw": "weights"},
        {"method": "mixed", "saw": "labels"},
    ]


def test_a_run_without_alignment_has_none_to_compare(make_report: Make) -> None:
    merged = replace(make_report(), alignment=None)
    assert compare([merged, make_report()]).to_json()["alignments"][0] is None
    text = shown(lambda console: render_comparison(compare([merged, make_report()]), console))
    assert "  example (1)  none\n" in text
    assert "alignment\n" not in shown(lambda c: render_comparison(compare([merged]), c))


def test_many_runs_wrap_into_blocks_and_share_no_name(make_report: Make) -> None:
    comparison = compare([make_report()] * 4, metric="loss", split="test")
    assert comparison.names == ("example (1)", "example (2)", "example (3)", "example (4)")
    text = shown(lambda console: render_comparison(comparison, console))
    assert text.count("test loss") == 2


def test_rows_that_a_run_does_not_have_are_empty(make_report: Make) -> None:
    fewer = replace(make_report(), barriers=make_report().barriers[:1])
    comparison = compare([fewer, make_report()], metric="loss", split="train")
    missing = next(row for row in comparison.rows if row.label == "b - c")
    assert missing.values == (None, 1.0) and not any(map(missing.is_best, (0, 1)))
    rows = {(r["figure"], r["alignment"]): r for r in comparison.to_json()["rows"]}
    assert rows["b - c", "naive"]["differences"] == [None, None]
    assert rows["a - b", "naive"]["differences"] == [None, 0.0]
    assert " - " in shown(lambda console: render_comparison(comparison, console))


def test_an_unknown_metric_or_split_is_refused(make_report: Make) -> None:
    with pytest.raises(RunError) as error:
        compare([make_report()], metric="los")
    assert str(error.value) == (
        "no run has the metric 'los' (did you mean 'loss'?); there is loss, error"
    )
    with pytest.raises(RunError, match="there is no barrier at all"):
        compare([replace(make_report(), barriers=(), merged={})], split="test")
    with pytest.raises(RunError) as error:
        compare([])
    assert str(error.value) == "there is nothing to compare; name at least one run"


def renamed(report: Report, names: dict[str, str]) -> Report:
    """Return `report` with other names for its networks."""

    def put(data: object) -> object:
        if isinstance(data, dict):
            return {names.get(key, key): put(value) for key, value in data.items()}
        if isinstance(data, list):
            return [put(value) for value in data]
        return names.get(data, data) if isinstance(data, str) else data

    return Report.from_json(put(report.to_json()))


LONG = {name: f"resnet18-seed-{name}" for name in "abc"}


def test_long_names_wrap_and_no_number_loses_a_digit(make_report: Make) -> None:
    text = shown(lambda console: render(renamed(make_report(reference="b"), LONG), console))
    check("long_names", text)
    assert "…" not in text
    numbers = shown(lambda console: render(make_report(reference="b"), console))
    for word in ("0.0312", "-0.1250", "-12.50", "37.50", ".50 .50 .00", "▁▃█▃▁"):
        # There is a table per split for want of room, and so each split has its curves.
        assert text.count(word) == numbers.count(word) * (2 if word[0] in ".▁" else 1)
    assert text.count("  resnet18-seed-a - resnet18-seed-b  ") == 2
    assert text.count("  resnet18-seed-a -  ") == 4


def test_ascii_terminals_show_what_they_can(make_report: Make) -> None:
    names = {name: "x" * 90 + name for name in "abc"}
    report = replace(renamed(make_report(), names), notes=("Σ of naïve parts…",))
    text = shown(lambda console: render(report, console), encoding="ascii")
    assert "? of na?ve parts~" in text


def test_networks_whose_names_hold_dashes_are_told_apart(make_report: Make) -> None:
    ab = renamed(make_report(), {"a": "x-y", "b": "z"}).barriers[0]
    yz = renamed(make_report(), {"a": "x", "b": "y-z"}).barriers[0]
    report = replace(make_report(), barriers=(ab, replace(yz, barrier=0.125)))
    text = shown(lambda console: render(report, console))
    assert "x-y - z" in text and "x - y-z" in text
    rows = {row.label: row.values for row in compare([report]).rows if row.alignment == "naive"}
    assert rows["x-y - z"] == (0.5,) and rows["x - y-z"] == (0.125,)


def test_what_was_not_measured_is_a_dash(make_report: Make) -> None:
    report = make_report()
    networks = {**report.networks, "b": {"train": report.networks["b"]["train"]}}
    barriers = [b for b in report.barriers if (b.split, b.networks) != ("test", ("a", "b"))]
    report = replace(report, networks=networks, barriers=tuple(barriers))
    lines = [
        " ".join(line.split())
        for line in shown(lambda console: render(report, console)).splitlines()
    ]
    assert "b 0.2500 - 6.25 % -" in lines
    assert "a - b 0.5000 0.0000 - -" in lines


def test_more_than_two_splits_are_shown_in_tables_of_two(make_report: Make) -> None:
    report = make_report()
    third = [replace(b, split="val") for b in report.barriers if b.split == "test"]
    report = replace(report, barriers=(*report.barriers, *third))
    text = shown(lambda console: render(report, console))
    assert text.count("mean pair") == 4 and text.count("val,") == 4 and "…" not in text


def test_calibrations_have_tables_of_their_own(make_report: Make) -> None:
    report = make_report()
    again = [replace(b, calibration="batch_norm") for b in report.barriers]
    text = shown(lambda c: render(replace(report, barriers=(*report.barriers, *again)), c))
    assert text.count("Loss barriers\n") == 1
    assert text.count("Loss barriers  after calibration batch_norm\n") == 1


def test_a_gate_missed_by_little_shows_by_how_much(make_report: Make) -> None:
    gate = replace(make_report().gates[0], value=3e-5, at_most=0.0, passed=False)
    text = shown(lambda console: render(replace(make_report(), gates=(gate,)), console))
    assert "FAILED  aligned simplex barrier of test loss: 3e-05, at most 0\n" in text


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [(5.0, 3.0, "fell from 5 to 3"), (2.0, 2.0, "stayed at 2"), (1.0, 2.0, "rose from 1 to 2")],
)
def test_the_objective_is_said_to_go_where_it_went(
    make_report: Make, before: float, after: float, words: str
) -> None:
    alignment = make_report().alignment
    assert alignment is not None
    objective = replace(alignment.objective, before=before, after=after)
    sentences = alignment_sentences(replace(alignment, objective=objective), ["a", "b", "c"])
    assert sentences[2].endswith(f"the sum of inner products of the weights {words}.")


def test_only_all_units_are_a_hundred_percent(make_report: Make) -> None:
    alignment = make_report().alignment
    assert alignment is not None
    group = replace(alignment.groups[0], size=5000, moved={"a": 0, "b": 5000, "c": 4999})
    sentences = alignment_sentences(replace(alignment, groups=(group,)), ["a", "b", "c"])
    assert sentences[2].startswith("It moved 9,999 of 10,000 units (99.9 %); ")


def test_a_comparison_of_infinite_barriers_is_valid_json(make_report: Make) -> None:
    report = make_report()
    report = replace(report, barriers=(replace(report.barriers[0], barrier=math.inf),))
    rows = json.loads(json.dumps(compare([report, make_report()]).to_json(), allow_nan=False))
    assert rows["rows"][0]["values"] == ["inf", 0.5]
    assert rows["rows"][0]["differences"] == [None, None]


def test_a_comparison_has_merged_networks_and_sums(make_report: Make) -> None:
    other = make_report(name="other")
    better = replace(other.merged["mean"].calibration["none"]["test"], loss=0.125)
    mean = replace(other.merged["mean"], calibration={"none": {"test": better}})
    comparison = compare([make_report(), replace(other, merged={"mean": mean})], metric="loss")
    found = {(r.case.split, r.label, r.alignment): r for r in comparison.rows}
    assert found["test", "merged: mean", None].values == (0.25, 0.125)
    assert found["test", "merged: mean", None].is_best(1)
    assert found["train", "merged: mean", None].values == (0.25, None)
    assert found["test", "worst pair", "aligned"].values == (0.0625, 0.0625)
    assert found["test", "mean pair", "naive"].values == (0.75, 0.75)
    assert found["test", "barycentre", "naive"].values == (-0.125, -0.125)
    curves = {(c.case.split, c.alignment): c.curves for c in comparison.curves}
    heights = [[mean.value for _, mean in curve or ()] for curve in curves["test", "naive"]]
    assert heights == [[0.0, 0.25, 1.0, 0.25, 0.0]] * 2


@pytest.mark.parametrize("runs", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("metric", ["loss", "error"])
def test_every_number_of_a_comparison_is_whole(make_report: Make, runs: int, metric: str) -> None:
    reports = [renamed(make_report(name=f"a-run-with-a-long-name-{i}"), LONG) for i in range(runs)]
    comparison = compare(reports, metric=metric)
    text = shown(lambda console: render_comparison(comparison, console))
    assert "…" not in text
    highest = {"loss": " 1.0000", "error": " 50.00 %"}[metric]
    lines = 3 if runs <= 6 else 2  # the simplex, the worst pair, and of few runs the pair
    assert text.count(highest) == 2 * lines * runs  # splits


def test_without_alignment_there_are_no_columns_for_it(make_report: Make) -> None:
    naive = tuple(b for b in make_report().barriers if b.alignment == "naive")
    report = replace(make_report(), alignment=None, barriers=naive, gates=(), notes=())
    text = shown(lambda console: render(report, console))
    assert "aligned" not in text
    assert [line.split() for line in text.splitlines() if line.startswith("  b - c")] == [
        ["b", "-", "c", "1.0000", "1.0000", "▁▃█▃▁"],
        ["b", "-", "c", "50.00", "%", "50.00", "%", "▁▃█▃▁"],
    ]


def test_the_worst_point_of_a_large_simplex_is_left_to_the_json(make_report: Make) -> None:
    points = [Point(tuple(float(i == k) for i in range(4)), 0.25) for k in range(4)]
    middle = Point((0.25,) * 4, 1.25)
    simplex = Barrier(
        "simplex", tuple("abcd"), "naive", "none", "test", "loss", 1.0, (0.25,) * 4, None,
        (*points, middle),
    )  # fmt: skip
    report = replace(make_report(), barriers=(simplex,))
    lines = [line.split() for line in shown(lambda c: render(report, c)).splitlines()]
    assert ["simplex", "of", "4", "1.0000"] in lines
    assert ["barycentre", "1.0000"] in lines


def test_an_unknown_encoding_is_taken_for_ascii() -> None:
    assert _encodable("é…", "no-such-encoding") == "?~"
    assert _encodable("é…", "utf-8") == "é…"


def test_runs_fill_a_block_to_the_last_column() -> None:
    lines = [("label", [Text("1.0000"), Text("2.0000"), Text("3.0000")])]
    names = ["a", "b", "c"]  # an indent of 2, the label of 5, and 2 + 6 for every run
    assert _blocks(lines, names, 2 + 5 + 3 * 8) == [[0, 1, 2]]
    assert _blocks(lines, names, 2 + 5 + 3 * 8 - 1) == [[0, 1], [2]]
    assert _blocks(lines, names, 1) == [[0], [1], [2]]
