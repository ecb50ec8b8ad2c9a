from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergekit_perm.errors import PermutationSpecError
from mergekit_perm.groups import Groups
from mergekit_perm.members import Member, assemble, generators, own_moves
from tests.group_examples import HEADS, groups_of
from tests.strategies import LAW, group_sets, members, raw


@LAW
@given(st.data())
def test_assemble_undoes_own_moves(data: st.DataObject) -> None:
    groups = data.draw(group_sets())
    member = raw(data.draw(members(groups)))
    moves = own_moves(groups, member)
    again = assemble(groups, moves)
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
        own_moves(groups, raw(member))
        for name, group in groups.items():
            if group.within is not None:
                blocks = member[name].indices.reshape(-1, group.size) // group.size
                assert (blocks == member[group.within].indices[:, None]).all()


def test_own_moves_refuses_what_tears_blocks_apart() -> None:
    groups = groups_of(heads=2, qk=(2, "heads"))
    with pytest.raises(PermutationSpecError) as caught:
        own_moves(groups, {"heads": np.array([0, 1]), "qk": np.array([2, 1, 0, 3])})
    assert str(caught.value) == (
        "the permutation of 'qk' does not move whole blocks as 'heads', which it lies within, does"
    )
    with pytest.raises(PermutationSpecError, match="'qk' does not move whole blocks"):
        own_moves(groups, {"heads": np.array([1, 0]), "qk": np.arange(4)})


def test_groups_without_a_move_follow_their_outer_group() -> None:
    member = assemble(HEADS, {"heads": np.array([1, 0])})
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
    steps = list(generators(groups, list(groups)))
    still = assemble(groups, {})

    def key(member: Member) -> tuple[int, ...]:
        return tuple(itertools.chain.from_iterable(member[name].tolist() for name in groups))

    found = {key(still): still}
    waiting = [still]
    while waiting:
        member = waiting.pop()
        for step in steps:
            own_moves(groups, step)
            product = {name: member[name][step[name]] for name in groups}
            if key(product) not in found:
                found[key(product)] = product
                waiting.append(product)
    assert len(found) == order


def test_generators_of_some_groups_move_only_those() -> None:
    for member in generators(HEADS, ["qk"]):
        moves = own_moves(HEADS, member)
        assert (moves["qk"][0] != np.arange(3)).any()
        assert (moves["qk"][1] == np.arange(3)).all()
        assert all(
            (moves[name] == np.arange(HEADS[name].size)).all() for name in HEADS if name != "qk"
        )
