"""Frank-Wolfe: the objective is the right one, steps are exact, and planted members are found."""

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

from mergekit_perm.align.descent import Descent, Settings, pairwise_objective
from mergekit_perm.align.evidence import matched_tensors, of_weights
from mergekit_perm.align.frank_wolfe import Objective, best_share, frank_wolfe
from mergekit_perm.align.solution import Solution
from mergekit_perm.errors import AlignmentError
from mergekit_perm.permspec import PermutationSpec
from mergekit_perm.permutation import Permutation
from tests.align.test_soft import soft_members
from tests.strategies import problems, raw, state_of
from tests.test_invariance import CASES, draw

torch.set_num_threads(1)

State = dict[str, torch.Tensor]
SPECS = {name: case.spec.bind(case.shapes) for name, case in CASES.items()}


def drawn(name: str, count: int, first: int = 0) -> dict[str, State]:
    """Unrelated networks."""
    return {"abcde"[i]: draw(CASES[name], first + i)[0] for i in range(count)}


def planted(name: str, count: int, seed: int) -> dict[str, State]:
    """A network, and permuted copies of it."""
    state, generator = draw(CASES[name], seed)[0], np.random.default_rng(seed)
    copies = [
        SPECS[name].apply(SPECS[name].random(generator=generator), state) for _ in range(count - 1)
    ]
    return dict(zip("abcde", [state, *copies], strict=False))


def objective(
    spec: PermutationSpec, states: Mapping[str, State], members: Mapping[str, Any] | None = None
) -> float:
    """F of networks, moved by members, computed the plain way."""
    names = matched_tensors(spec, next(iter(states.values())))
    kept = {n: {t: state[t].double() for t in names} for n, state in states.items()}
    if members is not None:
        kept = {n: spec.act(members[n], state) for n, state in kept.items()}
    return pairwise_objective(kept)


def same(one: Solution, other: Solution) -> bool:
    return one.traces == other.traces and all(
        np.array_equal(indices, other.members[name][group])
        for name, member in one.members.items()
        for group, indices in member.items()
    )


# ------------------------------------------------------------------------------------ objective


@settings(max_examples=25, deadline=None)
@given(problems(), st.integers(0, 99))
def test_at_members_the_objective_is_the_sum_over_pairs(
    problem: tuple[PermutationSpec, State], seed: int
) -> None:
    spec, first = problem
    shapes = {name: tuple(tensor.shape) for name, tensor in first.items()}
    spec = spec.bind(shapes)
    states = {"a": first, "b": state_of(shapes, seed + 100), "c": state_of(shapes, seed + 200)}
    generator = np.random.default_rng(seed)
    members = {name: raw(spec.random(generator=generator)) for name in states}
    found = Objective.of(states, spec)
    value = found.value(found.matrices_of(list(members.values())))
    assert value == pytest.approx(objective(spec, states, members), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_the_gradient_is_that_of_the_objective(name: str) -> None:
    found = Objective.of(drawn(name, 3), SPECS[name])
    here, there = (soft_members(SPECS[name].groups, 3, seed) for seed in (0, 1))
    slope = sum(
        float((part * (there[group] - here[group])).sum())
        for group, part in found.gradient(here).items()
    )
    small = 1e-4
    values = [
        found.value({group: here[group].lerp(there[group], share) for group in here})
        for share in (-small, small)
    ]
    assert slope == pytest.approx((values[1] - values[0]) / (2 * small), rel=1e-5)


# ---------------------------------------------------------------------------------- line search


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-10, 10), min_size=1, max_size=9))
def test_the_highest_point_of_a_polynomial(coefficients: list[float]) -> None:
    curve = np.polynomial.Polynomial(coefficients)
    share = best_share(
        lambda x: float(curve(x)), (float(curve(0)), float(curve(1))), len(coefficients) - 1
    )
    grid = curve(np.linspace(0, 1, 2001))
    assert 0 <= share <= 1
    assert curve(share) >= grid.max() - 1e-9 * max(1.0, float(np.abs(coefficients).sum()))


@pytest.mark.parametrize("name", CASES)
def test_between_members_the_objective_is_a_polynomial_of_its_degree(name: str) -> None:
    found = Objective.of(drawn(name, 3), SPECS[name])
    generator = np.random.default_rng(0)
    here, there = (
        found.matrices_of([raw(SPECS[name].random(generator=generator)) for _ in range(3)])
        for _ in range(2)
    )

    def along(share: float) -> float:
        return found.value({group: here[group].lerp(there[group], share) for group in here})

    nodes = np.linspace(0, 1, found.degree + 1)
    curve = np.polynomial.Polynomial.fit(nodes, [along(x) for x in nodes], found.degree)
    grid = np.linspace(0, 1, 33)
    values = np.array([along(x) for x in grid])
    assert np.allclose(curve(grid), values, rtol=1e-9, atol=1e-9 * np.abs(values).max())
    best = along(best_share(along, (along(0.0), along(1.0)), found.degree))
    assert best >= values.max() - 1e-9 * abs(best)


def test_a_level_line_goes_nowhere() -> None:
    assert best_share(lambda _: 3.0, (3.0, 3.0), 4) == 0.0
    assert best_share(lambda _: 3.0, (3.0, 3.0), 0) == 0.0
    assert best_share(lambda _: 0.0, (1.0, 2.0), 1) == 1.0


# --------------------------------------------------------------------------------------- solver


@pytest.mark.parametrize("reference", ["joint", "b"])
@pytest.mark.parametrize("start", ["identity", "random"])
@pytest.mark.parametrize("name", CASES)
def test_it_climbs_and_leaves_the_reference_alone(name: str, start: Any, reference: str) -> None:
    states = drawn(name, 3, first=7)
    kept = {n: {t: v.clone() for t, v in state.items()} for n, state in states.items()}
    spec = SPECS[name]
    found = frank_wolfe(states, spec, reference=reference, start=start, max_iterations=6)
    soft, last = found.traces["joint"][:-1], found.traces["joint"][-1]
    assert all(after > before for before, after in itertools.pairwise(soft))
    assert last == pytest.approx(objective(spec, states, found.members), rel=1e-9)
    assert last >= objective(spec, states) - 1e-9
    anchor = found.members["a" if reference == "joint" else reference]
    assert all(np.array_equal(p, np.arange(len(p))) for p in anchor.values())
    for n, member in found.members.items():
        spec.check_permutations({group: Permutation(p) for group, p in member.items()})
        assert all(torch.equal(states[n][t], kept[n][t]) for t in states[n])
    assert found.saw == "weights"


@pytest.mark.parametrize("name", CASES)
def test_a_planted_member_is_found(name: str) -> None:
    """Two networks: one is held, and the climb ends where they meet."""
    for seed in range(4):
        states = planted(name, 2, seed)
        found = frank_wolfe(states, SPECS[name], start="random", seed=seed)
        top = objective(SPECS[name], {"a": states["a"], "b": states["a"]})
        assert found.traces["joint"][-1] == pytest.approx(top, rel=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_from_the_identity_planted_members_of_three_are_found(name: str) -> None:
    """In the universe a climb may end where two of three networks agree; the descent mends it."""
    for seed in range(5):
        states = planted(name, 3, seed)
        found = frank_wolfe(states, SPECS[name])
        top = objective(SPECS[name], dict.fromkeys("abc", states["a"]))
        assert found.traces["joint"][-1] == pytest.approx(top, rel=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_left_to_gain_group_by_group(name: str) -> None:
    """What the steps end in is polished, and F there is higher or the same."""
    gained = 0
    for seed in range(3):
        states, spec = drawn(name, 4, first=10 * seed), SPECS[name]
        climb = Objective.of(states, spec)
        found = frank_wolfe(states, spec, start="random", seed=seed, max_iterations=4)
        value = climb.value(climb.matrices_of(list(found.members.values())))
        assert found.traces["joint"][-1] == pytest.approx(value, rel=1e-9)
        again = Descent(
            of_weights(states, spec), found.members, Settings(), generator=np.random.default_rng(1)
        )
        again.descend()
        assert again.trace[-1] == pytest.approx(value, rel=1e-9)
        gained += value > found.traces["joint"][-2]
    assert gained


def test_one_seed_gives_one_result() -> None:
    states, spec = drawn("attention", 3), SPECS["attention"]
    one, again, other = (
        frank_wolfe(states, spec, start="random", seed=seed, max_iterations=5) for seed in (4, 4, 5)
    )
    assert same(one, again)
    assert not same(one, other)
    identity = [frank_wolfe(states, spec, seed=seed, max_iterations=5) for seed in (4, 5)]
    assert same(*identity)


def test_a_reference_only_turns_what_is_found() -> None:
    states, spec = drawn("mlp", 3), SPECS["mlp"]
    joint, to_b = (
        frank_wolfe(states, spec, reference=reference, max_iterations=9)
        for reference in ("joint", "b")
    )
    assert joint.traces == to_b.traces
    for group, turn in joint.members["b"].items():
        assert all(
            np.array_equal(joint.members[n][group], to_b.members[n][group][turn]) for n in "abc"
        )


def test_no_iterations_and_no_time() -> None:
    states, spec = drawn("attention", 3), SPECS["attention"]
    before = objective(spec, states)
    none = frank_wolfe(states, spec, max_seconds=0.0)
    assert none.traces["joint"] == pytest.approx([before, before])
    assert all((p == np.arange(len(p))).all() for m in none.members.values() for p in m.values())
    polished = frank_wolfe(states, spec, max_iterations=0).traces["joint"]
    assert len(polished) == 2
    assert polished[1] > polished[0] == pytest.approx(before)
    began = time.perf_counter()
    short = frank_wolfe(
        states, spec, max_seconds=0.1, tolerance=0.0, patience=10**6, max_iterations=10**6
    )
    assert time.perf_counter() - began < 2
    assert short.traces["joint"][-1] >= before


def test_progress_ends_at_its_total() -> None:
    told: list[tuple[str, int, int]] = []
    frank_wolfe(
        drawn("mlp", 2), SPECS["mlp"], max_iterations=30, progress=lambda *said: told.append(said)
    )
    assert told[0] == ("aligning jointly", 0, 30)
    assert ("aligning jointly", 30, 30) in told
    assert told[-1] == ("aligning jointly, group by group", 100, 100)


def test_networks_without_a_group_of_two() -> None:
    spec = PermutationSpec.loads("format: perm-merge/permspec@1\ngroups: {g: 1}\naxes: {w: [g, 2]}")
    spec = spec.bind({"w": (1, 2)})
    states = {name: state_of({"w": (1, 2)}, seed) for seed, name in enumerate("abc")}
    found = frank_wolfe(states, spec)
    assert found.traces["joint"][-1] == pytest.approx(objective(spec, states))


@pytest.mark.parametrize(
    ("option", "given", "said"),
    [
        ("start", "here", "start is 'identity' or 'random', not 'here'"),
        ("max_iterations", -1, "max_iterations must be at least 0, found -1"),
        ("patience", 0, "patience must be at least 1, found 0"),
        ("tolerance", float("nan"), "tolerance must be at least 0, found nan"),
        ("seed", -3, "seed must be at least 0, found -3"),
        ("max_seconds", -0.5, "max_seconds must be at least 0, found -0.5"),
    ],
)
def test_options_out_of_range(option: str, given: Any, said: str) -> None:
    with pytest.raises(AlignmentError) as caught:
        frank_wolfe(drawn("mlp", 2), SPECS["mlp"], **{option: given})
    assert str(caught.value) == said
