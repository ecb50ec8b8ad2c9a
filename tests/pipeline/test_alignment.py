"""Alignment in a run: what a method looks at is given to it, planned, and reported."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mergekit_perm import align, pipeline
from mergekit_perm.errors import SpecError
from mergekit_perm.pipeline import inputs as gathering
from mergekit_perm.pipeline.plan import list_stages
from mergekit_perm.report import Report
from mergekit_perm.spec import RunSpec

Small = Callable[..., RunSpec]

# Each method with options that make it quick, what it looks at, and the plan's words for that.
METHODS = {
    "weight_matching": ("{restarts: 1}", "weights"),
    "merge_many": ("{restarts: 1}", "weights"),
    "activation_matching": ("{restarts: 1, count: 64, rows: 64}", "inputs"),
    "mixed": ("{restarts: 1, steps: 2, count: 64, rows: 64}", "labels"),
    "frank_wolfe": ("{max_iterations: 5}", "weights"),
    "sinkhorn": ("{steps: 5}", "weights"),
    "straight_through": ("{steps: 2, count: 64}", "labels"),
}
WORDS = {
    "weights": "which looks at weights alone",
    "inputs": "which looks at training inputs",
    "labels": "which looks at training inputs and labels",
}
# The least of a run, so that what is tested is alignment alone.
LEAST = ("train.epochs=1", "evaluate=null", "merge=[]")


def aligning(small: Small, method: str, options: str, *overrides: str) -> RunSpec:
    section = "{method: " + method + ", " + options.removeprefix("{")
    return small(f"align={section}", *overrides)


def key_in(inputs: gathering.Inputs) -> str:
    return next(stage.key for stage in list_stages(inputs) if stage.name == "align")


def align_key(spec: RunSpec) -> str:
    return key_in(gathering.gather(spec))


def test_every_method_is_tried() -> None:
    assert tuple(METHODS) == tuple(align.METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_what_the_plan_says_is_looked_at_is_looked_at(small: Small, method: str) -> None:
    options, saw = METHODS[method]
    spec = aligning(small, method, options, *LEAST)
    plan = pipeline.make_plan(spec)
    title = next(step.stage.title for step in plan.steps if step.stage.name == "align")
    assert title == f"align a, b, c to joint by {method}, {WORDS[saw]}"
    report = pipeline.run(spec)
    assert report.alignment is not None
    assert (report.alignment.method, report.alignment.saw) == (method, saw)
    assert json.loads(Path("out/small/report.json").read_text())["alignment"]["saw"] == saw
    assert Report.load("out/small") == report


def test_an_objective_that_needs_labels_is_given_them(small: Small) -> None:
    spec = aligning(small, "sinkhorn", "{steps: 2, objective: midpoint}", *LEAST)
    report = pipeline.run(spec)
    assert report.alignment is not None and report.alignment.saw == "labels"


def test_groups_say_what_alignment_did(small: Small) -> None:
    report = pipeline.run(small())
    assert report.alignment is not None
    assert [group.name for group in report.alignment.groups] == ["layers.0", "layers.1"]
    for group in report.alignment.groups:
        assert group.objective is not None and group.similarity is not None
        assert group.objective.after > group.objective.before
        assert 1 >= group.similarity.after > group.similarity.before
        assert group.moved["a"] == 0 and group.size == 8


@pytest.mark.parametrize("method", METHODS)
def test_the_key_follows_the_data_only_where_they_are_looked_at(
    small: Small, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(pipeline.keys, "network_key", lambda _inputs, name, _epoch=None: name)
    found = gathering.gather(aligning(small, method, METHODS[method][0]))
    assert found.data is not None
    train = dataclasses.replace(found.data.splits["train"], fingerprint="another")
    data = dataclasses.replace(found.data, splits={**found.data.splits, "train": train})
    before, after = (key_in(each) for each in (found, dataclasses.replace(found, data=data)))
    assert (after == before) == (METHODS[method][1] == "weights")


def test_the_key_follows_every_option_and_no_device(small: Small) -> None:
    keys = {
        align_key(small(*overrides))
        for overrides in (
            (),
            ("align.seed=1",),
            ("align.max_seconds=100",),
            ("align.method=frank_wolfe",),
            ("align.method=mixed",),
            ("align.method=mixed", "align.strength=0.5"),
            ("align.reference=a",),
        )
    }
    assert len(keys) == 7
    assert align_key(small("evaluate.device=cpu")) == align_key(small())
    assert align_key(small("evaluate.splits=[test]")) == align_key(small())


def test_the_report_says_where_a_time_limit_ended_the_search(small: Small) -> None:
    for limit, ended in ((1e-9, True), (600.0, False)):
        alignment = pipeline.run(small(f"align.max_seconds={limit}")).alignment
        assert alignment is not None and alignment.cut_off is ended


def read_networks() -> tuple[str, ...]:
    return tuple(f"networks.{n}={{checkpoint: out/small/networks/{n}.safetensors}}" for n in "abc")


def test_the_training_split_is_there_where_only_alignment_wants_it(small: Small) -> None:
    pipeline.run(small())
    read = (*read_networks(), "name=read", "evaluate.splits=[test]")
    options = METHODS["activation_matching"][0]
    report = pipeline.run(aligning(small, "activation_matching", options, *read))
    assert report.alignment is not None and report.alignment.saw == "inputs"
    assert {barrier.split for barrier in report.barriers} == {"test"}
    nothing = aligning(small, "activation_matching", options, *read, "evaluate=null")
    assert list(gathering.gather(nothing).data.splits) == ["train"]  # type: ignore[union-attr]
    weights = small(*read)
    assert list(gathering.gather(weights).data.splits) == ["test"]  # type: ignore[union-attr]


def test_without_data_mixed_looks_at_weights_alone(small: Small) -> None:
    pipeline.run(small())
    read = (*read_networks(), "name=read", "data=null", "evaluate=null")
    report = pipeline.run(aligning(small, "mixed", METHODS["mixed"][0], *read))
    assert report.alignment is not None
    assert (report.alignment.method, report.alignment.saw) == ("mixed", "weights")
    with pytest.raises(SpecError, match="straight_through looks at training data"):
        aligning(small, "straight_through", "{steps: 1}", *read)


def test_a_method_left_out_is_mixed_where_there_are_data(small: Small) -> None:
    quick = "align={restarts: 1, steps: 1, count: 64, rows: 64}"
    report = pipeline.run(small(quick, *LEAST))
    assert report.alignment is not None
    assert (report.alignment.method, report.alignment.saw) == ("mixed", "labels")
    assert report.provenance.seeds["align"] == 0
    written = Path("out/small/spec.yaml").read_text()
    assert "  method: mixed\n" in written and "  strength: 1.0\n" in written


def test_the_card_says_what_was_looked_at(small: Small) -> None:
    quick = "align={restarts: 1, steps: 1, count: 64, rows: 64}"
    pipeline.run(small(quick, "train.epochs=1", "evaluate=null"))
    card = Path("out/small/merged/mean/README.md").read_text()
    assert "to the reference `joint` by `mixed`, which looks at training inputs and labels" in card
    assert "the permutation spec, proven, covers 98.53 % of the parameters." in card
    assert "## Barriers" not in card
