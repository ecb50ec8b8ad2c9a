"""What alignment did, group by group, against cosines taken one pair and one unit at a time."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings

from mergekit_perm.align import align
from mergekit_perm.permspec import PermutationSpec
from tests.strategies import each_group_once, problems, state_of

SPEC = PermutationSpec.loads(
    "format: perm-merge/permspec@1\n"
    "groups: {g: 4, h: 2, qk: {size: 3, within: h}, deep: {size: 2, within: qk}, none: 2}\n"
    "axes: {w: [g, 3], square: [g, g], qkv: [qk + qk + h, g], mix: [5, qk, inner(qk)],"
    " deep: [deep], n.running_mean: [none]}\n"
)
SHAPES: dict[str, tuple[int, ...]] = {
    "w": (4, 3), "square": (4, 4), "qkv": (14, 4), "mix": (5, 6, 3), "deep": (12,),
    "n.running_mean": (2,), "fixed": (7,),
}  # fmt: skip


def entries(state: dict[str, torch.Tensor], group: str) -> list[torch.Tensor]:
    """Return all that each element of a group of `SPEC` carries, written out by hand."""
    w, square, qkv, mix, deep = (state[name].double() for name in list(SHAPES)[:5])
    by_hand = {
        "g": lambda e: [w[e], square[e], square[:, e], qkv[:, e]],
        "h": lambda e: [qkv[3 * e : 3 * e + 3], qkv[6 + 3 * e : 9 + 3 * e], qkv[12 + e],
                        mix[:, 3 * e : 3 * e + 3], deep[6 * e : 6 * e + 6]],
        "qk": lambda e: [qkv[e], qkv[6 + e], mix[:, e // 3 * 3 : e // 3 * 3 + 3, e % 3],
                         mix[:, e], deep[2 * e : 2 * e + 2]],
        "deep": lambda e: [deep[e]],
    }  # fmt: skip
    sizes = {"g": 4, "h": 2, "qk": 6, "deep": 12}
    return [
        torch.cat([part.reshape(-1) for part in by_hand[group](e)]) for e in range(sizes[group])
    ]


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    length = float(a.norm() * b.norm())
    return float(a @ b) / length if length else 0.0


def mean_cosine(states: list[dict[str, torch.Tensor]], group: str) -> float:
    rows = [entries(state, group) for state in states]
    pairs = itertools.combinations(rows, 2)
    return float(np.mean([cosine(a, b) for one, other in pairs for a, b in zip(one, other)]))  # noqa: B905


@pytest.mark.parametrize("reference", ["joint", "b"])
def test_similarity_is_the_mean_cosine(reference: str) -> None:
    states = {name: state_of(SHAPES, seed) for seed, name in enumerate("abc")}
    states["b"]["w"][:] = 0  # a unit that carries zeros in one tensor, and one that does in all
    states["c"]["deep"][3] = 0
    family = align(states, SPEC, reference=reference)
    assert list(family.groups) == ["g", "h", "qk", "deep", "none"]
    for group in ("g", "h", "qk", "deep"):
        effect = family.groups[group]
        assert effect.similarity_before == pytest.approx(mean_cosine([*states.values()], group))
        assert effect.similarity == pytest.approx(mean_cosine([*family.states.values()], group))
        assert effect.size == len(entries(states["a"], group))
        assert effect.moved == {n: p[group].moved for n, p in family.permutations.items()}


def test_the_objective_is_that_of_the_tensors_of_the_group() -> None:
    states = {name: state_of(SHAPES, seed) for seed, name in enumerate("abc")}
    family = align(states, SPEC)

    def product(family_states: dict[str, dict[str, torch.Tensor]], *tensors: str) -> float:
        pairs = itertools.combinations(family_states.values(), 2)
        return sum(float((a[t].double() * b[t].double()).sum()) for a, b in pairs for t in tensors)

    for group, tensors in {
        "g": ("w", "square", "qkv"), "h": ("qkv", "mix", "deep"), "qk": ("qkv", "mix", "deep"),
        "deep": ("deep",),
    }.items():  # fmt: skip
        effect = family.groups[group]
        assert effect.objective_before == pytest.approx(product(states, *tensors))
        assert effect.objective == pytest.approx(product(family.states, *tensors))
    every = ("w", "square", "qkv", "mix", "deep")
    assert family.objective_before == pytest.approx(product(states, *every))
    assert family.objective == pytest.approx(product(family.states, *every))


def test_a_group_that_carries_nothing_to_compare_is_like_nothing() -> None:
    family = align({name: state_of(SHAPES, seed) for seed, name in enumerate("ab")}, SPEC)
    effect = family.groups["none"]
    assert (effect.objective, effect.similarity_before, effect.similarity) == (0.0, 0.0, 0.0)


def test_permuted_copies_are_alike() -> None:
    state = state_of(SHAPES)
    bound = SPEC.bind(SHAPES)
    moves = bound.random(generator=torch.Generator().manual_seed(3))
    copy = bound.apply(moves, state)
    family = align({"a": state, "b": copy, "c": state}, SPEC, restarts=4)
    for group in ("g", "h", "qk", "deep"):
        assert family.groups[group].similarity == pytest.approx(1.0)
    assert align({"a": state, "b": state}, SPEC).groups["g"].moved == {"a": 0, "b": 0}


@settings(max_examples=12, deadline=None)
@given(problems())
def test_moving_all_networks_together_changes_no_similarity(
    problem: tuple[PermutationSpec, dict[str, torch.Tensor]],
) -> None:
    spec, state = problem
    # Where a product has one group in two factors, what each of its elements carries is mixed.
    assume(all(each_group_once(axis, spec.groups) for row in spec.axes.values() for axis in row))
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    bound = spec.bind(shapes)
    states = {"a": state, "b": state_of(shapes, 7), "c": state_of(shapes, 8)}
    member = bound.random(generator=torch.Generator().manual_seed(1))
    together = {name: bound.apply(member, own) for name, own in states.items()}
    still, moved = (align(s, spec, max_sweeps=0, restarts=1).groups for s in (states, together))
    for name in still:
        before = still[name].similarity_before
        assert moved[name].similarity_before == pytest.approx(before, abs=1e-9)
        assert -1 - 1e-9 <= before <= 1 + 1e-9
        assert moved[name].objective_before == pytest.approx(still[name].objective_before)
