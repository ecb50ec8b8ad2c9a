from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mergekit_perm import action, axes
from mergekit_perm.axes import (
    Axis,
    Concatenation,
    Fixed,
    Interleaving,
    Pick,
    Product,
    Whole,
    parse,
)
from mergekit_perm.errors import PermutationSpecError
from mergekit_perm.groups import Group, Groups
from mergekit_perm.permspec import PermutationSpec
from mergekit_perm.permutation import Permutation
from tests.strategies import (
    LAW,
    closed_axes,
    each_group_once,
    group_sets,
    members,
    parents,
    partial_axes,
    raw,
    source_of,
)


def groups_of(**sizes: int | tuple[int, str]) -> Groups:
    found = {}
    for name, entry in sizes.items():
        size, within = entry if isinstance(entry, tuple) else (entry, None)
        found[name] = Group(name, size, within)
    return Groups(found)


HEADS = groups_of(s=3, heads=2, qk=(3, "heads"), vo=(2, "heads"), deep=(2, "vo"))
SWAPPED = action.assemble(
    HEADS,
    {
        "s": np.array([2, 0, 1]),
        "heads": np.array([1, 0]),
        "qk": np.array([[1, 0, 2], [0, 2, 1]]),
    },
)


# ------------------------------------------------------------------------------------ sources


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4", [0, 1, 2, 3]),
        ("s", [2, 0, 1]),
        ("heads", [1, 0]),
        # The new first block is the old second one, its elements 1, 0, 2.
        ("qk", [4, 3, 5, 0, 2, 1]),
        ("vo", [2, 3, 0, 1]),
        ("deep", [4, 5, 6, 7, 0, 1, 2, 3]),
        ("s * 2", [4, 5, 0, 1, 2, 3]),
        ("2 * s", [2, 0, 1, 5, 3, 4]),
        ("s + 1 + heads", [2, 0, 1, 3, 5, 4]),
        ("s * heads", [5, 4, 1, 0, 3, 2]),
        ("s + s", [2, 0, 1, 5, 3, 4]),
        ("s[::-1]", [1, 2, 0]),
        ("s[1:] + s[:1]", [2, 0, 1]),
        ("s[[1, 0, 2]]", [1, 2, 0]),
        ("s[:2] + 1 + s[2:]", [3, 0, 2, 1]),
        ("(s * 2)[::2]", [2, 0, 1]),
        ("s * s", [8, 6, 7, 2, 0, 1, 5, 3, 4]),
        # Each copy of s stays itself, although the copies cross: 0 4 1 | 3 2 5 are both s.
        ("(s + s)[[0, 4, 1, 3, 2, 5]]", [4, 3, 0, 5, 2, 1]),
        ("s[[0, 0, 1, 1, 2, 2]]", [4, 5, 0, 1, 2, 3]),
    ],
)
def test_sources(text: str, expected: list[int]) -> None:
    assert action.source(parse(text), HEADS, SWAPPED).tolist() == expected


@pytest.mark.parametrize(
    ("text", "block", "expected"),
    [
        ("inner(qk)", 0, [1, 0, 2]),
        ("inner(qk)", 1, [0, 2, 1]),
        ("inner(qk) * 2", 0, [2, 3, 0, 1, 4, 5]),
        ("inner(qk)[::-1]", 1, [1, 0, 2]),
        ("inner(qk) + 1", 0, [1, 0, 2, 3]),
        ("inner(deep)", 3, [0, 1]),
    ],
)
def test_sources_within_a_block(text: str, block: int, expected: list[int]) -> None:
    assert action.source(parse(text), HEADS, SWAPPED, block=block).tolist() == expected


def test_inner_without_a_block() -> None:
    with pytest.raises(PermutationSpecError) as caught:
        action.source(parse("inner(qk)"), HEADS, SWAPPED)
    assert str(caught.value) == "inner(qk) needs an axis that carries 'heads'"


@LAW
@given(st.data())
def test_sources_compose_as_members_do(data: st.DataObject) -> None:
    groups = data.draw(group_sets())
    axis = data.draw(closed_axes(groups))
    p, q = data.draw(members(groups)), data.draw(members(groups))
    both = {name: p[name] @ q[name] for name in groups}
    back = {name: p[name].inverse() for name in groups}
    still = {name: p[name] @ back[name] for name in groups}
    every = list(range(axes.size(axis, groups)))
    first, then = (np.array(source_of(axis, groups, each), dtype=int) for each in (p, q))
    assert source_of(axis, groups, both) == first[then].tolist()
    assert source_of(axis, groups, still) == every
    assert source_of(axis, groups, back) == np.argsort(first).tolist()
    assert sorted(first.tolist()) == every


@LAW
@given(st.data())
def test_each_form_moves_as_its_parts_do(data: st.DataObject) -> None:
    groups = data.draw(group_sets())
    member = data.draw(members(groups))
    a, b = (data.draw(closed_axes(groups, depth=1)) for _ in range(2))
    of_a, of_b = (np.array(source_of(axis, groups, member), dtype=int) for axis in (a, b))
    assert source_of(Product((a, b)), groups, member) == (
        (of_a[:, None] * len(of_b) + of_b).reshape(-1).tolist()
    )
    assert source_of(Concatenation((a, b)), groups, member) == [*of_a, *(of_b + len(of_a))]
    for base in (a, Concatenation((a, a)), Concatenation((a, b, a))):
        of_base = np.array(source_of(base, groups, member), dtype=int)
        order = np.array(data.draw(st.permutations(range(len(of_base)))), dtype=int)
        shown = Pick(base, tuple(order.tolist()))
        assert source_of(shown, groups, member) == np.argsort(order)[of_base[order]].tolist()


@LAW
@given(st.data())
def test_interleaved_terms_move_as_they_do_one_after_another(data: st.DataObject) -> None:
    groups = data.draw(group_sets())
    member = data.draw(members(groups))
    a, b = (data.draw(closed_axes(groups, depth=1)) for _ in range(2))
    sizes = [axes.size(axis, groups) for axis in (a, b)]
    blocks = math.gcd(*sizes)
    together = np.array(source_of(Concatenation((a, b)), groups, member), dtype=int)
    order = axes.interleaved(blocks, sizes)
    shown = source_of(Interleaving(blocks, (a, b)), groups, member)
    assert shown == np.argsort(order)[together[order]].tolist()


def test_query_key_and_value_of_each_head_move_with_their_head() -> None:
    """Two heads: query and key of two and value of one dimension each, head by head."""
    groups = Groups(
        {
            "heads": Group("heads", 2),
            "qk": Group("qk", 2, within="heads"),
            "vo": Group("vo", 1, within="heads"),
        }
    )
    axis = parse("interleave(2, qk, qk, vo)")
    swapped = {"heads": Permutation([1, 0])}
    swapped |= {"qk": Permutation([2, 3, 1, 0]), "vo": Permutation([1, 0])}
    assert source_of(axis, groups, swapped) == [5, 6, 7, 8, 9, 1, 0, 3, 2, 4]


def test_parts_of_one_product_are_parts_of_one_thing() -> None:
    groups = Groups({"a": Group("a", 2), "b": Group("b", 2)})
    member = {"a": Permutation([1, 0]), "b": Permutation([0, 1])}
    whole = source_of(parse("a * b * 2"), groups, member)
    assert whole == [4, 5, 6, 7, 0, 1, 2, 3]
    assert source_of(parse("(a * b * 2)[0:3] + (a * b * 2)[3:]"), groups, member) == whole


@LAW
@given(st.data())
def test_members_that_name_no_group_of_the_axis_leave_it(data: st.DataObject) -> None:
    groups = data.draw(group_sets())
    axis = data.draw(closed_axes(groups))
    spec = PermutationSpec(groups, {})
    involved = {each.name for name in axes.names(axis) for each in groups.chain(name)}
    generator = np.random.default_rng(data.draw(st.integers(0, 99)))
    for name in set(groups) - involved:
        member = spec.random(generator=generator, only=name)
        assert source_of(axis, groups, member) == list(range(axes.size(axis, groups)))


# ----------------------------------------------------------------------------------- closure


@LAW
@given(st.data())
def test_closed_axes_pass_and_partial_ones_are_refused(data: st.DataObject) -> None:
    groups = data.draw(group_sets().filter(lambda g: any(g.length(name) > 1 for name in g)))
    action.check_closed([data.draw(closed_axes(groups)) for _ in range(3)], groups)
    axis = data.draw(partial_axes(groups))
    with pytest.raises(PermutationSpecError) as caught:
        action.check_closed([axis], groups)
    assert str(caught.value) == (
        f"axis '{axes.format_axis(axis)}' shows only a part of a group, "
        "so permuting the group leads out of it"
    )


@pytest.mark.parametrize(
    "text",
    [
        "s[:2]",
        "s[[0, 1, 1]]",
        "s + s[:1]",
        "heads[:1]",
        "qk[:3]",
        "qk[::3]",
        "vo[1:]",
        "deep[::2]",
        "(s * 2)[1:]",
    ],
)
def test_partial_axes_by_hand(text: str) -> None:
    with pytest.raises(PermutationSpecError, match="shows only a part of a group"):
        action.check_closed([parse(text)], HEADS)


@pytest.mark.parametrize(
    "text",
    ["s[:1] + s[1:]", "s[::-1]", "(qk + s)[6:]", "(3 + s)[:3]", "(s * 2)[::2]", "vo[[1, 0, 3, 2]]"],
)
def test_closed_axes_by_hand(text: str) -> None:
    action.check_closed([parse(text)], HEADS)


def test_inner_axes_are_checked_for_closure_too() -> None:
    action.check_closed([parse("qk"), parse("inner(vo)[::-1]")], HEADS)
    with pytest.raises(PermutationSpecError) as caught:
        action.check_closed([parse("qk"), parse("inner(vo)[:1]")], HEADS)
    assert str(caught.value) == (
        "axis 'inner(vo)[:1]' shows only a part of a group, so permuting the group leads out of it"
    )


def test_inner_groups_of_two_outer_ones_cannot_share_an_axis() -> None:
    groups = groups_of(h=2, k=2, a=(2, "h"), b=(3, "k"))
    action.check_closed([parse("h * k"), parse("inner(a)"), parse("inner(b)")], groups)
    with pytest.raises(PermutationSpecError) as caught:
        action.check_closed([parse("h * k"), parse("inner(a) + inner(b)")], groups)
    assert str(caught.value) == (
        "axis 'inner(a) + inner(b)' has `inner` of groups within different ones, "
        "but one index on another axis can choose the block of only one"
    )


# ----------------------------------------------------------------------------------- members


@LAW
@given(st.data())
def test_assemble_undoes_own_moves(data: st.DataObject) -> None:
    groups = data.draw(group_sets())
    member = raw(data.draw(members(groups)))
    moves = action.own_moves(groups, member)
    again = action.assemble(groups, moves)
    assert list(again) == list(groups)
    for name, group in groups.items():
        assert np.array_equal(again[name], member[name])
        blocks = (groups.length(group.within), group.size) if group.within else (group.size,)
        assert moves[name].shape == blocks
        assert np.array_equal(
            np.sort(moves[name], axis=-1), np.broadcast_to(np.arange(group.size), blocks)
        )


@LAW
@given(st.data())
def test_members_form_a_group_of_block_permutations(data: st.DataObject) -> None:
    groups = data.draw(group_sets())
    p, q = data.draw(members(groups)), data.draw(members(groups))
    for member in (
        {name: p[name] @ q[name] for name in groups},
        {name: p[name].inverse() for name in groups},
    ):
        action.own_moves(groups, raw(member))
        for name, group in groups.items():
            if group.within is not None:
                blocks = member[name].indices.reshape(-1, group.size) // group.size
                assert (blocks == member[group.within].indices[:, None]).all()


def test_own_moves_refuses_what_tears_blocks_apart() -> None:
    groups = groups_of(heads=2, qk=(2, "heads"))
    with pytest.raises(PermutationSpecError) as caught:
        action.own_moves(groups, {"heads": np.array([0, 1]), "qk": np.array([2, 1, 0, 3])})
    assert str(caught.value) == (
        "the permutation of 'qk' does not move whole blocks as 'heads', which it lies within, does"
    )
    with pytest.raises(PermutationSpecError, match="'qk' does not move whole blocks"):
        action.own_moves(groups, {"heads": np.array([1, 0]), "qk": np.arange(4)})


def test_groups_without_a_move_follow_their_outer_group() -> None:
    member = action.assemble(HEADS, {"heads": np.array([1, 0])})
    assert {name: indices.tolist() for name, indices in member.items()} == {
        "s": [0, 1, 2],
        "heads": [1, 0],
        "qk": [3, 4, 5, 0, 1, 2],
        "vo": [2, 3, 0, 1],
        "deep": [4, 5, 6, 7, 0, 1, 2, 3],
    }


@pytest.mark.parametrize(
    ("groups", "order"),
    [
        (groups_of(a=1), 1),
        (groups_of(a=4), 24),
        (groups_of(a=2, b=3), 12),
        (groups_of(a=3, b=(2, "a")), 6 * 2**3),
        (groups_of(a=2, b=(3, "a")), 2 * 6**2),
        (groups_of(a=2, b=(2, "a"), c=(2, "b")), 2 * 2**2 * 2**4),
        (groups_of(a=2, b=(2, "a"), c=(2, "a")), 2 * 2**2 * 2**2),
        (groups_of(a=1, b=(3, "a")), 6),
        (groups_of(a=3, b=(1, "a")), 6),
    ],
)
def test_generators_generate_the_whole_group(groups: Groups, order: int) -> None:
    steps = list(action.generators(groups, list(groups)))
    still = action.assemble(groups, {})

    def key(member: action.Member) -> tuple[int, ...]:
        return tuple(itertools.chain.from_iterable(member[name].tolist() for name in groups))

    found = {key(still): still}
    waiting = [still]
    while waiting:
        member = waiting.pop()
        for step in steps:
            action.own_moves(groups, step)
            product = {name: member[name][step[name]] for name in groups}
            if key(product) not in found:
                found[key(product)] = product
                waiting.append(product)
    assert len(found) == order


def test_generators_of_some_groups_move_only_those() -> None:
    for member in action.generators(HEADS, ["qk"]):
        moves = action.own_moves(HEADS, member)
        assert (moves["qk"][0] != np.arange(3)).any()
        assert (moves["qk"][1] == np.arange(3)).all()
        assert all(
            (moves[name] == np.arange(HEADS[name].size)).all() for name in HEADS if name != "qk"
        )


# ---------------------------------------------------------------------- elements, occurrences


def test_elements_name_what_moves_each_coordinate() -> None:
    def of(text: str, group: str) -> list[int]:
        return action.elements(parse(text), HEADS, group).tolist()

    assert of("s + 2 + s[::-1]", "s") == [0, 1, 2, -1, -1, 2, 1, 0]
    assert of("2 * s", "s") == [0, 1, 2, 0, 1, 2]
    assert of("s * 2", "s") == [0, 0, 1, 1, 2, 2]
    assert of("heads * s", "s") == [0, 1, 2, 0, 1, 2]
    assert of("heads * s", "heads") == [0, 0, 0, 1, 1, 1]
    assert of("qk", "qk") == [0, 1, 2, 3, 4, 5]
    assert of("qk + vo", "heads") == [0, 0, 0, 1, 1, 1, 0, 0, 1, 1]
    assert of("deep", "heads") == [0, 0, 0, 0, 1, 1, 1, 1]
    assert of("deep", "vo") == [0, 0, 1, 1, 2, 2, 3, 3]
    assert of("heads", "qk") == [-1, -1]
    assert of("inner(qk)", "qk") == [-1, -1, -1]


@LAW
@given(st.data())
def test_elements_move_with_their_group(data: st.DataObject) -> None:
    groups = data.draw(group_sets())
    axis = data.draw(closed_axes(groups))
    member = data.draw(members(groups))
    sources = source_of(axis, groups, member)
    still = np.ones(len(sources), dtype=bool)
    for name in groups:
        elements = action.elements(axis, groups, name)
        carried = elements >= 0
        assert np.array_equal(elements[sources] >= 0, carried)
        assert np.array_equal(elements[sources][carried], member[name].indices[elements[carried]])
        still &= ~carried
    assert np.array_equal(np.flatnonzero(still), np.array(sources, dtype=int)[still])


@LAW
@given(st.data())
def test_occurrences_stand_where_members_put_them(data: st.DataObject) -> None:
    groups = data.draw(group_sets())
    axis = data.draw(closed_axes(groups).filter(lambda axis: each_group_once(axis, groups)))
    spec = PermutationSpec(groups, {})
    generator = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    for name in groups:
        found = action.occurrences(axis, groups, name)
        elements = action.elements(axis, groups, name)
        assert found.shape[0] == groups.length(name)
        assert sorted(found.reshape(-1)) == np.flatnonzero(elements >= 0).tolist()
        assert (elements[found] == np.arange(len(found))[:, None]).all()
        for mover in [name, groups[name].within or name]:
            member = spec.random(generator=generator, only=mover)
            sources = np.array(source_of(axis, groups, member), dtype=int)
            assert np.array_equal(sources[found], found[member[name].indices])


@LAW
@given(st.data())
def test_inner_occurrences_stand_where_members_put_them(data: st.DataObject) -> None:
    groups = data.draw(group_sets().filter(parents))
    name = data.draw(st.sampled_from(parents(groups)))
    outer = groups[name].within
    assert outer is not None
    axis = parse(
        data.draw(
            st.sampled_from(
                [
                    f"inner({name})",
                    f"inner({name})[::-1]",
                    f"inner({name}) * 2",
                    f"3 + inner({name})",
                ]
            )
        )
    )
    found = action.inner_occurrences(axis, groups, name)
    member = raw(data.draw(members(groups)))
    moves = action.own_moves(groups, member)[name]
    assert found.shape[0] == groups[name].size
    for block in range(groups.length(outer)):
        sources = action.source(axis, groups, member, block=block)
        assert np.array_equal(sources[found], found[moves[block]])


def test_occurrences_by_hand() -> None:
    assert action.occurrences(parse("s * 2"), HEADS, "s").tolist() == [[0, 1], [2, 3], [4, 5]]
    assert action.occurrences(parse("s + s[::-1]"), HEADS, "s").tolist() == [[0, 5], [1, 4], [2, 3]]
    assert action.occurrences(parse("qk + s"), HEADS, "heads").tolist() == [[0, 1, 2], [3, 4, 5]]
    assert action.occurrences(parse("qk + qk"), HEADS, "qk").tolist() == [
        [i, i + 6] for i in range(6)
    ]
    assert action.occurrences(parse("5"), HEADS, "s").shape == (3, 0)
    assert action.occurrences(parse("s"), HEADS, "qk").shape == (6, 0)
    assert action.inner_occurrences(parse("inner(qk) * 2"), HEADS, "qk").tolist() == [
        [0, 1],
        [2, 3],
        [4, 5],
    ]
    assert action.inner_occurrences(parse("inner(vo) + inner(qk)"), HEADS, "qk").tolist() == [
        [2],
        [3],
        [4],
    ]


# ----------------------------------------------------------------------------------- tensors


def rows(*texts: str) -> list[Axis]:
    return [parse(text) for text in texts]


def test_carrier_is_the_axis_that_tells_every_block() -> None:
    assert action.carrier(rows("s", "qk", "inner(vo)"), HEADS, "vo") == 1
    assert action.carrier(rows("heads", "inner(vo)"), HEADS, "vo") == 0
    assert action.carrier(rows("inner(qk)", "heads * 2"), HEADS, "qk") == 1
    assert action.carrier(rows("deep", "inner(deep)"), HEADS, "deep") == 0


@pytest.mark.parametrize(
    ("texts", "group", "outer"),
    [
        (("s", "inner(vo)"), "vo", "heads"),
        (("heads + 1", "inner(vo)"), "vo", "heads"),
        (("3", "inner(vo)", "inner(qk)"), "vo", "heads"),
        (("qk", "inner(deep)"), "deep", "vo"),
        (("heads", "inner(s)"), "s", "None"),
    ],
)
def test_carrier_that_is_not_there(texts: tuple[str, ...], group: str, outer: str) -> None:
    with pytest.raises(PermutationSpecError) as caught:
        action.carrier(rows(*texts), HEADS, group)
    assert str(caught.value) == (
        f"inner({group}) needs another axis of the tensor on which every coordinate belongs to "
        f"'{outer}' or to a group within it"
    )


def test_sources_of_a_tensor_leave_out_what_stays() -> None:
    row = rows("4", "s", "heads * 2", "inner(qk)")
    still = action.assemble(HEADS, {})
    found = action.sources(row, HEADS, still)
    assert [(place, by) for place, by, _ in found] == [(3, 2)]
    assert found[0][2].tolist() == [[0, 1, 2]] * 4
    found = action.sources(row, HEADS, SWAPPED)
    assert [(place, by) for place, by, _ in found] == [(1, -1), (2, -1), (3, 2)]
    assert found[0][2].tolist() == [2, 0, 1]
    assert found[1][2].tolist() == [2, 3, 0, 1]
    assert found[2][2].tolist() == [[1, 0, 2], [1, 0, 2], [0, 2, 1], [0, 2, 1]]


def test_act_by_hand() -> None:
    tensor = torch.arange(6).reshape(2, 3)
    moved = action.act(tensor, rows("heads", "inner(qk)"), HEADS, SWAPPED)
    # Row 0 is old row 1 in the order 1 0 2, row 1 is old row 0 in the order 0 2 1.
    assert moved.tolist() == [[4, 3, 5], [0, 2, 1]]
    moved = action.act(tensor.T, rows("inner(qk)", "heads"), HEADS, SWAPPED)
    assert moved.T.tolist() == [[4, 3, 5], [0, 2, 1]]
    assert action.act(tensor, rows("heads", "s"), HEADS, SWAPPED).tolist() == [[5, 3, 4], [2, 0, 1]]


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.complex64]
)
def test_act_keeps_dtype_and_makes_new_contiguous_memory(dtype: torch.dtype) -> None:
    tensor = torch.arange(6).reshape(3, 2).to(dtype).T
    before = tensor.clone()
    for texts in (("heads", "s"), ("heads", "inner(qk)"), ("2", "3"), ("2", "s")):
        moved = action.act(tensor, rows(*texts), HEADS, SWAPPED)
        assert moved.dtype == dtype
        assert moved.shape == (2, 3)
        assert moved.data_ptr() != tensor.data_ptr()
        assert torch.equal(tensor, before)


def test_act_on_a_scalar_copies_it() -> None:
    count = torch.tensor(3)
    moved = action.act(count, [], HEADS, SWAPPED)
    moved += 1
    assert count.item() == 3


@LAW
@given(st.data())
def test_acting_on_tensors_is_a_homomorphism(data: st.DataObject) -> None:
    groups = data.draw(group_sets())
    row: list[Axis] = [data.draw(closed_axes(groups, depth=1)) for _ in range(2)]
    for name in (
        data.draw(st.lists(st.sampled_from(parents(groups)), max_size=2)) if parents(groups) else []
    ):
        row += [Whole(groups[name].within or ""), parse(f"inner({name})")]
    row.append(Fixed(2))
    shape = [axes.size(axis, groups) for axis in row]
    if np.prod(shape) > 20_000:
        row, shape = row[:2], shape[:2]
    tensor = torch.arange(int(np.prod(shape))).reshape(shape)
    p, q = data.draw(members(groups)), data.draw(members(groups))
    both = {name: p[name] @ q[name] for name in groups}
    twice = action.act(action.act(tensor, row, groups, raw(p)), row, groups, raw(q))
    assert torch.equal(action.act(tensor, row, groups, raw(both)), twice)
    back = {name: p[name].inverse() for name in groups}
    moved = action.act(tensor, row, groups, raw(p))
    assert torch.equal(action.act(moved, row, groups, raw(back)), tensor)
    assert torch.equal(moved.reshape(-1).sort().values, tensor.reshape(-1))
