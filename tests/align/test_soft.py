"""Soft members: at permutations they act as permutations do, and between them as they should."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mergekit_perm.align.soft import soft_action
from mergekit_perm.align.soft_members import (
    best_member,
    doubly_stochastic,
    matrices_of,
    whole_matrices,
)
from mergekit_perm.axes import Fixed, Whole
from mergekit_perm.groups import Group, Groups
from mergekit_perm.members import assemble
from mergekit_perm.permspec import PermutationSpec
from mergekit_perm.permutation import Indices
from tests.strategies import group_sets, problems, raw, state_of
from tests.test_invariance import CASES, draw

torch.set_num_threads(1)

State = dict[str, torch.Tensor]
DOUBLE = torch.zeros(0, dtype=torch.float64)


def spec_of(groups: str, **rows: str) -> PermutationSpec:
    listed = ", ".join(f"{name}: [{row}]" for name, row in rows.items())
    head = "format: perm-merge/permspec@1\n"
    return PermutationSpec.loads(f"{head}groups: {{{groups}}}\naxes: {{{listed}}}\n")


def bound(spec: PermutationSpec, state: State) -> PermutationSpec:
    return spec.bind({name: tuple(tensor.shape) for name, tensor in state.items()})


def random_member(spec: PermutationSpec, *seed: int) -> dict[str, Indices]:
    return raw(spec.random(generator=np.random.default_rng(seed)))


def soft_members(groups: Groups, count: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Soft members that are no permutations: Sinkhorn of noise."""
    generator = torch.Generator().manual_seed(seed)
    own = {}
    for group in groups.values():
        blocks = () if group.within is None else (groups.length(group.within),)
        shape = (count, *blocks, group.size, group.size)
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        own[group.name] = doubly_stochastic(noise, 100)
    return whole_matrices(groups, own)


def check_vertices(spec: PermutationSpec, state: State, seed: int) -> None:
    """Two networks at once, each with a member of its own, bit for bit."""
    members = [random_member(spec, seed, network) for network in range(2)]
    moving = soft_action(spec, list(state))
    for name, tensor in state.items():
        if tensor.is_floating_point():
            both = torch.stack([tensor, tensor.flip(0)])
            moved = moving.act(name, both, matrices_of(spec.groups, members, like=tensor))
            for one, result, member in zip(both, moved, members, strict=True):
                assert torch.equal(result, spec.act(member, {name: one})[name]), spec.axes[name]


# ------------------------------------------------------------------------------------- vertices


@settings(max_examples=40, deadline=None)
@given(problems(), st.integers(0, 99))
def test_at_permutations_it_is_the_action(
    problem: tuple[PermutationSpec, State], seed: int
) -> None:
    spec, state = problem
    check_vertices(bound(spec, state), state, seed)


@pytest.mark.parametrize("name", CASES)
def test_at_permutations_of_real_layers_it_is_the_action(name: str) -> None:
    state = draw(CASES[name], 0)[0]
    check_vertices(bound(CASES[name].spec, state), state, 1)


NESTED = "h: 3, n: {size: 2, within: h}, m: {size: 4, within: h}"
DEEP = "h: 2, n: {size: 3, within: h}, m: {size: 2, within: n}"
UNUSUAL = {
    "a group with itself": ("g: 3", "g * g", (9,), 2),
    "the diagonal of that": ("g: 3", "'(g * g)[[0, 4, 8]]'", (3,), 1),
    "all but the diagonal": ("g: 3", "'(g * g)[[1, 2, 3, 5, 6, 7]]'", (6,), 2),
    "two groups and a number": ("a: 2, b: 3", "a * 2 * b, b * a", (12, 6), 4),
    "halves of two copies": ("g: 4", "'(g + g)[[0, 5, 2, 7]]'", (4,), 1),
    "halves of two products": ("g: 2", "'(g * 2)[0:2] + (g * 2)[2:]', g", (4, 2), 2),
    "one product inside another's halves": (
        "a: 2, b: 3",
        "'(a * b)[0:3] + a * b + (b * a)[::-1] + (a * b)[3:]'",
        (18,),
        2,
    ),
    "an outer group and one within it": (NESTED, "h * n, n * h", (18, 18), 4),
    "a nested element with its own block": (NESTED, "'(h * n)[[0, 1, 8, 9, 16, 17]]'", (6,), 1),
    "elements with other blocks": (
        NESTED,
        "'(h * n)[[2, 3, 4, 5, 6, 7, 10, 11, 12, 13, 14, 15]]'",
        (12,),
        2,
    ),
    "inner in a product": (NESTED + ", k: 3", "m, inner(n) * k + 2", (12, 8), 3),
    "inner before its carrier": (NESTED, "2, inner(n), 'm[::-1] + h'", (2, 2, 15), 2),
    "two inner axes, one carrier": (NESTED, "inner(n), m + n, inner(m)", (2, 18, 4), 3),
    "two carriers": (NESTED + ", k: 2, l: {size: 2, within: k}", "n, l, inner(m), inner(l)",
                     (6, 4, 4, 2), 4),
    "inner of a group two deep": (DEEP, "m, inner(m), h", (12, 2, 2), 3),
    "inner between": (DEEP, "m, inner(n)", (12, 3), 2),
    "groups of one element": ("a: 1, h: 2, n: {size: 1, within: h}", "a, n, inner(n)",
                              (1, 2, 1), 1),
}  # fmt: skip


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_expressions(name: str) -> None:
    groups, row, shape, degree = UNUSUAL[name]
    every = spec_of(groups, t=row).groups
    # A spec has no group that stands nowhere.
    spec = spec_of(groups, t=row, **{group: group for group in every})
    state = state_of({"t": shape, **{group: (every.length(group),) for group in every}})
    check_vertices(bound(spec, state), state, 2)
    assert soft_action(bound(spec, state), ["t"]).degree == degree


# ------------------------------------------------------------------------------ between vertices


@settings(max_examples=30, deadline=None)
@given(group_sets(), st.integers(0, 99))
def test_a_mean_of_members_gives_the_mean_of_what_they_give(groups: Groups, seed: int) -> None:
    spec = PermutationSpec(groups, {name: (Whole(name), Fixed(2)) for name in groups})
    state = state_of({name: (groups.length(name), 2) for name in groups}, seed)
    spec = bound(spec, state)
    members = [random_member(spec, seed, i) for i in range(3)]
    shares = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    hard = matrices_of(groups, members, like=DOUBLE)
    mean = {g: torch.einsum("m,mij->ij", shares, matrix)[None] for g, matrix in hard.items()}
    moving = soft_action(spec, list(state))
    for name, tensor in state.items():
        found = moving.act(name, tensor.double()[None], mean)[0]
        wanted = sum(
            share * spec.act(member, {name: tensor.double()})[name]
            for share, member in zip(shares, members, strict=True)
        )
        assert torch.allclose(found, torch.as_tensor(wanted), atol=1e-12)


def test_it_is_linear_in_every_group() -> None:
    case = CASES["attention"]
    state, groups = draw(case, 3)[0], case.spec.groups
    moving = soft_action(case.spec.bind(case.shapes), list(state))
    one, other = (soft_members(groups, 1, seed) for seed in (0, 1))
    for group, name in itertools.product(groups, state):
        mixed = {**one, group: one[group].lerp(other[group], 0.3)}
        values = [
            moving.act(name, state[name][None], each)
            for each in (one, {**one, group: other[group]}, mixed)
        ]
        assert torch.allclose(values[2], values[0].lerp(values[1], 0.3), atol=1e-12)


def test_one_matrix_on_each_axis() -> None:
    """The textbook cases, written out: W -> P W Q', a flattened axis, and a fused one."""
    spec = spec_of("a: 4, b: 3", w="a, b", flat="2, a * 5", fused="b + b")
    state = {
        n: t.double() for n, t in state_of({"w": (4, 3), "flat": (2, 20), "fused": (6,)}).items()
    }
    moving = soft_action(bound(spec, state), list(state))
    soft = soft_members(spec.groups, 2)
    both = {name: torch.stack([tensor, -2 * tensor]) for name, tensor in state.items()}
    moved = {name: moving.act(name, tensor, soft) for name, tensor in both.items()}
    assert torch.allclose(moved["w"], soft["a"] @ both["w"] @ soft["b"].mT)
    flat = torch.einsum("nij,nojk->noik", soft["a"], both["flat"].reshape(2, 2, 4, 5))
    assert torch.allclose(moved["flat"], flat.reshape(2, 2, 20))
    fused = torch.einsum("nij,ncj->nci", soft["b"], both["fused"].reshape(2, 2, 3))
    assert torch.allclose(moved["fused"], fused.reshape(2, 6))


def test_inner_is_the_sum_over_source_blocks() -> None:
    groups = "c: 3, out: {size: 4, within: c}, in: {size: 2, within: c}"
    spec = spec_of(groups, w="out, inner(in), 5", x="in")
    state = {n: t.double() for n, t in state_of({"w": (12, 2, 5), "x": (6,)}).items()}
    soft = soft_members(spec.groups, 1)
    found = soft_action(bound(spec, state), ["w"]).act("w", state["w"][None], soft)[0]
    out, inner = soft["out"][0].reshape(3, 4, 3, 4), soft["in"][0].reshape(3, 2, 3, 2)
    blocks = state["w"].reshape(3, 4, 2, 5)
    wanted = torch.einsum("iajc,ibjd,jcdr->iabr", out, inner, blocks).reshape(12, 2, 5)
    assert torch.allclose(found, wanted)


@pytest.mark.parametrize(
    ("case", "name"),
    [
        ("attention", "qkv.weight"),
        ("shuffle and glu", "glu.weight"),
        ("grouped convolution", "conv2.weight"),
    ],
)
def test_its_gradient(case: str, name: str) -> None:
    spec = CASES[case].spec.bind(CASES[case].shapes)
    state = draw(CASES[case], 1)[0]
    moving = soft_action(spec, [name])
    soft = soft_members(spec.groups, 1)
    names = list(soft)

    def moved(*matrices: torch.Tensor) -> torch.Tensor:
        return moving.act(name, state[name][None], dict(zip(names, matrices, strict=True))).sum(-1)

    points = [matrix.requires_grad_() for matrix in soft.values()]
    assert torch.autograd.gradcheck(moved, points, fast_mode=True)


def test_what_nothing_permutes_comes_back() -> None:
    spec = spec_of("g: 3", w="g, 2", still="4")
    tensor = torch.randn(2, 4)
    moving = soft_action(spec.bind({"w": (3, 2), "still": (4,), "other": (2,)}), ["still", "other"])
    assert moving.degree == 0
    assert moving.act("still", tensor, {}) is moving.act("other", tensor, {}) is tensor


# -------------------------------------------------------------------------------------- matrices


@settings(max_examples=30, deadline=None)
@given(group_sets(), st.integers(0, 99))
def test_whole_matrices_are_doubly_stochastic_and_hard_ones_are_members(
    groups: Groups, seed: int
) -> None:
    for matrix in soft_members(groups, 2, seed).values():
        for dim in (-1, -2):
            assert torch.allclose(matrix.sum(dim), torch.ones_like(matrix.sum(dim)), atol=1e-6)
    member = random_member(PermutationSpec(groups, {}), seed)
    found = best_member(groups, arrays(matrices_of(groups, [member], like=DOUBLE)))
    assert all(np.array_equal(found[name], member[name]) for name in groups)


def arrays(matrices: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: matrix[0].numpy() for name, matrix in matrices.items()}


def test_the_best_member_is_the_best_of_all() -> None:
    """Two levels and two children of one group, against every member there is."""
    groups = Groups(
        {
            g.name: g
            for g in (Group("a", 2), Group("b", 2, "a"), Group("c", 2, "a"), Group("d", 2, "b"))
        }
    )
    own = {"a": (), "b": (2,), "c": (2,), "d": (4,)}
    generator = np.random.default_rng(0)
    swaps = [np.array([0, 1]), np.array([1, 0])]
    options = [
        [
            np.array(each).reshape(*blocks, 2)
            for each in itertools.product(swaps, repeat=sum(blocks) or 1)
        ]
        for blocks in own.values()
    ]
    every = [
        assemble(groups, dict(zip(own, moves, strict=True)))
        for moves in itertools.product(*options)
    ]
    assert len(every) == 2 * 4 * 4 * 16
    for _ in range(5):
        scores = {name: generator.normal(size=(groups.length(name),) * 2) for name in groups}

        def worth(member: Mapping[str, Indices], scores: dict[str, np.ndarray] = scores) -> float:
            return sum(float(scores[g][np.arange(len(p)), p].sum()) for g, p in member.items())

        best = best_member(groups, scores)
        assert worth(best) == pytest.approx(max(map(worth, every)))
