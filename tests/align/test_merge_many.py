"""MergeMany: F never falls, planted members are found, the reference stays."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mergekit_perm.align import align
from mergekit_perm.align.descent import pairwise_objective
from mergekit_perm.align.evidence import matched_tensors
from mergekit_perm.align.merge_many import merge_many
from mergekit_perm.align.solution import Solution
from mergekit_perm.errors import AlignmentError
from mergekit_perm.permspec import PermutationSpec
from mergekit_perm.permutation import Permutation
from tests.strategies import problems, state_of
from tests.test_invariance import CASES, difference, draw

torch.set_num_threads(1)

State = dict[str, torch.Tensor]
SPECS = {name: case.spec.bind(case.shapes) for name, case in CASES.items()}


def drawn(name: str, count: int, first: int = 0) -> dict[str, State]:
    """Unrelated networks."""
    return {"abcde"[i]: draw(CASES[name], first + i)[0] for i in range(count)}


def objective(
    spec: PermutationSpec, states: Mapping[str, State], members: Mapping[str, Any] | None = None
) -> float:
    """F of networks, moved by members, computed the plain way."""
    if members is not None:
        states = {n: spec.act(members[n], state) for n, state in states.items()}
    names = matched_tensors(spec, next(iter(states.values())))
    return pairwise_objective({n: {t: s[t].double() for t in names} for n, s in states.items()})


def same(one: Solution, other: Solution) -> bool:
    return one.traces == other.traces and all(
        np.array_equal(indices, other.members[name][group])
        for name, member in one.members.items()
        for group, indices in member.items()
    )


@settings(max_examples=6, deadline=None)
@given(problems(), st.sampled_from(["joint", "b"]), st.integers(0, 99), st.integers(1, 2))
def test_the_objective_is_told_and_never_falls(
    problem: tuple[PermutationSpec, State], reference: str, seed: int, restarts: int
) -> None:
    spec, first = problem
    shapes = {name: tuple(tensor.shape) for name, tensor in first.items()}
    spec = spec.bind(shapes)
    states = {"a": first, "b": state_of(shapes, seed + 100), "c": state_of(shapes, seed + 200)}
    kept = {n: {t: v.clone() for t, v in state.items()} for n, state in states.items()}
    found = merge_many(
        states, spec, reference=reference, seed=seed, restarts=restarts, max_sweeps=3
    )
    trace = found.traces["joint"]
    assert all(b >= a for a, b in itertools.pairwise(trace))
    assert trace[-1] == pytest.approx(objective(spec, states, found.members), rel=1e-9, abs=1e-9)
    assert trace[-1] >= objective(spec, states) - 1e-9
    anchor = found.members["a" if reference == "joint" else reference]
    assert all(np.array_equal(p, np.arange(len(p))) for p in anchor.values())
    for n, state in states.items():
        spec.check_permutations({g: Permutation(p) for g, p in found.members[n].items()})
        assert all(torch.equal(state[t], kept[n][t]) for t in state)
    assert found.saw == "weights"


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("name", CASES)
def test_planted_members_are_found(name: str, count: int) -> None:
    spec = SPECS[name]
    for seed in range(3):
        state, generator = draw(CASES[name], seed)[0], np.random.default_rng(seed)
        members = {n: spec.random(generator=generator) for n in "bc"[: count - 1]}
        copies = {n: spec.apply(member, state) for n, member in members.items()}
        family = align({"a": state, **copies}, spec, method="merge_many", restarts=1)
        for n, member in members.items():
            assert family.permutations[n] == {g: p.inverse() for g, p in member.items()}


def test_when_it_ends_no_network_has_anything_to_gain() -> None:
    """Aligned networks are a fixed point, and matching a pair alternates between the two."""
    for count in (2, 3, 4):
        states, spec = drawn("attention", count), SPECS["attention"]
        family = align(states, spec, method="merge_many", restarts=1)
        again = merge_many(family.states, spec, restarts=1, seed=7)
        assert len(again.traces["joint"]) == 2
        assert again.traces["joint"][0] == again.traces["joint"][1]
        assert again.traces["joint"][1] == pytest.approx(family.objective, rel=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_aligned_networks_compute_what_they_computed(name: str) -> None:
    case, states = CASES[name], drawn(name, 3)
    inputs = draw(case, 9)[1]
    family = align(states, case.spec, method="merge_many", reference="c")
    assert all(torch.equal(family.states["c"][t], v) for t, v in states["c"].items())
    for n, state in states.items():
        before, after = (case.forward(each, inputs) for each in (state, family.states[n]))
        assert difference(before, after) < 1e-12


@pytest.mark.parametrize("name", CASES)
def test_it_does_not_mind_how_all_networks_stand_together(name: str) -> None:
    states, spec = drawn(name, 3), SPECS[name]
    common = spec.random(generator=np.random.default_rng(5))
    moved = {n: spec.apply(common, state) for n, state in states.items()}
    one, other = (align(each, spec, method="merge_many", restarts=1) for each in (states, moved))
    assert other.objective == pytest.approx(one.objective, rel=1e-9)
    for n, state in one.states.items():
        expected = spec.apply(common, state)
        assert all(torch.equal(expected[t], other.states[n][t]) for t in expected)


def test_a_reference_only_turns_what_is_found() -> None:
    states, spec = drawn("mlp", 3), SPECS["mlp"]
    joint, to_b = (merge_many(states, spec, reference=each) for each in ("joint", "b"))
    assert joint.traces == to_b.traces
    for group, turn in joint.members["b"].items():
        assert all(
            np.array_equal(joint.members[n][group], to_b.members[n][group][turn]) for n in "abc"
        )


def test_one_seed_gives_one_result_and_more_starts_no_worse_one() -> None:
    states, spec = drawn("mlp", 4), SPECS["mlp"]
    one, again, other = (merge_many(states, spec, seed=seed) for seed in (4, 4, 5))
    assert same(one, again)
    assert not same(one, other)
    few, many = (merge_many(states, spec, seed=4, restarts=n) for n in (1, 8))
    assert many.traces["joint"][-1] > few.traces["joint"][-1]


def test_no_rounds_and_no_time() -> None:
    states, spec = drawn("attention", 3), SPECS["attention"]
    before = objective(spec, states)
    none = merge_many(states, spec, max_sweeps=0, restarts=1)
    assert none.traces["joint"] == [before]
    assert all((p == np.arange(len(p))).all() for m in none.members.values() for p in m.values())
    assert merge_many(states, spec, max_seconds=0.0).traces["joint"] == [before, before]


def test_a_time_limit_keeps_the_best_so_far() -> None:
    states, spec = drawn("attention", 4), SPECS["attention"]
    began = time.perf_counter()
    found = merge_many(states, spec, restarts=10**6, max_seconds=0.3)
    assert time.perf_counter() - began < 2
    few = merge_many(states, spec, restarts=1)
    assert found.traces["joint"][-1] >= few.traces["joint"][-1]
    assert found.traces["joint"][-1] == pytest.approx(objective(spec, states, found.members))


def test_progress_counts_rounds_start_by_start() -> None:
    told: list[tuple[str, int, int]] = []
    states = drawn("mlp", 3)
    merge_many(states, SPECS["mlp"], max_sweeps=9, progress=lambda *event: told.append(event))
    tasks = ["aligning jointly, start 1", "aligning jointly, start 2"]
    assert list(dict.fromkeys(task for task, _, _ in told)) == tasks
    for task in tasks:
        counts = [done for each, done, total in told if each == task and total == 9]
        assert counts[0] == 0 and counts[-1] == 9
    told.clear()
    merge_many(states, SPECS["mlp"], restarts=1, progress=lambda *event: told.append(event))
    assert told[-1] == ("aligning jointly", 100, 100)


def test_running_statistics_move_but_do_not_decide() -> None:
    spec = PermutationSpec.loads(
        "format: perm-merge/permspec@1\ngroups: {g: 6}\naxes: {w: [g, 3], n.running_var: [g]}\n"
    )
    shapes = {"w": (6, 3), "n.running_var": (6,)}
    states = {n: state_of(shapes, seed) for seed, n in enumerate("abc")}
    loud = {n: {**s, "n.running_var": 99 * s["n.running_var"]} for n, s in states.items()}
    one, other = (align(each, spec, method="merge_many") for each in (states, loud))
    assert one.permutations == other.permutations
    moved = one.permutations["b"]["g"].act(states["b"]["n.running_var"])
    assert torch.equal(one.states["b"]["n.running_var"], moved)


@pytest.mark.parametrize(
    ("option", "given", "said"),
    [
        ("seed", -1, "seed must be at least 0, found -1"),
        ("restarts", 0, "restarts must be at least 1, found 0"),
        ("tolerance", float("nan"), "tolerance must be at least 0, found nan"),
        ("max_sweeps", -1, "max_sweeps must be at least 0, found -1"),
        ("max_seconds", -0.5, "max_seconds must be at least 0, found -0.5"),
        ("order", "forward", "merge_many has no option 'order'"),
    ],
)
def test_options_that_are_refused(option: str, given: Any, said: str) -> None:
    with pytest.raises(AlignmentError) as caught:
        align(drawn("mlp", 2), SPECS["mlp"], method="merge_many", **{option: given})
    assert str(caught.value) == said
