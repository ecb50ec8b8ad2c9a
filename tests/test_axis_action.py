from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergekit_perm import axes, axis_action, axis_size
from mergekit_perm.axes import Concatenation, Interleaving, Pick, Product
from mergekit_perm.axis_text import parse
from mergekit_perm.errors import PermutationSpecError
from mergekit_perm.groups import Group, Groups
from mergekit_perm.permspec import PermutationSpec
from mergekit_perm.permutation import Permutation
from tests.group_examples import HEADS, SWAPPED
from tests.strategies import LAW, closed_axes, group_sets, members, source_of


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
    assert axis_action.source(parse(text), HEADS, SWAPPED).tolist() == expected


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
    assert axis_action.source(parse(text), HEADS, SWAPPED, block=block).tolist() == expected


def test_inner_without_a_block() -> None:
    with pytest.raises(PermutationSpecError) as caught:
        axis_action.source(parse("inner(qk)"), HEADS, SWAPPED)
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
    every = list(range(axis_size.size(axis, groups)))
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
    sizes = [axis_size.size(axis, groups) for axis in (a, b)]
    blocks = math.gcd(*sizes)
    together = np.array(source_of(Concatenation((a, b)), groups, member), dtype=int)
    order = axis_size.interleaved(blocks, sizes)
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
        assert source_of(axis, groups, member) == list(range(axis_size.size(axis, groups)))
