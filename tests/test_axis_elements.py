from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mergekit_perm import axis_action
from mergekit_perm.axis_elements import elements, inner_occurrences, occurrences
from mergekit_perm.axis_text import parse
from mergekit_perm.members import own_moves
from mergekit_perm.permspec import PermutationSpec
from tests.group_examples import HEADS
from tests.strategies import (
    LAW,
    closed_axes,
    each_group_once,
    group_sets,
    members,
    parents,
    raw,
    source_of,
)


def test_elements_name_what_moves_each_coordinate() -> None:
    def of(text: str, group: str) -> list[int]:
        return elements(parse(text), HEADS, group).tolist()

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
        found = elements(axis, groups, name)
        carried = found >= 0
        assert np.array_equal(found[sources] >= 0, carried)
        assert np.array_equal(found[sources][carried], member[name].indices[found[carried]])
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
        found = occurrences(axis, groups, name)
        element_of = elements(axis, groups, name)
        assert found.shape[0] == groups.length(name)
        assert sorted(found.reshape(-1)) == np.flatnonzero(element_of >= 0).tolist()
        assert (element_of[found] == np.arange(len(found))[:, None]).all()
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
    found = inner_occurrences(axis, groups, name)
    member = raw(data.draw(members(groups)))
    moves = own_moves(groups, member)[name]
    assert found.shape[0] == groups[name].size
    for block in range(groups.length(outer)):
        sources = axis_action.source(axis, groups, member, block=block)
        assert np.array_equal(sources[found], found[moves[block]])


def test_occurrences_by_hand() -> None:
    assert occurrences(parse("s * 2"), HEADS, "s").tolist() == [[0, 1], [2, 3], [4, 5]]
    assert occurrences(parse("s + s[::-1]"), HEADS, "s").tolist() == [[0, 5], [1, 4], [2, 3]]
    assert occurrences(parse("qk + s"), HEADS, "heads").tolist() == [[0, 1, 2], [3, 4, 5]]
    assert occurrences(parse("qk + qk"), HEADS, "qk").tolist() == [[i, i + 6] for i in range(6)]
    assert occurrences(parse("5"), HEADS, "s").shape == (3, 0)
    assert occurrences(parse("s"), HEADS, "qk").shape == (6, 0)
    assert inner_occurrences(parse("inner(qk) * 2"), HEADS, "qk").tolist() == [
        [0, 1],
        [2, 3],
        [4, 5],
    ]
    assert inner_occurrences(parse("inner(vo) + inner(qk)"), HEADS, "qk").tolist() == [
        [2],
        [3],
        [4],
    ]
