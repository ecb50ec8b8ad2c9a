"""Controls: a random permutation, and a permuted copy that alignment must find again."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import mergekit_perm as pm
from mergekit_perm import checkpoints, pipeline
from mergekit_perm.errors import SpecError
from mergekit_perm.report import Report, compare, render
from mergekit_perm.report.claims import Claim, Height, findings
from mergekit_perm.report.repeats import Repeats
from mergekit_perm.spec import RunSpec

Small = Callable[..., RunSpec]
Killed = Callable[[Callable[[], object], int], list[Any]]
FOLDER = Path("out/small")
GIVEN = (
    "merge=[]",
    "evaluate.simplex=null",
    "evaluate.points=3",
    "evaluate.controls=[random_permutation,planted_copy]",
)


def refuse(*_args: Any, **_options: Any) -> Any:
    raise AssertionError("this was done already")


def test_a_random_permutation_is_of_the_second_of_every_pair(small: Small) -> None:
    report = pipeline.run(small(*GIVEN))
    assert Report.load(FOLDER) == report
    random = {
        c.networks: c.barrier
        for c in report.controls
        if (c.kind, c.split, c.metric) == ("random permutation", "test", "loss")
    }
    assert list(random) == [("a", "b"), ("a", "c"), ("b", "c")]
    spec = pm.PermutationSpec.load(FOLDER / "permspec.yaml")
    states = {
        name: checkpoints.load_state(FOLDER / f"networks/{name}.safetensors") for name in "ab"
    }
    moved = spec.apply(spec.random(generator=np.random.default_rng(0)), states["b"])
    module = pm.networks.build("mlp", small().options, seed=0)
    data = pm.data.load("digits")
    found = pm.barrier(
        {"a": states["a"], "b": moved}, module, data, points=3, splits=["test"], device="cpu"
    )
    assert random["a", "b"] == pytest.approx(found[0].barrier, abs=1e-6)
    # It is as far away as without any, not as near as aligned.
    naive, aligned = (
        next(
            b.barrier
            for b in report.barriers
            if (b.networks, b.split, b.metric, b.alignment) == (("a", "b"), "test", "loss", which)
        )
        for which in ("naive", "aligned")
    )
    assert abs(random["a", "b"] - naive) < abs(random["a", "b"] - aligned)


@pytest.mark.parametrize("reference", ["joint", "b"])
def test_a_planted_copy_is_found_again(small: Small, reference: str) -> None:
    report = pipeline.run(small(*GIVEN, f"align.reference={reference}"))
    planted = [c for c in report.controls if c.kind == "planted copy"]
    assert {c.networks for c in planted} == {("a",) if reference == "joint" else ("b",)}
    assert {(c.split, c.metric) for c in planted} == {
        (split, metric) for split in ("train", "test") for metric in ("loss", "error")
    }
    for control in planted:
        assert control.found == 1.0
        assert control.barrier == pytest.approx(0.0, abs=1e-6)


def test_they_are_not_done_again_and_are_lines_and_claims(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = pipeline.run(small(*GIVEN))
    monkeypatch.setattr(pipeline.controls, "pair_barriers", refuse)
    assert pipeline.run(small(*GIVEN)).controls == report.controls
    labels = {row.label for row in compare([report]).rows}
    assert {"random permutation", "planted copy"} <= labels
    planted, pair = Height("planted copy"), Height("pair", "naive")
    claim = Claim("found", planted, True, 0.5, pair, None, "loss", "test", "none", None)
    (finding,) = findings([claim], [Repeats("small", (report, report))])
    assert finding.verdict == "holds"
    out = io.StringIO()
    render(report, Console(file=out, width=80, no_color=True))
    lines = out.getvalue().splitlines()
    table = lines[lines.index("Controls  highest barriers") :][:5]
    assert table[1].split() == ["train", "train", "test", "test", "units"]
    assert table[3].split()[:2] == ["random", "permutation"]
    assert table[4].split()[-2:] == ["100.00", "%"]


@pytest.mark.parametrize(
    ("given", "stage"),
    [
        (GIVEN, "control/none/random_permutation"),
        ((*GIVEN[:3], "evaluate.composition={points: 3}"), "composition/none"),
    ],
)
def test_points_of_pairs_are_kept_and_refine(
    small: Small, killed: Killed, given: tuple[str, ...], stage: str
) -> None:
    whole = pipeline.run(small(*given), out="out/whole")
    pipeline.run(small(*given))
    (FOLDER / ".stages" / f"{stage.replace('/', '+')}.json").unlink()
    seen = killed(lambda: pipeline.run(small(*given)), 5)
    assert seen == [(1.0, 0.0), (0.0, 1.0), (0.5, 0.5), (1.0, 0.0), (0.0, 1.0)]
    report = pipeline.run(small(*given))
    assert seen[5] == (0.5, 0.5)
    assert (report.controls, report.compositions) == (whole.controls, whole.compositions)
    assert not list(FOLDER.glob(".stages/*.points.jsonl"))


def test_points_are_planned_and_calibrations_apart(small: Small) -> None:
    plain = pipeline.make_plan(small(*GIVEN[:3])).points
    assert pipeline.make_plan(small(*GIVEN)).points == plain + 4 * 3
    report = pipeline.run(small(*GIVEN, "evaluate.calibration=[none,temperature]"))
    assert {c.calibration for c in report.controls} == {"none", "temperature"}
    out = io.StringIO()
    render(report, Console(file=out, width=80, no_color=True))
    assert "planted copy, temperature" in out.getvalue()


def test_without_alignment_there_is_nothing_to_control(small: Small) -> None:
    with pytest.raises(SpecError, match="controls are of permutations"):
        small(*GIVEN, "align=null")
