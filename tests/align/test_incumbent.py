"""What the incumbent says networks are like is what its members make of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from mergekit_perm import checkpoints, derive, networks
from mergekit_perm.align.descent import Settings
from mergekit_perm.align.evidence import of_weights
from mergekit_perm.align.examples import Examples
from mergekit_perm.align.exchanges import Exchange
from mergekit_perm.align.guidance import GuidedDescent
from mergekit_perm.align.incumbent import Incumbent
from mergekit_perm.data import Split

torch.set_num_threads(1)

State = dict[str, torch.Tensor]

MLP = ("mlp", {"in_features": 6, "hidden": [5, 7], "num_classes": 2}, (6,))
VIT = (
    "test_vit",
    {"num_classes": 2, "depth": 2, "embed_dim": 32, "num_heads": 4, "img_size": 32},
    (3, 32, 32),
)
RESNEXT = (
    "resnext50_32x4d",
    {
        **{"num_classes": 2, "layers": [1] * 4, "channels": [16, 32, 64, 128]},
        **{"stem_width": 16, "cardinality": 8, "base_width": 32},
    },
    (3, 32, 32),
)


def incumbent_of(
    name: str, options: dict[str, Any], shape: tuple[int, ...], dtype: torch.dtype
) -> Incumbent:
    """Return that of three networks, at random members."""
    modules = [networks.build(name, options, seed=seed).to(dtype) for seed in range(3)]
    states = {n: dict(m.state_dict()) for n, m in zip("abc", modules, strict=True)}
    shapes = checkpoints.shapes(modules[0])
    spec = derive.find(name, options, shapes).spec.bind(shapes)
    inputs = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    split = Split("train", TensorDataset(inputs, torch.arange(4) % 2))
    examples = Examples(modules[0].eval(), split, torch.device("cpu"))
    placed = of_weights(states, spec).states
    found = Incumbent(spec, examples, states, placed, count=4, batch_size=4, seed=0)
    generator = np.random.default_rng(0)
    members = {
        name: {g: p.indices for g, p in spec.random(generator=generator).items()} for name in states
    }
    found.consider(members, found.permuted(members))
    return found


def same(found: dict[str, State], wanted: dict[str, State]) -> bool:
    return found.keys() == wanted.keys() and all(
        list(found[name]) == list(wanted[name])
        and all(torch.equal(found[name][t], wanted[name][t]) for t in wanted[name])
        and all(found[name][t].dtype == wanted[name][t].dtype for t in wanted[name])
        for name in wanted
    )


@pytest.mark.parametrize("network", [MLP, VIT, RESNEXT], ids=lambda network: network[0])
def test_networks_after_an_exchange_are_those_of_its_members(
    network: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    incumbent = incumbent_of(*network, torch.float32)
    monkeypatch.setattr(incumbent, "excess", lambda *_, limit: limit - 1.0)  # always lower
    groups = incumbent.spec.groups
    for group in (each for each in groups.values() if each.size > 1):
        last = groups.length(group.name) // group.size - 1  # of its blocks
        trial = [Exchange(-1.0, name, group.name, last, 0, group.size - 1) for name in "ac"]
        before = incumbent.permuted(incumbent.members)
        after = incumbent.exchange(trial, before)
        assert after is not None
        assert same(after, incumbent.permuted(incumbent.members))
        assert not same(after, before)


def test_an_exchange_that_does_not_lower_the_excess_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    incumbent = incumbent_of(*MLP, torch.float32)
    monkeypatch.setattr(incumbent, "excess", lambda *_, limit: limit)
    group = next(iter(incumbent.spec.groups))
    before = incumbent.permuted(incumbent.members)
    assert incumbent.exchange([Exchange(-1.0, "a", group, 0, 0, 1)], before) is None
    assert same(before, incumbent.permuted(incumbent.members))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("network", [VIT, RESNEXT], ids=lambda network: network[0])
def test_what_a_descent_has_permuted_is_what_its_members_give(
    network: Any, dtype: torch.dtype
) -> None:
    incumbent = incumbent_of(*network, dtype)
    evidence = of_weights(incumbent.states, incumbent.spec)
    descent = GuidedDescent(
        evidence, incumbent.members, Settings(), generator=np.random.default_rng(0)
    )
    for _ in range(2):
        descent.sweep()
        known = incumbent.permuted(descent.members, descent.current)
        assert same(known, incumbent.permuted(descent.members))
        shared = [t for t in known["b"] if known["b"][t] is descent.current["b"].get(t)]
        assert bool(shared) == (dtype != torch.bfloat16)


def test_no_further_copies_are_made_of_what_is_there() -> None:
    incumbent = incumbent_of(*MLP, torch.float32)
    placed = {
        name: {t: value.clone() for t, value in state.items() if "weight" in t}
        for name, state in incumbent.states.items()
    }
    other = Incumbent(
        incumbent.spec, incumbent.excess.examples, incumbent.states, placed,
        count=4, batch_size=4, seed=0,
    )  # fmt: skip
    for name, state in other.states.items():
        assert all(state[t] is value for t, value in placed[name].items())
        assert state.keys() == incumbent.states[name].keys()
