"""Recipes within a run: base model, filters and gradients, what is written and what is redone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from mergekit_perm import networks
from mergekit_perm.errors import MergeError
from mergekit_perm.merge import merge
from mergekit_perm.pipeline import run
from mergekit_perm.spec import RunSpec

Small = Callable[..., RunSpec]
TIES = (
    "merge=[{name: t, method: ties, base_model: c, networks: [a, b], "
    "parameters: {density: [0.2, 0.6], weight: {a: 1, b: [{filter: layers.0, value: 2}]}}}]"
)


def family(out: Path, folder: str = "aligned") -> dict[str, dict[str, torch.Tensor]]:
    return {name: load_file(out / folder / f"{name}.safetensors") for name in "cab"}


def test_a_recipe_on_task_vectors_in_a_run(small: Small, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = run(small(TIES, "evaluate.pairs=none"), out=out)

    written = load_file(out / "merged/t/model.safetensors")
    expected = merge(
        family(out), method="ties", base_model="c", density=[0.2, 0.6],
        weight={"a": 1, "b": [{"filter": "layers.0", "value": 2}]},
    )  # fmt: skip
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[name], expected[name]) for name in written)
    assert list(report.merged) == ["t"]
    recipe = yaml.safe_load((out / "spec.yaml").read_text())["merge"][0]
    assert recipe["base_model"] == "c" and recipe["parameters"]["lambda"] == 1.0
    assert "`ties` with" in (out / "merged/t/README.md").read_text()


def test_a_filter_that_matches_nothing_ends_the_run(small: Small, tmp_path: Path) -> None:
    spec = small(TIES.replace("layers.0", "layer.0"), "evaluate.pairs=none")
    with pytest.raises(MergeError) as error:
        run(spec, out=tmp_path / "out")
    assert "the filter 'layer.0' matches no tensor (did you mean 'layers" in str(error.value)


def test_another_parameter_is_another_merge(small: Small, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(small(TIES, "evaluate.pairs=none"), out=out)
    before = load_file(out / "merged/t/model.safetensors")
    run(small(TIES.replace("0.6]", "0.9]"), "evaluate.pairs=none"), out=out)
    after = load_file(out / "merged/t/model.safetensors")
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_a_gradient_goes_by_the_order_of_the_network(small: Small, tmp_path: Path) -> None:
    """In a file names are sorted: `norm1` comes behind all layers there, and is in the stem."""
    linear = "{a: [1, 0], b: [0, 1]}"
    spec = small(
        "architecture=resnet_cifar", "options={depth: 8, width: 2}", "data=null", "align=null",
        "evaluate=null", f"networks={checkpoints(tmp_path)}",
        f"merge=[{{name: m, method: linear, parameters: {{weight: {linear}}}}}]",
    )  # fmt: skip
    out = tmp_path / "out"
    run(spec, out=out)
    merged = load_file(out / "merged/m/model.safetensors")
    first, last = (load_file(out / f"networks/{name}.safetensors") for name in "ab")
    for stem in ("conv1.weight", "norm1.weight"):
        assert torch.equal(merged[stem], first[stem])
    assert torch.equal(merged["head.weight"], last["head.weight"])


def checkpoints(folder: Path) -> str:
    """Two networks as files, as a run spec names them."""
    for seed, name in enumerate("ab"):
        state = networks.build("resnet_cifar", {"depth": 8, "width": 2}, seed=seed).state_dict()
        state["norm1.weight"] = torch.full_like(state["norm1.weight"], 1.0 + seed)
        save_file(dict(state), folder / f"{name}.safetensors")
    return str({name: {"checkpoint": str(folder / f"{name}.safetensors")} for name in "ab"})
