"""Stacked alignment: one permutation for all checkpoints, found from all of them together."""

from __future__ import annotations

import inspect
import itertools
import time
from collections.abc import Mapping
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mergekit_perm.align import Sequences, align, align_sequences, stacked
from mergekit_perm.align.evidence import matched_tensors
from mergekit_perm.align.weight_matching import weight_matching
from mergekit_perm.errors import AlignmentError, PermutationSpecError
from mergekit_perm.permspec import PermutationSpec
from mergekit_perm.permutation import Permutation
from tests.strategies import problems, state_of
from tests.test_invariance import CASES, difference, draw

torch.set_num_threads(1)

State = dict[str, torch.Tensor]
SPECS = {name: case.spec.bind(case.shapes) for name, case in CASES.items()}
SPEC = PermutationSpec.loads(
    "format: perm-merge/permspec@1\narchitecture: net\ngroups: {g: 30}\n"
    "axes: {w: [g, 8], v: [4, g], n.running_mean: [g]}\n"
)
SHAPES = {"w": (30, 8), "v": (4, 30), "n.running_mean": (30,), "b": (4,)}


def drawn(name: str, count: int, length: int) -> dict[str, list[State]]:
    """Unrelated networks with unrelated checkpoints."""
    return {
        "abcd"[i]: [draw(CASES[name], 10 * i + s)[0] for s in range(length)] for i in range(count)
    }


def noisy(length: int, noise: float, count: int = 2) -> tuple[dict[str, list[State]], Any]:
    """Checkpoints of a network, and of permuted copies of it with noise of their own."""
    bound = SPEC.bind(SHAPES)
    base = [state_of(SHAPES, seed) for seed in range(length)]
    generator = np.random.default_rng(0)
    planted = {n: bound.random(generator=generator) for n in "bcd"[: count - 1]}
    sequences = {"a": base}
    for i, (n, member) in enumerate(planted.items()):
        errors = [state_of(SHAPES, 100 * (i + 1) + s) for s in range(length)]
        sequences[n] = [
            bound.apply(member, {t: v + noise * error[t] for t, v in state.items()})
            for state, error in zip(base, errors, strict=True)
        ]
    return sequences, planted


def agreement(found: Mapping[str, Permutation], planted: Mapping[str, Permutation]) -> float:
    """The share of units of group g that are back where they were."""
    return float((found["g"].indices == planted["g"].inverse().indices).mean())


def inner_product(a: list[State], b: list[State], tensors: list[str]) -> float:
    return sum(
        float((one[t].double() * other[t].double()).sum())
        for one, other in zip(a, b, strict=True)
        for t in tensors
    )


@pytest.mark.parametrize("weights", ["equal", "norm"])
def test_together_they_tell_what_none_tells_alone(weights: Any) -> None:
    sequences, planted = noisy(8, 1.2)
    alone = [
        agreement(
            align({n: each[s] for n, each in sequences.items()}, SPEC).permutations["b"],
            planted["b"],
        )
        for s in range(8)
    ]
    together = align_sequences(sequences, SPEC, weights=weights)
    assert max(alone) < 0.9
    assert together.permutations["b"] == {"g": planted["b"]["g"].inverse()}


@pytest.mark.parametrize("reference", ["joint", "c"])
def test_planted_members_of_several_networks_are_found(reference: str) -> None:
    sequences, planted = noisy(6, 0.8, count=4)
    found = align_sequences(sequences, SPEC, reference=reference)
    turn = found.permutations["a"]["g"] if reference == "c" else None
    assert (turn is None) or turn == planted["c"]["g"]
    for n, member in planted.items():
        back = member["g"].inverse()
        assert found.permutations[n]["g"] == (back if turn is None else back @ turn)


@pytest.mark.parametrize("reference", ["joint", "b"])
@pytest.mark.parametrize("name", CASES)
def test_one_permutation_serves_all_checkpoints(name: str, reference: str) -> None:
    case, sequences = CASES[name], drawn(name, 3, 2)
    kept = {n: [{t: v.clone() for t, v in s.items()} for s in q] for n, q in sequences.items()}
    inputs = draw(case, 99)[1]
    found = align_sequences(sequences, case.spec, reference=reference)
    assert isinstance(found, Sequences)
    assert list(found.permutations) == list(found.states) == list("abc")
    anchor = "a" if reference == "joint" else "b"
    assert sum(p.moved for member in found.permutations.values() for p in member.values()) > 0
    for n, checkpoints in sequences.items():
        assert len(found.states[n]) == 2
        for before, after, copy in zip(checkpoints, found.states[n], kept[n], strict=True):
            expected = case.spec.apply(found.permutations[n], before)
            assert list(after) == list(before)
            assert all(torch.equal(after[t], expected[t]) for t in before)
            assert all(torch.equal(before[t], copy[t]) for t in before)
            assert n != anchor or all(torch.equal(after[t], before[t]) for t in before)
            assert difference(case.forward(before, inputs), case.forward(after, inputs)) < 1e-12


@settings(max_examples=8, deadline=None)
@given(problems(), st.integers(0, 99), st.integers(1, 3))
def test_the_objective_is_the_sum_over_checkpoints_and_never_falls(
    problem: tuple[PermutationSpec, State], seed: int, length: int
) -> None:
    spec, first = problem
    shapes = {name: tuple(tensor.shape) for name, tensor in first.items()}
    sequences = {
        n: [state_of(shapes, seed + 100 * i + s) for s in range(length)] for i, n in enumerate("ab")
    }
    found = align_sequences(sequences, spec, reference="a", max_sweeps=3, restarts=1)
    trace = found.traces["b"]
    names = matched_tensors(spec, first)
    aligned = inner_product(list(found.states["a"]), list(found.states["b"]), names)
    assert all(b >= a - 1e-9 * abs(a) - 1e-9 for a, b in itertools.pairwise(trace))
    assert trace[-1] == pytest.approx(aligned, rel=1e-9, abs=1e-9)
    assert aligned >= inner_product(sequences["a"], sequences["b"], names) - 1e-9


def test_its_options_are_those_of_weight_matching() -> None:
    own, others = (inspect.signature(each).parameters for each in (stacked, weight_matching))
    assert own.keys() - {"sequences", "weights"} == others.keys() - {"states"}
    assert all(own[name].default == others[name].default for name in others if name != "states")


@pytest.mark.parametrize("name", CASES)
def test_one_checkpoint_is_weight_matching(name: str) -> None:
    sequences = drawn(name, 3, 1)
    for options in ({}, {"reference": "c", "order": "forward", "restarts": 2}):
        found = align_sequences(sequences, SPECS[name], **options)
        family = align({n: q[0] for n, q in sequences.items()}, SPECS[name], **options)
        assert found.permutations == family.permutations
        assert found.traces == family.traces


def test_it_does_not_mind_how_all_networks_stand_together() -> None:
    sequences, spec = drawn("attention", 3, 2), SPECS["attention"]
    common = spec.random(generator=np.random.default_rng(5))
    moved = {n: [spec.apply(common, state) for state in q] for n, q in sequences.items()}
    one, other = (align_sequences(each, spec, reference="c") for each in (sequences, moved))
    for n in "ab":
        assert other.traces[n] == pytest.approx(one.traces[n], rel=1e-9)
    for state, there in zip(one.states["b"], other.states["b"], strict=True):
        expected = spec.apply(common, state)
        assert all(torch.equal(expected[t], there[t]) for t in expected)


def test_by_norm_all_checkpoints_count_the_same() -> None:
    """A last checkpoint that is large and says something else outvotes the others, but not so."""
    sequences, planted = noisy(4, 0.3)
    wrong = state_of(SHAPES, 999)
    for q in sequences.values():
        q[-1] = {t: 100 * v for t, v in wrong.items()}  # the copy as it stands: no move is best
    equal, norm = (align_sequences(sequences, SPEC, weights=w) for w in ("equal", "norm"))
    assert equal.permutations["b"]["g"].moved == 0
    assert norm.permutations["b"]["g"] == planted["b"]["g"].inverse()
    scaled = {n: [{t: 7 * v for t, v in s.items()} for s in q] for n, q in sequences.items()}
    assert align_sequences(scaled, SPEC, weights="norm").permutations == norm.permutations
    assert norm.traces["joint"][-1] <= 4


def test_a_network_of_zeros_is_no_trouble() -> None:
    sequences = {n: [{t: torch.zeros(s) for t, s in SHAPES.items()}] * 2 for n in "ab"}
    found = align_sequences(sequences, SPEC, weights="norm")
    assert found.permutations["b"]["g"].moved == 0
    assert found.traces["joint"][-1] == 0.0


def test_one_seed_gives_one_result() -> None:
    sequences, spec = drawn("attention", 3, 2), SPECS["attention"]
    one, again = (stacked(sequences, spec, seed=1, restarts=1) for _ in range(2))
    assert one.traces == again.traces
    assert one.saw == "weights"
    others = [stacked(sequences, spec, reference="a", seed=seed, restarts=1) for seed in range(4)]
    assert len({str(other.traces) for other in others}) > 1


def test_a_time_limit_keeps_the_best_so_far() -> None:
    sequences, spec, told = drawn("mlp", 4, 2), SPECS["mlp"], []
    none = align_sequences(sequences, spec, max_seconds=0.0, device="cpu")
    assert none.traces["joint"][-1] >= none.traces["joint"][0]
    began = time.perf_counter()
    some = align_sequences(
        sequences, spec, restarts=10**6, max_seconds=0.2, progress=lambda *event: told.append(event)
    )
    assert 0 < some.seconds <= time.perf_counter() - began < 2
    assert some.traces["joint"][-1] >= none.traces["joint"][-1]
    assert told


def test_the_result_is_frozen() -> None:
    found = align_sequences(drawn("mlp", 2, 1), SPECS["mlp"])
    with pytest.raises(FrozenInstanceError):
        found.reference = "b"  # type: ignore[misc]
    assert not hasattr(found, "__dict__")


def refused(sequences: Any, **options: Any) -> str:
    with pytest.raises(AlignmentError) as caught:
        align_sequences(sequences, SPEC, **options)
    return str(caught.value)


def test_what_is_refused() -> None:
    good, _ = noisy(3, 0.1, count=3)
    assert refused({"a": good["a"]}) == "alignment needs at least two networks, found 1"
    assert refused({**good, "joint": good["a"]}) == (
        "a network cannot be called 'joint': that names the reference"
    )
    assert refused(good, reference="aa") == (
        "reference 'aa' is no network of this run (did you mean 'a'?); known: a, b, c, or joint"
    )
    assert refused(good, restart=2) == (
        "stacked has no option 'restart' (did you mean 'restarts'?)"
    )
    assert refused(good, restarts=0) == "restarts must be at least 1, found 0"
    assert refused(good, max_seconds=-1.0) == "max_seconds must be at least 0, found -1.0"
    assert refused(good, weights="late") == "weights is 'equal' or 'norm', not 'late'"
    assert refused({**good, "c": good["c"][:2]}) == (
        "network 'c' has 2 checkpoints, 'a' has 3: stacked alignment compares them one by one"
    )
    assert refused({**good, "a": []}) == "network 'a' has no checkpoints"
    short = [*good["b"][:2], {**good["b"][2], "v": torch.zeros(4, 29)}]
    assert refused({**good, "b": short}) == (
        "tensor 'v' is (4, 29) in 'b[2]' and (4, 30) in 'a[0]'"
    )
    wrong = [*good["b"][:2], {**good["b"][2], "b": torch.tensor([1.0, float("nan"), 0, 0])}]
    assert refused({**good, "b": wrong}) == (
        "checkpoint 'b[2]': 1 of 4 values of b are not finite; such a network cannot be aligned"
    )
    with pytest.raises(AlignmentError, match="network 'c' has 2 checkpoints"):
        stacked({**good, "c": good["c"][:2]}, SPEC.bind(SHAPES))


def test_a_spec_of_another_network() -> None:
    sequences = {n: [state_of({"w": (30, 8), "v": (4, 30)}, 0)] for n in "ab"}
    with pytest.raises(PermutationSpecError, match=r"n\.running_mean: no such tensor"):
        align_sequences(sequences, SPEC)
