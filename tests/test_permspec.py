from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mergekit_perm.axes import Fixed
from mergekit_perm.axis_text import parse
from mergekit_perm.errors import PermutationSpecError
from mergekit_perm.groups import Group, Groups
from mergekit_perm.members import own_moves
from mergekit_perm.permspec import PermutationSpec
from mergekit_perm.permutation import Permutation
from tests.strategies import LAW, members, problems, state_of


def spec_of(
    groups: Mapping[str, int | tuple[int, str]], rows: Mapping[str, list[str | int]], **rest: Any
) -> PermutationSpec:
    found = {
        name: Group(name, *entry) if isinstance(entry, tuple) else Group(name, entry)
        for name, entry in groups.items()
    }
    return PermutationSpec(
        Groups(found), {name: tuple(map(parse, row)) for name, row in rows.items()}, **rest
    )


MLP = spec_of(
    {"a": 4, "b": 3},
    {"fc1.weight": ["a", 5], "fc1.bias": ["a"], "fc2.*": ["b", "a"], "head.weight": ["_", "b"]},
    architecture="mlp",
)
MLP_SHAPES = {
    "fc1.weight": (4, 5),
    "fc1.bias": (4,),
    "fc2.weight": (3, 4),
    "head.weight": (2, 3),
    "head.bias": (2,),
}
HEADS = spec_of(
    {"s": 4, "heads": 2, "qk": (3, "heads"), "vo": (2, "heads")},
    {
        "qkv.weight": ["qk + qk + vo", "s"],
        "proj.weight": ["s", "vo"],
        "norm.*": ["s"],
        "mix.weight": ["vo", "inner(qk)"],
    },
)
HEADS_SHAPES = {
    "qkv.weight": (16, 4),
    "proj.weight": (4, 4),
    "norm.weight": (4,),
    "norm.running_mean": (4,),
    "norm.num_batches_tracked": (),
    "mix.weight": (4, 3),
    "free": (7,),
}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# -------------------------------------------------------------------------------------- binding


def test_bind_resolves_patterns_and_underscores() -> None:
    bound = MLP.bind(MLP_SHAPES)
    assert bound.axes == {
        "fc1.weight": (parse("a"), Fixed(5)),
        "fc1.bias": (parse("a"),),
        "fc2.weight": (parse("b"), parse("a")),
        "head.weight": (Fixed(2), parse("b")),
    }
    assert bound.shapes == MLP_SHAPES
    assert bound.architecture == "mlp"
    assert MLP.shapes is None
    assert MLP.axes["head.weight"] == (Fixed(None), parse("b"))


def test_bind_again_to_the_same_network_is_free() -> None:
    bound = MLP.bind(MLP_SHAPES)
    assert bound.bind({name: list(shape) for name, shape in MLP_SHAPES.items()}) is bound


def test_a_star_skips_scalars_and_what_has_an_entry_of_its_own() -> None:
    spec = spec_of({"s": 4}, {"norm.*": ["s"], "norm.bias": ["4"], "*.count": ["2 * s"]})
    bound = spec.bind({"norm.weight": (4,), "norm.bias": (4,), "norm.n": (), "x.y.count": (8,)})
    assert bound.axes == {
        "norm.bias": (Fixed(4),),
        "norm.weight": (parse("s"),),
        "x.y.count": (parse("2 * s"),),
    }


def test_patterns_take_other_characters_literally() -> None:
    spec = spec_of({"s": 4}, {"n.*": ["s"]})
    assert list(spec.bind({"n.w": (4,), "nxw": (5,)}).axes) == ["n.w"]


def test_two_patterns_may_agree_but_not_differ() -> None:
    agreeing = spec_of({"s": 4}, {"n.*": ["s"], "*.w": ["s"]})
    assert list(agreeing.bind({"n.w": (4,), "n.b": (4,)}).axes) == ["n.w", "n.b"]
    differing = spec_of({"s": 4}, {"n.*": ["s"], "*.w": ["4"]})
    with pytest.raises(PermutationSpecError) as caught:
        differing.bind({"n.w": (4,), "n.b": (4,)})
    assert str(caught.value) == (
        "the permutation spec of this architecture does not fit the network:\n"
        "  n.w: both 'n.*' and '*.w' describe it"
    )


def test_bind_lists_everything_that_does_not_fit() -> None:
    spec = spec_of(
        {"a": 4, "b": 3},
        {
            "fc1.weihgt": ["a", 5],
            "nothing.*": ["a"],
            "fc1.bias": ["a", 1],
            "fc2.weight": ["b", "b + 2"],
            "head.weight": [2, "b[:2] + 1"],
        },
        architecture="net",
    )
    with pytest.raises(PermutationSpecError) as caught:
        spec.bind(MLP_SHAPES)
    assert str(caught.value) == (
        "the permutation spec of net does not fit the network:\n"
        "  fc1.weihgt: no such tensor (did you mean 'fc1.weight'?)\n"
        "  nothing.*: no such tensor\n"
        "  fc1.bias: 2 axes described, the tensor has 1: [4]\n"
        "  fc2.weight: axis 1: 'b + 2' gives 5 coordinates, the tensor has 4\n"
        "  head.weight: axis 'b[:2] + 1' shows only a part of a group, "
        "so permuting the group leads out of it"
    )


def test_bind_shows_twenty_problems_and_counts_the_rest() -> None:
    spec = spec_of({"a": 4}, {f"t{i}": ["a"] for i in range(23)})
    with pytest.raises(PermutationSpecError) as caught:
        spec.bind({"x": (4,)})
    lines = str(caught.value).splitlines()
    assert len(lines) == 22
    assert lines[20:] == ["  t19: no such tensor", "  (+3 more)"]
    with pytest.raises(PermutationSpecError) as caught:
        spec_of({"a": 4}, {f"t{i}": ["a"] for i in range(20)}).bind({"x": (4,)})
    assert str(caught.value).splitlines()[-1] == "  t19: no such tensor"


def test_bind_refuses_groups_that_permute_nothing() -> None:
    spec = spec_of({"a": 4, "b": 3, "c": 2, "d": (2, "c"), "e": (2, "a")}, {"w": ["a"], "v": ["e"]})
    with pytest.raises(PermutationSpecError) as caught:
        spec.bind({"w": (4,), "v": (8,)})
    assert str(caught.value) == (
        "the permutation spec of this architecture does not fit the network:\n"
        "  group 'b' permutes no axis of any tensor\n"
        "  group 'd' permutes no axis of any tensor"
    )


def test_bind_refuses_inner_without_a_carrier() -> None:
    spec = spec_of({"heads": 2, "qk": (3, "heads")}, {"w": [2, "inner(qk)"], "v": ["qk"]})
    with pytest.raises(PermutationSpecError) as caught:
        spec.bind({"w": (2, 3), "v": (6,)})
    assert str(caught.value) == (
        "the permutation spec of this architecture does not fit the network:\n"
        "  w: inner(qk) needs another axis of the tensor on which every coordinate belongs to "
        "'heads' or to a group within it"
    )


# -------------------------------------------------------------------------------------- members


def test_random_is_decided_by_the_generator() -> None:
    first, again, other = (HEADS.random(generator=rng(seed)) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    by_torch = [HEADS.random(generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert by_torch[0] == by_torch[1]
    assert by_torch[0] != by_torch[2]


def test_random_leaves_torchs_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    HEADS.random(generator=torch.Generator().manual_seed(0))
    assert torch.equal(before, torch.random.get_rng_state())


def test_random_reaches_every_member_alike() -> None:
    spec = spec_of({"h": 2, "d": (2, "h")}, {})
    counts: dict[tuple[Permutation, ...], int] = {}
    generator = rng()
    for _ in range(1600):
        member = spec.random(generator=generator)
        key = (member["h"], member["d"])
        counts[key] = counts.get(key, 0) + 1
    assert len(counts) == 8
    assert all(140 < count < 260 for count in counts.values())


def test_random_of_one_group_moves_only_that() -> None:
    member = HEADS.random(generator=rng(3), only="heads")
    moved = own_moves(HEADS.groups, {name: p.indices for name, p in member.items()})
    assert member["heads"] == Permutation([1, 0])
    assert member["qk"] == Permutation([3, 4, 5, 0, 1, 2])
    assert member["s"].moved == 0
    assert (moved["qk"] == np.arange(3)).all()
    member = HEADS.random(generator=rng(0), only="qk")
    assert member["qk"].moved > 0
    assert [member[name].moved for name in ("s", "heads", "vo")] == [0, 0, 0]


def test_identity_moves_nothing() -> None:
    assert {name: p.moved for name, p in HEADS.identity().items()} == dict.fromkeys(HEADS.groups, 0)
    assert {name: len(p) for name, p in HEADS.identity().items()} == {
        "s": 4,
        "heads": 2,
        "qk": 6,
        "vo": 4,
    }


def test_permutations_are_made_of_own_moves() -> None:
    member = HEADS.permutations({"heads": np.array([1, 0]), "vo": np.array([[1, 0], [0, 1]])})
    assert member["vo"] == Permutation([3, 2, 0, 1])
    HEADS.check_permutations(member)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"heads": None},
            "these permutations belong to another spec: missing ['heads'], unknown []",
        ),
        (
            {"s": None, "x": Permutation([0])},
            "these permutations belong to another spec: missing ['s'], unknown ['x']",
        ),
        ({"s": Permutation([0, 1])}, "the permutation of 's' has 2 elements, the group 4"),
        (
            {"heads": Permutation([1, 0])},
            "the permutation of 'qk' does not move whole blocks as 'heads', "
            "which it lies within, does",
        ),
    ],
)
def test_permutations_of_another_spec(change: dict[str, Permutation | None], message: str) -> None:
    wrong = {name: p for name, p in (HEADS.identity() | change).items() if p is not None}
    for check in (
        HEADS.check_permutations,
        lambda each: HEADS.apply(each, state_of(HEADS_SHAPES)),
    ):
        with pytest.raises(PermutationSpecError) as caught:
            check(wrong)
        assert str(caught.value) == message


def test_only_five_names_of_another_spec_are_shown() -> None:
    spec = spec_of(dict.fromkeys("abcdefg", 1), {})
    with pytest.raises(PermutationSpecError) as caught:
        spec.check_permutations({name: Permutation([0]) for name in "tuvwxyz"})
    assert str(caught.value) == (
        "these permutations belong to another spec: "
        "missing ['a', 'b', 'c', 'd', 'e'], unknown ['t', 'u', 'v', 'w', 'x']"
    )


# --------------------------------------------------------------------------------------- acting


def test_apply_permutes_what_is_listed_and_copies_the_rest() -> None:
    state = state_of(MLP_SHAPES)
    a, b = [2, 0, 3, 1], [1, 2, 0]
    moved = MLP.apply({"a": Permutation(a), "b": Permutation(b)}, state)
    assert list(moved) == list(state)
    assert torch.equal(moved["fc1.weight"], state["fc1.weight"][a])
    assert torch.equal(moved["fc1.bias"], state["fc1.bias"][a])
    assert torch.equal(moved["fc2.weight"], state["fc2.weight"][b][:, a])
    assert torch.equal(moved["head.weight"], state["head.weight"][:, b])
    assert torch.equal(moved["head.bias"], state["head.bias"])


def test_apply_to_heads_by_hand() -> None:
    state = state_of(HEADS_SHAPES)
    member = HEADS.permutations(
        {
            "heads": np.array([1, 0]),
            "qk": np.array([[2, 1, 0], [0, 1, 2]]),
            "s": np.array([1, 0, 2, 3]),
        }
    )
    moved = HEADS.apply(member, state)
    qk, s = [5, 4, 3, 0, 1, 2], [1, 0, 2, 3]
    rows = [*qk, *(i + 6 for i in qk), 14, 15, 12, 13]
    assert torch.equal(moved["qkv.weight"], state["qkv.weight"][rows][:, s])
    assert torch.equal(moved["proj.weight"], state["proj.weight"][s][:, [2, 3, 0, 1]])
    assert torch.equal(moved["norm.running_mean"], state["norm.running_mean"][s])
    mixed = state["mix.weight"]
    expected = torch.stack([mixed[2][[2, 1, 0]], mixed[3][[2, 1, 0]], mixed[0], mixed[1]])
    assert torch.equal(moved["mix.weight"], expected)


def test_apply_refuses_a_state_that_does_not_fit() -> None:
    state = state_of(MLP_SHAPES)
    del state["fc1.bias"]
    with pytest.raises(PermutationSpecError) as caught:
        MLP.apply(MLP.identity(), state)
    assert str(caught.value) == (
        "the permutation spec of mlp does not fit the network:\n  fc1.bias: no such tensor"
    )


def test_apply_leaves_its_inputs_and_shares_no_memory() -> None:
    state = state_of(HEADS_SHAPES)
    before = {name: tensor.clone() for name, tensor in state.items()}
    for member in (HEADS.identity(), HEADS.random(generator=rng(1))):
        moved = HEADS.apply(member, state)
        for tensor in moved.values():
            tensor.zero_()
        assert all(torch.equal(state[name], before[name]) for name in state)


def equal(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


@LAW
@given(st.data())
def test_apply_is_a_homomorphism_bit_for_bit(data: st.DataObject) -> None:
    spec, state = data.draw(problems())
    p, q = data.draw(members(spec.groups)), data.draw(members(spec.groups))
    both = {name: p[name] @ q[name] for name in p}
    assert equal(spec.apply(both, state), spec.apply(q, spec.apply(p, state)))
    back = {name: each.inverse() for name, each in p.items()}
    assert equal(spec.apply(back, spec.apply(p, state)), state)
    assert equal(spec.apply(spec.identity(), state), state)


@LAW
@given(st.data())
def test_apply_only_reorders_each_tensor(data: st.DataObject) -> None:
    spec, state = data.draw(problems())
    moved = spec.apply(data.draw(members(spec.groups)), state)
    for name, tensor in state.items():
        assert moved[name].shape == tensor.shape
        assert torch.equal(moved[name].flatten().sort().values, tensor.flatten().sort().values)


@LAW
@given(st.data())
def test_distinct_members_act_differently(data: st.DataObject) -> None:
    spec, state = data.draw(problems())
    p, q = data.draw(members(spec.groups)), data.draw(members(spec.groups))
    assert equal(spec.apply(p, state), spec.apply(q, state)) == (p == q)


# -------------------------------------------------------------------------------- what it covers


def test_coverage_counts_elements_with_a_permuted_axis() -> None:
    spec = spec_of(
        {"a": 4, "one": 1, "h": 2, "d": (3, "h")},
        {
            "w": ["a", "3"],
            "half": ["a + 4", "2"],
            "both": ["a + 4", "a + 4"],
            "one": ["one"],
            "grouped": ["h", "inner(d)"],
            "d": ["d"],
        },
    )
    shapes = {
        "w": (4, 3),
        "half": (8, 2),
        "both": (8, 8),
        "one": (1,),
        "grouped": (2, 3),
        "free": (5,),
    }
    bound = spec.bind({**shapes, "d": (6,)})

    def share(*names: str) -> float:
        return bound.coverage({name: shapes[name] for name in names})

    assert share("w") == 1.0
    assert share("half") == 0.5
    assert share("both") == 0.75
    assert share("one") == 0.0
    assert share("grouped") == 1.0
    assert share("free") == 0.0
    assert share("w", "free") == 12 / 17
    assert bound.coverage({}) == 0.0
    assert bound.coverage({"empty": (0,)}) == 0.0


def test_coverage_of_nested_groups_counts_what_the_outer_one_moves() -> None:
    spec = spec_of({"h": 2, "d": (1, "h"), "k": 1, "e": (1, "k"), "f": (3, "k")}, {})
    rows = {
        "d": ("d",),
        "e": ("e",),
        "in_d": ("h", "inner(d)"),
        "in_e": ("1", "inner(e)"),
        "f": ("f",),
    }
    axes_ = {name: tuple(map(parse, row)) for name, row in rows.items()}
    spec = PermutationSpec(spec.groups, axes_)
    assert spec.coverage({"d": (2,)}) == 1.0
    assert spec.coverage({"e": (1,)}) == 0.0
    assert spec.coverage({"in_d": (2, 1)}) == 1.0
    assert spec.coverage({"in_e": (1, 1)}) == 0.0
    assert spec.coverage({"f": (3,)}) == 1.0


def test_carriers_include_those_of_nested_groups() -> None:
    bound = HEADS.bind(HEADS_SHAPES)
    assert list(bound.carriers("heads")) == ["qkv.weight", "proj.weight", "mix.weight"]
    assert list(bound.carriers("qk")) == ["qkv.weight", "mix.weight"]
    assert list(bound.carriers("vo")) == ["qkv.weight", "proj.weight", "mix.weight"]
    assert list(bound.carriers("s")) == [
        "qkv.weight",
        "proj.weight",
        "norm.weight",
        "norm.running_mean",
    ]


def test_sha256_is_of_what_is_permuted() -> None:
    rows = {"w": ["a", 5], "v": ["a"]}
    spec = spec_of({"a": 4}, rows)
    assert len(spec.sha256) == 64
    same = spec_of(
        {"a": 4}, dict(reversed(rows.items())), architecture="x", options={"k": 1}, fixed={"w": "y"}
    )
    assert same.sha256 == spec.sha256
    different = [
        spec_of({"a": 5}, rows),
        spec_of({"b": 4}, {"w": ["b", 5], "v": ["b"]}),
        spec_of({"a": 4, "b": (2, "a")}, rows),
        spec_of({"a": 4}, {"w": ["a", 5], "v": [4]}),
        spec_of({"a": 4}, {"w": ["a", 5], "u": ["a"]}),
    ]
    hashes = {spec.sha256, *(other.sha256 for other in different)}
    assert len(hashes) == 6


def test_files_are_read_and_written(tmp_path: Path) -> None:
    path = tmp_path / "mlp.yaml"
    path.write_text(MLP.dumps())
    assert PermutationSpec.load(path) == MLP
    assert PermutationSpec.load(str(path)) == MLP
    assert PermutationSpec.loads(MLP.dumps()) == MLP


def test_specs_are_frozen() -> None:
    with pytest.raises(AttributeError):
        MLP.architecture = "other"  # type: ignore[misc]


def test_every_pair_of_small_members_composes() -> None:
    spec = spec_of({"h": 2, "d": (2, "h")}, {"w": ["d", 1], "x": ["h", "inner(d)"]})
    state = state_of({"w": (4, 1), "x": (2, 2)})
    every = [
        spec.permutations({"h": np.array(h), "d": np.array([d, e])})
        for h, d, e in itertools.product([[0, 1], [1, 0]], repeat=3)
    ]
    images = [spec.apply(member, state) for member in every]
    assert len({tuple(image["w"].flatten().tolist()) for image in images}) == 8
    for (p, image), q in itertools.product(zip(every, images, strict=True), every):
        product = {name: p[name] @ q[name] for name in p}
        assert product in every
        assert equal(spec.apply(product, state), spec.apply(q, image))


def test_coverage_counts_the_sections_of_groups_that_are_not_alike() -> None:
    text = (
        "format: perm-merge/permspec@1\ngroups: {a: 8, b: 8}\naxes:\n"
        "  one: [b + 8, 'inner(2, a + 8)']\n  other: [8 + b, 'inner(2, a + 8)']\n"
    )
    spec = PermutationSpec.loads(text)
    assert spec.coverage({"one": (16, 8)}) == 0.5
    assert spec.coverage({"other": (16, 8)}) == 1.0
    assert spec.coverage({"one": (16, 8), "unlisted": (128,)}) == 0.25
