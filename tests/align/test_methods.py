"""Every method on networks with nested groups: heads, grouped convolutions alike and unlike."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
import torch
from torch.utils.data import TensorDataset

import mergekit_perm as pm
from mergekit_perm import checkpoints, derive, networks
from mergekit_perm.align import METHODS
from mergekit_perm.data import Split
from mergekit_perm.errors import AlignmentError

torch.set_num_threads(1)

VIT = ("test_vit", {"depth": 2})
RESNEXT = (
    "resnext50_32x4d",
    {"layers": [1] * 4, "channels": [8] * 4, "stem_width": 8, "cardinality": 2, "base_width": 64},
)
UNLIKE = ("tests.derive.odd_modules:UnlikeGroups", {})

SIZE = {
    "tests.derive.odd_modules:UnlikeGroups": (6, 6),
    "test_vit": (160, 160),
    "resnext50_32x4d": (32, 32),
}

# Enough of each to move something.
FEW: dict[str, dict[str, Any]] = {
    "frank_wolfe": {"max_iterations": 3},
    "sinkhorn": {"steps": 30},
    "straight_through": {"steps": 20, "batch_size": 4, "count": 8},
    "activation_matching": {"count": 8, "rows": 64, "restarts": 1},
    "mixed": {"steps": 3, "exchanges": 3, "restarts": 1, "count": 8, "rows": 64, "batch_size": 4},
}


@cache
def spec_of(architecture: str, options: str) -> pm.PermutationSpec:
    """The spec of an architecture with these options, as JSON: derived for the first method."""
    given = json.loads(options)
    shapes = checkpoints.shapes(networks.build(architecture, given, seed=0))
    return derive.find(architecture, given, shapes).spec


@pytest.mark.parametrize(("architecture", "options"), [VIT, RESNEXT, UNLIKE])
@pytest.mark.parametrize("method", METHODS)
def test_nested_groups_are_aligned_and_the_function_stays(
    architecture: str, options: dict[str, Any], method: str
) -> None:
    module = networks.build(architecture, options, seed=0)
    spec = spec_of(architecture, json.dumps(options))
    assert any(group.within for group in spec.groups.values())
    states = {
        name: {
            k: v.clone()
            for k, v in networks.build(architecture, options, seed=seed).state_dict().items()
        }
        for seed, name in enumerate("ab")
    }
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(8, 3, *SIZE[architecture], generator=generator)
    split = Split("train", TensorDataset(inputs, torch.arange(8)))
    one, again = (
        pm.align(states, spec, method=method, model=module, data=split, **FEW.get(method, {}))
        for _ in range(2)
    )
    assert one.permutations == again.permutations
    assert one.objective > one.objective_before
    module.load_state_dict(states["b"])
    with torch.no_grad():
        before = module.eval()(inputs)
        module.load_state_dict(one.states["b"])
        assert torch.allclose(module(inputs), before, rtol=1e-3, atol=1e-4)
    moved = {group for group, p in one.permutations["b"].items() if p.moved}
    assert any(spec.groups[group].within for group in moved)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("given", [float("nan"), -1.0])
def test_no_method_takes_a_time_that_is_none(method: str, given: float) -> None:
    spec = pm.PermutationSpec.loads(
        "format: perm-merge/permspec@1\narchitecture: net\n"
        "groups: {g: 4}\naxes: {w: [g, 3], v: [2, g]}\n"
    )
    states = {name: {"w": torch.rand(4, 3), "v": torch.rand(2, 4)} for name in "ab"}
    split = Split("train", TensorDataset(torch.rand(4, 3), torch.arange(4)))
    with pytest.raises(AlignmentError, match="max_seconds must be at least 0"):
        pm.align(
            states, spec, method=method, model=torch.nn.Linear(3, 4), data=split, max_seconds=given
        )


@pytest.mark.parametrize(
    ("option", "given", "said"),
    [
        ("restarts", 1.5, "restarts must be a whole number, found 1.5"),
        ("max_sweeps", True, "max_sweeps must be a whole number, found True"),
        ("strength", float("inf"), "strength must be a number, found inf"),
        ("ratio", -0.5, "ratio must be at least 0, found -0.5"),
    ],
)
def test_options_out_of_range_are_refused(option: str, given: float, said: str) -> None:
    spec = pm.PermutationSpec.loads(
        "format: perm-merge/permspec@1\narchitecture: net\ngroups: {g: 4}\naxes: {w: [g, 3]}\n"
    )
    states = {name: {"w": torch.rand(4, 3)} for name in "ab"}
    with pytest.raises(AlignmentError) as caught:
        pm.align(states, spec, method="mixed", **{option: given})
    assert str(caught.value) == said
