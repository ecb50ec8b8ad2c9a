"""Recipes in runs: those that look at data, base models, dtypes, and networks that lack tensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import mergekit_perm as pm
from mergekit_perm import checkpoints, networks, pipeline
from mergekit_perm.errors import CheckpointError, RunError, SpecError
from mergekit_perm.merge.fisher import fisher
from mergekit_perm.merge.regmean import regmean
from mergekit_perm.spec import RunSpec, loads

Small = Callable[..., RunSpec]
State = dict[str, torch.Tensor]
FOLDER = Path("out/small")
OPTIONS = {"in_features": 64, "hidden": [8, 8], "num_classes": 10}
QUICK = ("evaluate.simplex=null", "evaluate.points=2")


def state(file: str) -> State:
    return checkpoints.load_state(FOLDER / file)


def merged(name: str) -> State:
    return state(f"merged/{name}/model.safetensors")


def family() -> dict[str, State]:
    return {name: state(f"aligned/{name}.safetensors") for name in "abc"}


def close(one: State, other: State) -> bool:
    return all(torch.allclose(one[name], other[name], rtol=1e-5, atol=1e-7) for name in one)


def test_recipes_with_a_base_model_are_those_of_python(small: Small) -> None:
    recipes = (
        "merge=[{name: t, method: ties, base_model: b, "
        "parameters: {density: 0.5, weight: {a: 2, c: 1}}},"
        " {name: s, method: slerp, base_model: a, networks: [c], parameters: {t: 0.25}}]"
    )
    report = pipeline.run(small(recipes, *QUICK))
    states = family()
    ties = pm.merge(states, method="ties", base_model="b", density=0.5, weight={"a": 2, "c": 1})
    assert close(merged("t"), ties)
    pair = {name: states[name] for name in "ac"}
    assert close(merged("s"), pm.merge(pair, method="slerp", base_model="a", t=0.25))
    assert set(report.merged) == {"t", "s"}
    assert "base model `b`" in (FOLDER / "merged/t/README.md").read_text()


def test_fisher_and_regmean_look_at_the_training_split(small: Small) -> None:
    recipes = (
        "merge=[{name: f, method: fisher, parameters: {count: 20, weight: {a: 2, b: 1, c: 1}}},"
        " {name: r, method: regmean, parameters: {alpha: 0.5, count: 100}}]"
    )
    report = pipeline.run(small(recipes, *QUICK))
    split = pm.data.load("digits").splits["train"]
    module = networks.build("mlp", OPTIONS, seed=0)
    states = family()
    wanted = fisher(states, model=module, split=split, count=20, weight={"a": 2.0})
    assert close(merged("f"), wanted)
    assert close(merged("r"), regmean(states, model=module, split=split, alpha=0.5, count=100))
    assert report.merged["r"].calibration["none"]["test"].n > 0


def test_a_greedy_soup_is_chosen_on_the_held_out_split(small: Small) -> None:
    given = ("merge=[{name: soup, method: greedy_soup}]", "align=null", *QUICK)
    report = pipeline.run(small(*given))
    (note,) = [note for note in report.notes if "soup" in note]
    assert note.startswith("Merged network soup: the soup is of ")
    chosen = note.partition("the soup is of ")[2].partition(",")[0].rstrip(".").split(", ")
    losses = {name: report.networks[name]["test"].loss for name in "abc"}
    best = min(losses, key=lambda name: losses[name])
    assert chosen[0] == best
    # Naive mixtures of networks from other seeds are worse, so that the best stays alone.
    assert report.merged["soup"].calibration["none"]["test"].loss <= losses[best] + 1e-9
    assert close(merged("soup"), state(f"networks/{best}.safetensors"))


def test_what_recipes_that_look_at_data_need(small: Small) -> None:
    fish = "merge=[{name: f, method: fisher, parameters: {weight: [0.1, 0.2]}}]"
    with pytest.raises(SpecError, match="fisher takes one weight for each network"):
        small(fish)
    soup = "merge=[{name: s, method: greedy_soup}]"
    with pytest.raises(SpecError, match="chosen on held-out examples, and only 'train'"):
        small(soup, "evaluate.splits=[train]")
    with pytest.raises(SpecError, match="chosen on a split that is evaluated, and nothing is"):
        small(soup, "evaluate=null")
    with pytest.raises(pm.PermMergeError, match="'fisher' looks at data: name it in a run spec"):
        pm.merge({"a": {}}, method="fisher")


# ------------------------------------------------------------------------------------- checkpoints

TEXT = """
format: perm-merge/run@1
name: small
architecture: mlp
options: {in_features: 64, hidden: [8, 8], num_classes: 10}
networks: {a: {checkpoint: a.safetensors}, b: {checkpoint: b.safetensors}}
align: {reference: a, method: weight_matching}
merge: [{name: mean, method: linear}]
"""


def written(
    name: str, seed: int, *, classes: int = 10, dtype: torch.dtype = torch.float32
) -> State:
    options = {**OPTIONS, "num_classes": classes}
    found = {
        k: v.to(dtype) for k, v in networks.build("mlp", options, seed=seed).state_dict().items()
    }
    checkpoints.save(f"{name}.safetensors", found)
    return found


def spec(*overrides: str) -> RunSpec:
    return loads(TEXT, file="small.yaml", overrides=overrides)


@pytest.mark.parametrize("dtype", ["float16", "float32", "bfloat16", "float64"])
def test_half_precision_is_summed_wide_and_written_as_asked(dtype: str) -> None:
    states = {name: written(name, seed, dtype=torch.float16) for seed, name in enumerate("ab")}
    pipeline.run(spec(f"merge=[{{name: mean, method: linear, out_dtype: {dtype}}}]", "align=null"))
    found = merged("mean")
    for name, tensor in found.items():
        exact = (states["a"][name].double() + states["b"][name].double()) / 2
        assert tensor.dtype == getattr(torch, dtype)
        assert torch.equal(tensor, exact.float().to(tensor.dtype))
    plain = pipeline.run(spec("align=null"), out="out/plain")
    assert plain.merged["mean"].file == "merged/mean/model.safetensors"
    kept = checkpoints.load_state("out/plain/merged/mean/model.safetensors")
    assert {tensor.dtype for tensor in kept.values()} == {torch.float16}


def test_a_head_of_other_classes_is_refused_with_the_way_out() -> None:
    written("a", 0)
    written("b", 1, classes=7)
    with pytest.raises(CheckpointError, match="2 of another shape"):
        pipeline.run(spec())
    with pytest.raises(RunError, match=r"missing: \{filter: head, policy: keep, network: a\}"):
        pipeline.run(spec("networks.b.options={num_classes: 7}"))


def test_a_head_is_kept_bit_for_bit_and_the_rest_is_merged_aligned() -> None:
    first, second = written("a", 0), written("b", 1, classes=7)
    given = "missing={filter: head, policy: keep, network: a}"
    report = pipeline.run(spec(given, "networks.b.options={num_classes: 7}"))
    found = merged("mean")
    assert all(torch.equal(found[name], first[name]) for name in found if "head" in name)
    aligned = state("aligned/b.safetensors")
    for name in found:
        if "head" not in name:
            assert torch.allclose(found[name], (first[name] + aligned[name]) / 2, atol=1e-7)
    assert any("Network b lacks head.weight, head.bias" in note for note in report.notes)
    # Alignment was found without the head: with zeros in its place nothing of it is compared.
    bare = {name: dict(s) for name, s in (("a", first), ("b", second))}
    for one in bare.values():
        one["head.weight"], one["head.bias"] = torch.zeros(10, 8), torch.zeros(10)
    permutations = pm.PermutationSpec.load(FOLDER / "permspec.yaml")
    family = pm.align(bare, permutations, reference="a", method="weight_matching")
    assert torch.equal(aligned["layers.0.weight"], family.states["b"]["layers.0.weight"])


def test_what_is_kept_from_a_network_that_moves_moves_along() -> None:
    written("a", 0, classes=7)
    written("b", 1)
    given = (
        "missing=[{filter: head, policy: keep, network: b}]",
        "networks.a.options={num_classes: 10}",
    )
    pipeline.run(spec(*given))
    found = merged("mean")
    assert torch.equal(found["head.weight"], state("aligned/b.safetensors")["head.weight"])


def test_union_and_intersection() -> None:
    written("a", 0)
    second = written("b", 1)
    del second["head.bias"]
    checkpoints.save("b.safetensors", second)
    with pytest.raises(CheckpointError, match="1 missing"):
        pipeline.run(spec())
    pipeline.run(spec("missing=union"))
    assert torch.equal(merged("mean")["head.bias"], state("networks/a.safetensors")["head.bias"])
    pipeline.run(spec("missing=intersection"), out="out/less")
    less = checkpoints.load_state("out/less/merged/mean/model.safetensors")
    assert "head.bias" not in less and len(less) == len(merged("mean")) - 1
    # Without a rule for them, other tensors are still an error.
    del second["head.weight"]
    checkpoints.save("b.safetensors", second)
    with pytest.raises(CheckpointError, match=r"head\.weight"):
        pipeline.run(spec("missing={filter: 'glob:*.bias', policy: union}"))


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("{filter: head, policy: keep}", "'network' says whose tensor is kept"),
        ("{policy: union, network: a}", "'network' says whose tensor is kept"),
        ("{policy: keep, network: aa}", "no network 'aa'"),
        ("{policy: drop}", "expected one of error, intersection, union or keep"),
        ("drop", "expected one of error, intersection, union or keep"),
        ("{filter: head}", "the field 'policy' is missing"),
    ],
)
def test_rules_that_are_refused(missing: str, message: str) -> None:
    written("a", 0)
    written("b", 1)
    with pytest.raises(SpecError, match=message):
        spec(f"missing={missing}")


def test_networks_without_tensors_cannot_be_measured() -> None:
    written("a", 0)
    written("b", 1)
    with pytest.raises(SpecError, match="merged networks would lack tensors"):
        spec("missing=intersection", "data=digits", "evaluate={}")


def test_the_same_spec_gives_the_same_bytes(small: Small) -> None:
    given = "merge=[{name: d, method: dare_ties, base_model: a, parameters: {density: 0.5}}]"
    first = pipeline.run(small(given, *QUICK)).merged["d"].sha256
    again = pipeline.run(small(given, *QUICK), out="out/again").merged["d"].sha256
    assert first == again
    other = given.replace("density: 0.5", "density: 0.5, seed: 1")
    assert pipeline.run(small(other, *QUICK), out="out/other").merged["d"].sha256 != first


def test_a_kept_tensor_must_be_there() -> None:
    written("a", 0)
    written("b", 1, classes=7)
    given = (
        "missing={filter: head, policy: keep, network: b}",
        "networks.b.options={num_classes: 7}",
    )
    with pytest.raises(RunError, match="is kept from 'b', which lacks it"):
        pipeline.run(spec(*given))


def test_batch_norm_networks_merge_though_their_counters_differ(small: Small) -> None:
    overrides = (
        "architecture=resnet_cifar",
        "options={depth: 8, width: 2, in_chans: 1, num_classes: 10}",
        "networks.b.train.epochs=1", "networks.c.train.epochs=1",
        "merge=[{name: mean, method: linear, calibrate: batch_norm},"
        " {name: t, method: task_arithmetic, base_model: a}]",
        *QUICK,
    )  # fmt: skip
    report: Any = pipeline.run(small(*overrides))
    counters = [int(s["norm1.num_batches_tracked"]) for s in family().values()]
    assert counters[0] != counters[1]
    for name in ("mean", "t"):
        assert all(bool(t.isfinite().all()) for t in merged(name).values())
        assert bool((merged(name)["norm1.running_var"] >= 0).all())
        assert report.merged[name].calibration["none"]["test"].n > 0


def test_a_filter_that_matches_nothing_is_found_before_training(small: Small) -> None:
    weight = "[{filter: 'glob:laiers*', value: 0.5}, {value: 1}]"
    spec = small(f"merge=[{{name: m, method: linear, parameters: {{weight: {weight}}}}}]")
    with pytest.raises(pm.PermMergeError, match=r"the filter 'glob:laiers\*' matches no tensor"):
        pipeline.make_plan(spec)
    with pytest.raises(pm.PermMergeError, match="matches no tensor"):
        pipeline.run(spec)
    assert not (FOLDER / "networks/a.safetensors").exists()
