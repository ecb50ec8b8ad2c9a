"""Permutations composed along paths and cycles of networks that are matched in pairs."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import mergekit_perm as pm
from mergekit_perm import checkpoints, pipeline
from mergekit_perm.errors import SpecError
from mergekit_perm.pipeline.composition import routes
from mergekit_perm.report import Report, compare, render
from mergekit_perm.report.claims import Claim, Height, findings
from mergekit_perm.report.repeats import repeated
from mergekit_perm.spec import RunSpec
from mergekit_perm.spec.models import CompositionSpec

Small = Callable[..., RunSpec]
FOLDER = Path("out/small")
GIVEN = ("merge=[]", "evaluate.simplex=null", "evaluate.composition={points: 3}")


def state(name: str) -> dict[str, torch.Tensor]:
    return checkpoints.load_state(FOLDER / f"networks/{name}.safetensors")


def height(pair: dict[str, Any]) -> float:
    options = {"in_features": 64, "hidden": [8, 8], "num_classes": 10}
    module = pm.networks.build("mlp", options, seed=0)
    data = pm.data.load("digits")
    found = pm.barrier(pair, module, data, points=3, splits=["test"], device="cpu")
    return next(barrier.barrier for barrier in found if barrier.metric == "loss")


def refuse(*_args: Any, **_options: Any) -> Any:
    raise AssertionError("this was done already")


def test_networks_are_matched_to_the_next_and_on(small: Small) -> None:
    report = pipeline.run(small(*GIVEN))
    assert Report.load(FOLDER) == report
    of_case = [c for c in report.compositions if (c.split, c.metric) == ("test", "loss")]
    # All paths of one and two matchings among three networks, and both ways around.
    assert [c.label for c in of_case] == ["path of 1"] * 6 + ["path of 2"] * 6 + ["cycle of 3"] * 2
    spec = pm.PermutationSpec.load(FOLDER / "permspec.yaml")
    matched: dict[tuple[str, str], Any] = {}
    for one, other in (("a", "b"), ("b", "c"), ("c", "a")):
        pair = {other: state(other), one: state(one)}
        family = pm.align(pair, spec, reference=other, method="weight_matching")
        matched[one, other] = family.permutations[one]
    # a onto b as the two were matched, and from there onto c.
    onto_b = spec.apply(matched["a", "b"], state("a"))
    onto_c = spec.apply(matched["b", "c"], onto_b)
    found = {c.networks: c for c in of_case}
    expected = height({"a": onto_b, "b": state("b")})
    assert found["a", "b"].barrier == pytest.approx(expected, abs=1e-6)
    expected = height({"a": onto_c, "c": state("c")})
    assert found["a", "b", "c"].barrier == pytest.approx(expected, abs=1e-6)
    around = spec.apply(matched["c", "a"], onto_c)
    cycle = found["a", "b", "c", "a"]
    assert cycle.barrier == pytest.approx(height({"one": around, "two": state("a")}), abs=1e-6)
    assert cycle.aligned is None and cycle.fixed is not None and 0 <= cycle.fixed < 1
    # Beside it, the ends as the run has aligned them.
    own = next(
        b.barrier
        for b in report.barriers
        if (b.networks, b.split, b.metric, b.alignment) == (("a", "c"), "test", "loss", "aligned")
    )
    aligned = found["a", "b", "c"].aligned
    assert aligned is not None and aligned <= own + 1e-6


def test_it_goes_on_where_it_stopped(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    first = pipeline.run(small(*GIVEN))
    monkeypatch.setattr(pm.align, "align", refuse)
    monkeypatch.setattr(pm.evaluate, "Engine", refuse)
    assert pipeline.run(small(*GIVEN)).compositions == first.compositions
    plan = pipeline.make_plan(small(*GIVEN))
    assert {step.status for step in plan.steps} == {"done"}
    assert {step.stage.name for step in plan.steps} >= {
        "match/a+b",
        "match/b+a",
        "composition/none",
    }
    with pytest.raises(AssertionError, match="done already"):
        pipeline.run(small(*GIVEN, "align.seed=1"))


def test_routes() -> None:
    names = list("abcd")
    every = routes(names, CompositionSpec(lengths=(1, 3), cycles=(3,), paths=100))
    assert len(every) == 12 + 24 + 8
    assert len(set(every)) == len(every)
    assert all(len(set(route)) == len(route) for route in every[:36])
    cycles = every[36:]
    assert all(route[0] == route[-1] == min(route) for route in cycles)
    some = routes(names, CompositionSpec(lengths=(2,), cycles=(), paths=5, seed=1))
    assert len(some) == 5 and set(some) <= set(routes(names, CompositionSpec(paths=100)))
    assert some != routes(names, CompositionSpec(lengths=(2,), cycles=(), paths=5, seed=2))
    # What is left out is as far as networks go.
    two = routes(list("ab"), CompositionSpec())
    assert two == [("a", "b"), ("b", "a")]


def test_what_takes_more_networks_is_refused(small: Small) -> None:
    with pytest.raises(SpecError) as error:
        small("evaluate.composition={lengths: [1, 3], cycles: [4]}")
    text = str(error.value)
    assert "evaluate.composition.lengths[1]: this takes 4 networks, and the spec has 3" in text
    assert "evaluate.composition.cycles[0]: this takes 4 networks" in text
    with pytest.raises(SpecError, match="networks are matched in pairs as in 'align'"):
        small("align=null", "evaluate.composition={}")


def test_reports_show_means_and_claims_can_be_about_them(small: Small) -> None:
    report = pipeline.run(small(*GIVEN))
    stream = io.StringIO()
    render(report, Console(file=stream, width=80, color_system=None))
    text = stream.getvalue()
    assert text.count("barriers along matched networks") == 4
    lines = [line.split() for line in text.splitlines() if line.strip().startswith("path of 2")]
    heights = [
        c.barrier
        for c in report.compositions
        if (c.label, c.split, c.metric) == ("path of 2", "train", "loss")
    ]
    mean = sum(heights) / 6
    assert lines[0][3:6] == ["6", f"{mean:.4f}", f"{min(heights):.4f}"]
    (row,) = (
        row
        for row in compare([report], metric="loss", split="train").rows
        if row.label == "path of 2"
    )
    assert row.values[0] == pytest.approx(mean)
    claim = Claim(
        "rises", Height("path of 2"), False, 1.0, Height("ends of path of 2"), None, "loss",
        "train", "none", None,
    )  # fmt: skip
    (found,) = findings([claim], repeated([report]))
    assert found.value.value == pytest.approx(mean)
