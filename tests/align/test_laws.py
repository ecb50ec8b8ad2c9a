"""What holds of every alignment, whatever the spec: random groups, random expressions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mergekit_perm import axes
from mergekit_perm.align import align
from mergekit_perm.align.evidence import matched_tensors
from mergekit_perm.align.similarity import best_moves
from mergekit_perm.align.views import views
from mergekit_perm.axes import Axis, Fixed, Whole
from mergekit_perm.axis_text import format_axis
from mergekit_perm.groups import Groups
from mergekit_perm.members import assemble
from mergekit_perm.permspec import PermutationSpec
from tests.strategies import group_sets, problems, state_of
from tests.test_invariance import CASES, difference, draw

State = dict[str, torch.Tensor]
SLOW_LAW = settings(max_examples=25, deadline=None)


def like(state: State, seed: int) -> State:
    return state_of({name: tuple(tensor.shape) for name, tensor in state.items()}, seed)


def inner_product(a: State, b: State, tensors: list[str]) -> float:
    return sum(float((a[t].double() * b[t].double()).sum()) for t in tensors)


@SLOW_LAW
@given(problems(), st.sampled_from(["joint", "b"]), st.integers(0, 99), st.integers(1, 4))
def test_alignment_of_any_spec(
    problem: tuple[PermutationSpec, State], reference: str, seed: int, restarts: int
) -> None:
    spec, first = problem
    states = {"a": first, "b": like(first, 200 + seed), "c": like(first, 300 + seed)}
    kept = {n: {t: v.clone() for t, v in state.items()} for n, state in states.items()}
    family = align(states, spec, reference=reference, seed=seed, restarts=restarts, max_sweeps=3)

    anchor = "a" if reference == "joint" else reference
    assert all(p.moved == 0 for p in family.permutations[anchor].values())
    for n, state in states.items():
        assert all(torch.equal(state[t], kept[n][t]) for t in state)
        applied = spec.apply(family.permutations[n], state)
        assert list(applied) == list(family.states[n]) == list(state)
        assert all(torch.equal(applied[t], family.states[n][t]) for t in state)
    for trace in family.traces.values():
        assert all(b >= a - 1e-9 * abs(a) - 1e-9 for a, b in itertools.pairwise(trace))
    pairs = list(itertools.combinations("abc", 2))
    listed = list(spec.axes)
    for value, those in ((family.objective_before, states), (family.objective, family.states)):
        expected = sum(inner_product(those[m], those[n], listed) for m, n in pairs)
        assert value == pytest.approx(expected, rel=1e-9, abs=1e-9)
    if reference == "joint":
        assert family.objective >= family.objective_before - 1e-9
        assert family.traces["joint"][-1] == pytest.approx(family.objective, rel=1e-9, abs=1e-9)
    else:
        for n in "ac":
            before = inner_product(states["b"], states[n], listed)
            after = inner_product(states["b"], family.states[n], listed)
            assert after >= before - 1e-9
            assert family.traces[n][-1] == pytest.approx(after, rel=1e-9, abs=1e-9)


@SLOW_LAW
@given(problems(), st.integers(0, 99))
def test_a_step_that_counts_every_tensor_gains_what_it_says(
    problem: tuple[PermutationSpec, State], seed: int
) -> None:
    """One group at a time, on a reference of its own: the best moves are never worse than none."""
    spec, first = problem
    bound = spec.bind({name: tuple(tensor.shape) for name, tensor in first.items()})
    other = like(first, 400 + seed)
    ours, theirs = ({t: v.double() for t, v in state.items()} for state in (first, other))
    for view in views(bound, matched_tensors(bound, first)):
        rows = [bound.axes[tensor] for tensor in view.tensors]
        mine = [n for n in bound.groups if any(c.name == view.group for c in bound.groups.chain(n))]
        # Only tensors with one carrying axis and no other place for the same groups are linear.
        if any(
            sum(bool(axes.names(axis) & set(mine)) for axis in row) > 1
            or any(_products_repeat(axis, mine) for axis in row)
            for row in rows
        ):
            continue
        step = assemble(bound.groups, best_moves(view, ours, theirs))
        moved = bound.act(step, theirs)
        tensors = list(view.tensors)
        assert inner_product(ours, moved, tensors) >= inner_product(ours, theirs, tensors) - 1e-9


def _products_repeat(axis: Axis, mine: list[str]) -> bool:
    found = [leaf.group for leaf in axes.leaves(axis) if isinstance(leaf, Whole)]
    return sum(name in mine for name in found) > 1 and "*" in format_axis(axis)


@SLOW_LAW
@given(group_sets(deepest=2), st.integers(0, 99))
def test_a_network_and_its_copy_meet_again(groups: Groups, seed: int) -> None:
    """Where nothing couples the groups, a planted member is found at once, nested groups too."""
    alone = PermutationSpec(groups, {name: (Whole(name), Fixed(2)) for name in groups})
    state = state_of({name: (groups.length(name), 2) for name in groups}, seed)
    planted = alone.random(generator=np.random.default_rng(seed))
    family = align({"a": state, "b": alone.apply(planted, state)}, alone, reference="a")
    assert all(torch.equal(family.states["b"][t], state[t]) for t in state)
    assert family.permutations["b"] == {name: p.inverse() for name, p in planted.items()}


@pytest.mark.parametrize("reference", ["joint", "b"])
@pytest.mark.parametrize("name", CASES)
def test_aligned_networks_compute_what_they_computed(name: str, reference: str) -> None:
    case = CASES[name]
    inputs = draw(case, 9)[1]
    states = {n: draw(case, seed)[0] for seed, n in enumerate("abc")}
    family = align(states, case.spec, reference=reference)
    for n, state in states.items():
        before, after = (case.forward(each, inputs) for each in (state, family.states[n]))
        assert difference(before, after) < 1e-12
    moved = sum(p.moved for member in family.permutations.values() for p in member.values())
    assert moved > 0


@pytest.mark.parametrize("name", CASES)
def test_planted_members_of_real_layers_are_found(name: str) -> None:
    case = CASES[name]
    state = draw(case, 3)[0]
    planted = {n: case.spec.random(generator=np.random.default_rng(i)) for i, n in enumerate("bc")}
    copies = {n: case.spec.apply(member, state) for n, member in planted.items()}
    for reference in ("a", "joint"):
        family = align({"a": state, **copies}, case.spec, reference=reference)
        for n, member in planted.items():
            assert family.permutations[n] == {g: p.inverse() for g, p in member.items()}


def test_joint_alignment_does_not_mind_how_the_networks_stand() -> None:
    case = CASES["attention"]
    states = {n: draw(case, seed)[0] for seed, n in enumerate("abc")}
    generator = np.random.default_rng(5)
    common = case.spec.random(generator=generator)
    moved = {n: case.spec.apply(common, state) for n, state in states.items()}
    # The noise of cooling does not move along.
    one = align(states, case.spec, order="forward", cooling=0)
    other = align(moved, case.spec, order="forward", cooling=0)
    assert other.objective == pytest.approx(one.objective, rel=1e-9)
    for n, state in one.states.items():
        expected = case.spec.apply(common, state)
        assert all(torch.equal(expected[t], other.states[n][t]) for t in expected)


def test_two_inner_axes_in_one_expression_are_both_matched() -> None:
    text = (
        "format: perm-merge/permspec@1\n"
        "groups: {h: 3, a: {size: 4, within: h}, b: {size: 3, within: h}}\n"
        "axes: {w: [h, inner(a) + inner(b), 5], t: [h, 2]}\n"
    )
    spec = PermutationSpec.loads(text)
    state = state_of({"w": (3, 7, 5), "t": (3, 2)})
    planted = spec.random(generator=np.random.default_rng(0))
    family = align({"a": state, "b": spec.apply(planted, state)}, spec)
    assert family.permutations["b"] == {g: p.inverse() for g, p in planted.items()}


def test_a_nested_group_that_no_matched_tensor_shows_moves_with_its_outer_one() -> None:
    text = (
        "format: perm-merge/permspec@1\n"
        "groups: {h: 3, seen: {size: 2, within: h}, unseen: {size: 2, within: h}}\n"
        "axes: {w: [seen, 5], x.running_mean: [unseen]}\n"
    )
    spec = PermutationSpec.loads(text)
    state = state_of({"w": (6, 5), "x.running_mean": (6,)})
    planted = spec.random(generator=np.random.default_rng(1))
    family = align({"a": state, "b": spec.apply(planted, state)}, spec)
    found = family.permutations["b"]
    assert found["seen"] == planted["seen"].inverse()
    assert found["unseen"].indices.tolist() == [
        2 * block + place for block in found["h"].indices for place in (0, 1)
    ]


def test_attention_without_biases_can_be_settled() -> None:
    """Every tensor of the heads carries the stream too: nothing is known of them at first."""
    text = (
        "format: perm-merge/permspec@1\n"
        "groups: {s: 5, h: 2, qk: {size: 3, within: h}, vo: {size: 3, within: h}}\n"
        "axes: {e: [s, 1], qkv: [qk + qk + vo, s], proj: [s, vo], qn: [qk, 20]}\n"
    )
    spec = PermutationSpec.loads(text)
    state = state_of({"e": (5, 1), "qkv": (18, 5), "proj": (5, 6), "qn": (6, 20)})
    planted = spec.random(generator=np.random.default_rng(2))
    family = align({"a": state, "b": spec.apply(planted, state)}, spec)
    assert family.permutations["b"] == {g: p.inverse() for g, p in planted.items()}


def test_a_chain_of_grouped_convolutions_is_matched_all_along() -> None:
    text = (
        "format: perm-merge/permspec@1\n"
        "groups:\n  c: 3\n  a: {size: 3, within: c}\n  b: {size: 2, within: c}\n"
        "  d: {size: 4, within: c}\n"
        "axes:\n"
        "  in: [a, 6]\n"
        "  first: [b, inner(a), 3]\n"
        "  second: [d, inner(b), 3]\n"
        "  out: [5, d]\n"
    )
    spec = PermutationSpec.loads(text)
    state = state_of({"in": (9, 6), "first": (6, 3, 3), "second": (12, 2, 3), "out": (5, 12)})
    planted = spec.random(generator=np.random.default_rng(3))
    family = align({"a": state, "b": spec.apply(planted, state)}, spec)
    assert family.permutations["b"] == {g: p.inverse() for g, p in planted.items()}


def test_random_starts_leave_the_reference_alone() -> None:
    """On a problem with many local optima, where random starts win, nothing else changes."""
    spec = PermutationSpec.loads(
        "format: perm-merge/permspec@1\ngroups: {g: 7}\naxes: {w: [g, g], v: [g, 1]}\n"
    )
    won = 0
    for seed in range(6):
        states = {
            n: state_of({"w": (7, 7), "v": (7, 1)}, 10 * seed + i) for i, n in enumerate("ab")
        }
        few, many = (align(states, spec, reference="a", restarts=n) for n in (2, 8))
        assert many.traces["b"][-1] == pytest.approx(
            inner_product(states["a"], many.states["b"], ["w", "v"]), rel=1e-9
        )
        assert many.traces["b"][-1] >= few.traces["b"][-1]
        won += many.traces["b"][-1] > few.traces["b"][-1]
        joint = [align({**states, "c": states["b"]}, spec, restarts=n) for n in (2, 6)]
        assert joint[1].objective >= joint[0].objective - 1e-9
        assert joint[1].permutations["a"]["g"].moved == 0
    assert won >= 3
