"""What a step changes in a tensor, picked out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mergekit_perm as pm
from mergekit_perm import derive, networks
from mergekit_perm.align.changes import change
from mergekit_perm.align.descent import Descent, Settings
from mergekit_perm.align.evidence import of_weights
from mergekit_perm.members import assemble
from mergekit_perm.permspec import PermutationSpec

State = dict[str, torch.Tensor]


def network(seed: int = 0) -> tuple[State, PermutationSpec]:
    name, options = "resnet_cifar", {"depth": 8, "width": 8}
    state = dict(networks.build(name, options, seed=seed).state_dict())
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    return state, derive.find(name, options, shapes).spec


def step_of(spec: PermutationSpec, group: str, few: bool) -> dict[str, np.ndarray]:
    """Return a step of one group that moves three of its elements, or all."""
    size = spec.groups.length(group)
    move = np.roll(np.arange(size), 1)
    if few:
        move = np.arange(size)
        move[:3] = [1, 2, 0]
    return dict(assemble(spec.groups, {group: move}))


@pytest.mark.parametrize("few", [True, False])
def test_made_of_its_changes_a_network_is_what_the_step_makes_of_it(few: bool) -> None:
    state, spec = network()
    picked = set()
    for group in spec.groups:
        step = step_of(spec, group, few)
        whole = spec.act(step, state)
        total = {name: tensor.double() * 3 for name, tensor in state.items()}
        for name in spec.carriers(group):
            found = change(state[name], spec.axes[name], spec.groups, step)
            kept = state[name].clone()
            made = found.made(state[name], in_place=False)
            assert made.equal(whole[name])
            assert state[name].equal(kept)  # not in place: what was given stays
            if found.places is not None:
                assert found.made(kept, in_place=True) is kept
                assert kept.equal(whole[name])
            assert found.after.shape == found.part(state[name]).shape
            spread = found.spread(found.after - found.before, state[name])
            assert spread.equal(whole[name] - state[name])
            found.add_to(total[name])
            expected = state[name].double() * 2 + whole[name].double()
            torch.testing.assert_close(total[name], expected, rtol=0, atol=1e-12)
            picked.add(found.places is not None)
    assert picked == {few}


@pytest.mark.parametrize("reference", ["a", "joint"])
def test_networks_that_are_aligned_stay_as_they_were_given(reference: str) -> None:
    states = {name: network(seed)[0] for seed, name in enumerate("abc")}
    spec = network()[1]
    before = {n: {t: value.clone() for t, value in s.items()} for n, s in states.items()}
    family = pm.align(states, spec, reference=reference, method="weight_matching", restarts=2)
    assert any(not family.states["b"][t].equal(before["b"][t]) for t in before["b"])
    for name, state in states.items():
        assert all(value.equal(before[name][t]) for t, value in state.items())


@pytest.mark.parametrize("wide", ["conv1.weight", "head.weight"])
def test_one_tensor_may_be_wider_than_the_others(wide: str) -> None:
    spec = network()[1]
    states = {name: network(seed)[0] for seed, name in enumerate("ab")}
    plain = pm.align(states, spec, reference="a", method="weight_matching")
    for state in states.values():
        state[wide] = state[wide].double()
    found = pm.align(states, spec, reference="a", method="weight_matching")
    assert found.traces["b"][-1] == pytest.approx(plain.traces["b"][-1], rel=1e-3)
    assert found.states["b"][wide].dtype == torch.float64


def test_after_settling_was_taken_back_networks_stay_as_they_were_given() -> None:
    spec = network()[1].bind({name: tuple(t.shape) for name, t in network()[0].items()})
    states = {name: network(seed)[0] for seed, name in enumerate("ab")}
    evidence = of_weights(states, spec)
    before = {n: {t: value.clone() for t, value in s.items()} for n, s in evidence.states.items()}
    still = assemble(spec.groups, {})
    taken_back = 0
    for seed in range(2):
        descent = Descent(
            evidence, dict.fromkeys(states, still), Settings(order="forward", max_sweeps=2),
            generator=np.random.default_rng(seed), anchor="a",
        )  # fmt: skip
        descent.trace = [float("inf")]  # nothing is higher
        descent.settle()
        taken_back += len(descent.trace) == 1
        descent.trace = [0.0]
        descent.descend()
    assert taken_back == 2
    for name, state in evidence.states.items():
        assert all(value.equal(before[name][t]) for t, value in state.items())
