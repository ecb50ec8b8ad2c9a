"""Laws of primitives, and what each states."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergekit_perm.derive import primitives
from mergekit_perm.derive.cells import find_cells
from mergekit_perm.derive.facts import Facts
from mergekit_perm.derive.labels import Labels, Map, tidied, unlabelled
from mergekit_perm.derive.primitives import regrouping
from mergekit_perm.permutation import Indices
from tests.derive.test_labels import described, labelled
from tests.strategies import LAW

FACTS = Facts()


def vector(facts: Facts, *shape: int) -> Labels:
    """Labels with elements of its own on every axis."""
    maps = tuple(Map((axis,), facts.fresh((length,))) for axis, length in enumerate(shape))
    return Labels(tuple((length,) for length in shape), maps)


def moving(facts: Facts, elements: Indices) -> list[int]:
    """How many elements there are in the cell of each of `elements`."""
    cells = find_cells(facts)
    return np.array(cells.sizes)[cells.cell[elements]].tolist()


def stated(facts: Facts) -> int:
    return sum(map(len, (facts.matches, facts.projections, facts.parts, facts.frozen)))


@LAW
@given(labelled(FACTS), st.data())
def test_reshaping_there_and_back_states_nothing(labels: Labels, data: st.DataObject) -> None:
    before = stated(FACTS)
    count = len(labels.sizes)
    cuts = sorted(data.draw(st.sets(st.integers(0, count))) | {0, count})
    shape = tuple(math.prod(labels.sizes[a:b]) for a, b in itertools.pairwise(cuts))
    there = primitives.reshape(FACTS, labels, shape)
    back = primitives.reshape(FACTS, there, labels.shape)
    assert there.shape == shape and described(tidied(back)) == described(tidied(labels))
    assert stated(FACTS) == before


@LAW
@given(labelled(FACTS), st.data())
def test_choosing_twice_is_choosing_once(labels: Labels, data: st.DataObject) -> None:
    axis = data.draw(st.integers(0, len(labels.axes) - 1))
    length = labels.shape[axis]
    order = np.array(data.draw(st.permutations(range(length))))
    again = np.array(data.draw(st.permutations(range(length))))
    twice = primitives.select(FACTS, primitives.select(FACTS, labels, axis, order), axis, again)
    once = primitives.select(FACTS, labels, axis, order[again])
    back = primitives.select(FACTS, twice, axis, np.argsort(order[again]))
    if len(labels.axes[axis]) <= 1:  # several digits are joined first, with new elements
        assert described(twice) == described(once)
        assert described(back) == described(tidied(labels))
    assert twice.shape == once.shape == labels.shape


@LAW
@given(st.integers(4, 8), st.integers(2, 6))
def test_parts_put_together_again_are_the_whole(length: int, cut: int) -> None:
    facts, cut = Facts(), min(cut, length - 2)
    labels = vector(facts, 2, length)
    parts = [
        primitives.select(facts, labels, 1, np.arange(a, b)) for a, b in ((0, cut), (cut, length))
    ]
    joined = primitives.concatenate(facts, parts, 1)
    assert described(joined) == described(labels)
    expected = [size for size in (cut, length - cut) for _ in range(size)]
    assert moving(facts, labels.maps[1].elements) == expected


def test_what_stands_at_one_letter_moves_alike() -> None:
    facts = Facts()
    a, b = vector(facts, 2, 3), vector(facts, 3, 4)
    out = primitives.contract(facts, [(a, "xy"), (b, "yz")], "xz")
    cells = find_cells(facts)
    assert out.shape == (2, 4)
    assert cells.cell[a.maps[1].elements].tolist() == cells.cell[b.maps[0].elements].tolist()
    assert cells.place[a.maps[1].elements].tolist() == cells.place[b.maps[0].elements].tolist()
    assert len(set(cells.cell[np.concatenate([m.elements for m in (*a.maps, *b.maps)])])) == 3


def test_a_letter_without_an_operand_is_constant() -> None:
    out = primitives.contract(Facts(), [(vector(Facts(), 3), "x")], "xy", {"y": 2})
    assert out.shape == (3, 2) and out.constant == {1}


def test_axes_cut_at_other_places_are_joined_first() -> None:
    facts = Facts()
    before = vector(facts, 2, 3)
    (whole,) = primitives.reshape(facts, before, (3, 2)).maps
    assert whole.digits == (0, 1) and whole.elements.shape == (3, 2)
    cells = find_cells(facts)
    (cell,) = set(cells.cell[whole.elements.reshape(-1)])
    assert {target for target, _ in cells.within[cell]} == {
        cells.cell[map_.elements[0]] for map_ in before.maps
    }


def joint(facts: Facts, *sizes: int) -> Labels:
    """Labels of one axis of several digits, with elements for all of their coordinates."""
    return Labels((sizes,), (Map(tuple(range(len(sizes))), facts.fresh(sizes)),))


@pytest.mark.parametrize(
    ("index", "digits"),
    [
        ([3, 4, 5], [[3, 4, 5]]),  # a block
        ([5, 3, 4, 2, 0, 1], [[5, 3, 4], [2, 0, 1]]),  # all blocks, in another order
        ([0, 2, 3, 5], [[0, 2], [3, 5]]),  # the same places of every block
        ([1, 2, 3], [1, 2, 3]),  # across blocks
    ],
)
def test_chosen_digits(index: list[int], digits: list[list[int]]) -> None:
    facts = Facts()
    chosen = primitives.select(facts, joint(facts, 2, 3), 0, np.array(index))
    (map_,) = chosen.maps
    assert map_.elements.reshape(-1).tolist() == index == np.array(digits).reshape(-1).tolist()


def test_equal_values_have_any_digits() -> None:
    facts = Facts()
    labels = joint(facts, 2, 3)
    out = primitives.combine(facts, (6,), [labels, primitives.constant((6,))])
    assert described(out) == described(tidied(labels)) and stated(facts) == 0


def test_digits_that_do_not_fit_are_made_one() -> None:
    facts = Facts()
    one, other = joint(facts, 2, 3), joint(facts, 3, 2)
    (map_,) = primitives.combine(facts, (6,), [one, other]).maps
    assert map_.elements.tolist() == list(range(6))
    assert facts.matches[0][1].tolist() == list(range(6, 12))


def test_axes_too_large_to_join_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regrouping, "_MOST_ELEMENTS", 5)
    facts = Facts()
    labels = vector(facts, 2, 3)
    joined = primitives.reshape(facts, labels, (3, 2))
    assert joined.maps == () and joined.shape == (3, 2)
    assert moving(facts, np.arange(5)) == [1] * 5
    assert {reason for _, reason, _ in facts.frozen} == {"too large to follow"}


def test_sums_leave_blocks() -> None:
    facts = Facts()
    elements = facts.fresh((2, 3))
    labels = Labels(((2,), (3,)), (Map((0, 1), elements),))
    total = primitives.reduce(facts, labels, [1])
    (blocks,) = total.maps
    assert moving(facts, blocks.elements) == [2, 2] and moving(facts, elements[0]) == [6] * 3
    again = primitives.reduce(facts, labels, [1], keep_axes=True)
    assert again.shape == (2, 1) and again.maps[0].elements is blocks.elements
    assert primitives.reduce(facts, labels, []) is labels


def test_pinned_axes_stay_and_leave_blocks() -> None:
    facts = Facts()
    elements = facts.fresh((2, 3))
    labels = Labels(((2,), (3,)), (Map((0, 1), elements),))
    pinned = primitives.pinned(facts, labels, [1], "for a test")
    assert pinned.maps[0].digits == (0,) and pinned.sizes == (2, 3)
    assert moving(facts, elements[:, 0]) == [2, 2]


def test_broadcasting_repeats_without_an_element_more() -> None:
    facts = Facts()
    labels = primitives.broadcast(vector(facts, 3), (4, 2, 3))
    assert labels.shape == (4, 2, 3) and labels.constant == {0, 1} and facts.count == 3


def test_resized_axes_carry_nothing() -> None:
    labels = primitives.resized(unlabelled((2, 3)), (4, 1))
    assert labels.shape == (4, 1) and labels.axes == ((4,), ())
