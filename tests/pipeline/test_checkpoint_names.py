"""Checkpoints of sequences where networks are named: merged, and paired."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import mergekit_perm as pm
from mergekit_perm import checkpoints, pipeline
from mergekit_perm.alignment import Alignment
from mergekit_perm.report import Report
from mergekit_perm.report.model import Barrier
from mergekit_perm.spec import RunSpec

Small = Callable[..., RunSpec]
FOLDER = Path("out/small")
ALONE = (  # one network, along its training and its pruning
    "networks={a: {train: {seed: 0}}}",
    "train.checkpoints=[0,1]",
    "align=null",
    "evaluate.simplex=null",
)


def state(file: str) -> dict[str, torch.Tensor]:
    return checkpoints.load_state(FOLDER / f"{file}.safetensors")


def barrier(report: Report, one: str, other: str, alignment: str) -> Barrier:
    (found,) = (
        b
        for b in report.barriers
        if (b.networks, b.split, b.metric, b.alignment) == ((one, other), "test", "loss", alignment)
    )
    return found


def test_checkpoints_of_one_network_are_merged(small: Small) -> None:
    merge = "[{name: tail, method: linear, networks: [a@1, a@end], parameters: {weight: {a@1: 3}}}]"
    pipeline.run(small(*ALONE, f"merge={merge}".replace("{a@1: 3}", "{a@1: 3, a@end: 1}")))
    early, end = state("networks/a@1"), state("networks/a")
    for name, tensor in state("merged/tail/model").items():
        assert torch.allclose(tensor, 0.75 * early[name] + 0.25 * end[name], atol=1e-7)
    card = (FOLDER / "merged/tail/README.md").read_text()
    for name, file in (("a@1", "a@1"), ("a@end", "a")):
        sha256 = checkpoints.hashes.content_sha256(FOLDER / f"networks/{file}.safetensors")
        assert f"- `{name}`: `mlp` trained from seed 0" in card and sha256 in card
    assert "trained from seed 0, at epoch 1, SHA-256" in card


def test_merged_checkpoints_are_permuted_as_their_network(small: Small) -> None:
    recipes = (
        "[{name: early, method: linear, networks: [a@1, b@prune1], base_model: null},"
        " {name: from_start, method: task_arithmetic, base_model: a@0, networks: [a, b@1]}]"
    )
    overrides = (
        "train.checkpoints=[0,1]",
        "prune={levels: 1, fraction: 0.5, rewind: 1}",
        "evaluate.simplex=null",
        f"merge={recipes}",
    )
    pipeline.run(small(*overrides))
    aligned = {
        name: Alignment.load(FOLDER / f"permutations/{name[0]}.safetensors").apply(
            state(f"networks/{name}")
        )
        for name in ("a@0", "a@1", "a", "b@1", "b@prune1")
    }
    assert Alignment.load(FOLDER / "permutations/b.safetensors").moved > 0
    for name, tensor in state("merged/early/model").items():
        expected = (aligned["a@1"][name] + aligned["b@prune1"][name]) / 2
        assert torch.allclose(tensor, expected, atol=1e-7)
    for name, tensor in state("merged/from_start/model").items():
        start = aligned["a@0"][name]
        expected = aligned["a"][name] + aligned["b@1"][name] - start
        assert torch.allclose(tensor, expected, atol=1e-6)


def test_a_merge_follows_the_checkpoints_it_is_of(small: Small) -> None:
    def key(*overrides: str) -> str:
        text = "merge=[{name: m, method: linear, networks: [a@1, b]}]"
        plan = pipeline.make_plan(small("train.checkpoints=[0,1]", text, *overrides))
        (found,) = (step.stage.key for step in plan.steps if step.stage.name == "merge/m")
        return found

    assert key() == key()
    assert key() != key("merge.0.networks=[a@0, b]")


def test_pairs_of_checkpoints_have_barriers(small: Small) -> None:
    pairs = "[[a, b], [a@1, b@0], [b@1, b@end]]"
    overrides = ("train.checkpoints=[0,1]", "evaluate.simplex=null", f"evaluate.pairs={pairs}")
    report = pipeline.run(small(*overrides))
    assert Report.load(FOLDER) == report
    aligned = {
        name: dict(
            Alignment.load(FOLDER / f"permutations/{name[0]}.safetensors").apply(
                state(f"networks/{name.removesuffix('@end')}")
            )
        )
        for name in ("a@1", "b@0", "b@1", "b@end")
    }
    module = pm.networks.build("mlp", small().options, seed=0)
    for one, other in (("a@1", "b@0"), ("b@1", "b@end")):
        family = {name: aligned[name] for name in (one, other)}
        expected = next(
            b
            for b in pm.barrier(
                family, module, pm.data.load("digits"), points=5, splits=["test"], device="cpu"
            )
            if b.metric == "loss"
        )
        found = barrier(report, one, other, "aligned")
        assert found.barrier == pytest.approx(expected.barrier, abs=1e-6)
        assert found.spoke is None and len(found.points) == 5
    # Along one training nothing is permuted against anything.
    naive = barrier(report, "b@1", "b@end", "naive").barrier
    assert naive == pytest.approx(barrier(report, "b@1", "b@end", "aligned").barrier, abs=1e-6)
    assert barrier(report, "a@1", "b@0", "naive").barrier != pytest.approx(
        barrier(report, "a@1", "b@0", "aligned").barrier, abs=1e-6
    )


def test_one_network_is_enough_for_pairs_of_its_checkpoints(small: Small) -> None:
    overrides = (*ALONE, "merge=[]", "evaluate.pairs=[[a@0, a@end], [a@1, a@2]]")
    overrides += ("gates=[{barrier: pair, metric: loss, split: test, at_most: 99,"
                  " alignment: naive}]",)  # fmt: skip
    plan = pipeline.make_plan(small(*overrides))
    assert plan.points == 1 + 2 * 5  # the network itself, and both pairs
    report = pipeline.run(small(*overrides))
    heights = [
        barrier(report, *pair, "naive").barrier for pair in (("a@0", "a@end"), ("a@1", "a@2"))
    ]
    assert report.gates[0].value == max(heights)
    again = pipeline.make_plan(small(*overrides))
    assert {step.status for step in again.steps} == {"done"}
