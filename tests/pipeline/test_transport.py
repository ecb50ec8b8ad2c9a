"""Mask transport: masks of one network on another, and what they are compared with."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

import mergekit_perm as pm
from mergekit_perm import checkpoints, pipeline, train
from mergekit_perm.alignment import Alignment
from mergekit_perm.errors import SpecError
from mergekit_perm.pipeline.transport import carried
from mergekit_perm.report import Report, compare, render
from mergekit_perm.report.claims import Claim, Height, findings
from mergekit_perm.report.html import to_html
from mergekit_perm.report.model import Transported
from mergekit_perm.report.repeats import Repeats
from mergekit_perm.spec import RunSpec

Small = Callable[..., RunSpec]
FOLDER = Path("out/small")
GIVEN = (
    "merge=[]", "evaluate.simplex=null", "evaluate.points=2",
    "prune={levels: 3, fraction: 0.5, rewind: 1, exclude: [head.weight]}",
    "evaluate.mask_transport={levels: [prune3], trainings: 2}",
)  # fmt: skip
KINDS = ["own", "permuted", "permuted at its level", "raw", "random", "one-shot"]


@pytest.fixture
def pair(small_text: str) -> Small:
    """Two networks, not three."""

    def load(*overrides: str) -> RunSpec:
        text = small_text.replace("  c: {train: {seed: 2}}\n", "")
        return pm.spec.loads(text, file="small.yaml", overrides=overrides)

    return load


def refuse(*_args: Any, **_options: Any) -> Any:
    raise AssertionError("this was done already")


def state(file: str) -> dict[str, torch.Tensor]:
    return checkpoints.load_state(FOLDER / file)


def test_a_mask_follows_the_neurons_it_is_of() -> None:
    options = {"in_features": 6, "hidden": [8, 8], "num_classes": 3}
    text = pm.networks.permutation_spec_text("mlp", options)
    spec = pm.PermutationSpec.loads(text)
    network = dict(pm.networks.build("mlp", options, seed=0).state_dict())
    names = [name for name in network if name.endswith("weight")][:2]
    whole = train.whole_mask(network, names)
    mask = train.next_mask(network, whole, 0.6)
    # The other network is this one with its neurons elsewhere, so its own mask is known.
    hidden, onto = (
        Alignment(spec.random(generator=np.random.default_rng(seed)), spec) for seed in (1, 2)
    )
    other = dict(hidden.apply(network))
    expected = train.next_mask(other, train.whole_mask(other, names), 0.6)
    # Both are aligned to a third place; the way between them is along one and back the other.
    found = carried(mask, onto, hidden.inverse() @ onto)
    assert all(torch.equal(found[name], expected[name]) for name in names)
    assert any(not torch.equal(mask[name], expected[name]) for name in names)


def test_networks_are_trained_under_every_kind_of_mask(pair: Small) -> None:
    spec = pair(*GIVEN)
    report = pipeline.run(spec)
    assert Report.load(FOLDER) == report
    found = {(t.mask, t.source, t.target): t for t in report.transported}
    assert list(dict.fromkeys(t.mask for t in report.transported)) == KINDS
    for mask in KINDS:
        own = mask in ("own", "one-shot")
        pairs = [("a", "a"), ("b", "b")] if own else [("a", "b"), ("b", "a")]
        assert [key[1:] for key in found if key[0] == mask] == pairs
    # All keep as many weights.
    assert {t.kept for t in report.transported} == {
        train.kept_share(state("masks/a@prune3.safetensors"))
    }
    assert {len(t.trainings) for t in report.transported} == {2}
    # The first training under its own mask is that of pruning.
    data = pm.data.load("digits")
    module = pm.networks.build("mlp", spec.options, seed=0)
    module.load_state_dict(state("networks/b@prune3.safetensors"))
    own = found["own", "b", "b"].trainings
    assert own[0]["test"].loss == pytest.approx(
        pm.evaluate.measure(module, data.splits["test"]).loss, rel=1e-5
    )
    assert own[0] != own[1]
    # The permuted mask is kept, and trained as pruning does from where b rewinds.
    alignments = [Alignment.load(FOLDER / f"permutations/{name}.safetensors") for name in "ab"]
    expected = carried(state("masks/a@prune3.safetensors"), *alignments)
    mask = state("masks/a+b@prune3.safetensors")
    assert all(torch.equal(mask[name], expected[name]) for name in mask)
    module.load_state_dict(state("networks/b@1.safetensors"))
    recipe = train.Recipe(**spec.training("b").keywords())
    train.fit(module, data.splits["train"], recipe, seed=1, start=1, mask=mask)
    measured = pm.evaluate.measure(module, data.splits["test"])
    first = found["permuted", "a", "b"].trainings[0]["test"]
    assert first.loss == pytest.approx(measured.loss, rel=1e-5)
    assert first.error == measured.error


def test_the_largest_weights_at_the_start(pair: Small) -> None:
    report = pipeline.run(pair(*GIVEN, "evaluate.mask_transport.trainings=1"))
    start = state("networks/a@1.safetensors")
    kept = state("masks/a@prune3.safetensors")
    count = sum(int(mask.sum()) for mask in kept.values())
    every = torch.cat([start[name].abs().flatten() for name in kept])
    threshold = every.sort(descending=True).values[count - 1]
    mask = {name: start[name].abs() >= threshold for name in kept}
    assert sum(int(each.sum()) for each in mask.values()) == count
    module = pm.networks.build("mlp", pair().options, seed=0)
    module.load_state_dict(start)
    recipe = train.Recipe(**pair().training("a").keywords())
    data = pm.data.load("digits")
    train.fit(module, data.splits["train"], recipe, seed=0, start=1, mask=mask)
    found = next(t for t in report.transported if (t.mask, t.target) == ("one-shot", "a"))
    measured = pm.evaluate.measure(module, data.splits["test"])
    assert found.trainings[0]["test"].loss == pytest.approx(measured.loss, rel=1e-5)


def test_it_goes_on_where_it_stopped(pair: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pipeline.run(pair(*GIVEN), out="out/whole")
    trained: list[str] = []
    plain = train.fit

    def interrupted(*args: Any, **options: Any) -> Any:
        trained.append(options["task"])
        if len(trained) == 8:
            raise KeyboardInterrupt
        return plain(*args, **options)

    monkeypatch.setattr(train, "fit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(pair(*GIVEN))
    before = len(trained)
    assert pipeline.run(pair(*GIVEN)).transported == whole.transported
    # Nothing that was trained is trained again.
    assert len(set(trained[: before - 1]) & set(trained[before:])) <= 1
    monkeypatch.setattr(train, "fit", refuse)
    assert pipeline.run(pair(*GIVEN)).transported == whole.transported


def test_they_are_lines_and_claims_and_a_table(pair: Small) -> None:
    report = pipeline.run(pair(*GIVEN, "evaluate.mask_transport.level_permutations=false"))
    assert [m for m in KINDS if m != KINDS[2]] == list(
        dict.fromkeys(t.mask for t in report.transported)
    )
    rows = {(r.case.split, r.case.metric, r.label): r for r in compare([report]).rows}
    raw = [t for t in report.transported if t.mask == "raw"]
    values = [run["test"].error for t in raw for run in t.trainings]
    mean = rows["test", "error", "raw mask at prune3"].means[0]
    assert mean is not None and mean.value == pytest.approx(sum(values) / 4)
    own, raw = Height("own mask at prune3"), Height("raw mask at prune3")
    claim = Claim("own", own, True, 1.0, raw, None, "error", "test", "none", None)
    (finding,) = findings([claim], [Repeats("small", (report,))])
    assert finding.value.value == rows["test", "error", "own mask at prune3"].means[0].value
    out = io.StringIO()
    render(report, Console(file=out, width=80, no_color=True))
    lines = out.getvalue().splitlines()
    start = next(i for i, line in enumerate(lines) if "trained under masks of prune3" in line)
    assert lines[start].endswith("12.5 % of the weights")
    assert lines[start + 2].split()[:2] == ["own", "4"]
    assert "b, raw mask of a at prune3, training 2" in to_html(report)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["prune=null"], "network 'a' is not pruned, so that it has no mask"),
        (["align=null"], "masks are permuted as networks are aligned"),
        (["evaluate.mask_transport.levels=[prune9]"], "no checkpoint 'prune9'"),
        (["evaluate.mask_transport.levels=[1]"], "'1' is no level of pruning"),
        (["evaluate.mask_transport.trainings=0"], "trainings"),
    ],
)
def test_what_is_refused(pair: Small, overrides: list[str], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        pair(*GIVEN, *overrides)


def test_reports_say_what_a_mask_is_of() -> None:
    assert Transported.__doc__ is not None
    assert all(kind.split()[0] in Transported.__doc__ for kind in KINDS)
