"""Cells of facts made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mergekit_perm.derive.cells import Cells, components, find_cells
from mergekit_perm.derive.facts import Facts
from mergekit_perm.derive.labels import Map
from mergekit_perm.permutation import Indices


def sizes(facts: Facts, elements: Indices) -> list[int]:
    cells = find_cells(facts)
    return np.array(cells.sizes)[cells.cell[elements.reshape(-1)]].tolist()


def same_place(cells: Cells, a: Indices, b: Indices) -> bool:
    """Whether a_i and b_i are at the same place of one cell."""
    return bool((cells.cell[a] == cells.cell[b]).all() and (cells.place[a] == cells.place[b]).all())


def keeps(cells: Cells, a: Indices, b: Indices) -> bool:
    """Whether elements of one kind are matched with elements of one kind."""
    kinds = set(zip(cells.kind[a].tolist(), cells.kind[b].tolist(), strict=True))
    return len(kinds) == len(set(cells.kind[a].tolist())) == len(set(cells.kind[b].tolist()))


def test_components_are_numbered_by_their_first_elements() -> None:
    pairs = [(np.array([4, 1]), np.array([2, 5])), (np.array([2]), np.array([0]))]
    assert components(6, pairs).tolist() == [0, 1, 0, 2, 0, 1]
    assert components(3, []).tolist() == [0, 1, 2]


def test_no_elements_have_no_cells() -> None:
    assert find_cells(Facts()).sizes == []


def test_what_is_made_at_once_may_swap() -> None:
    facts = Facts()
    a, b = facts.fresh((3,)), facts.fresh((3,))
    cells = find_cells(facts)
    assert cells.cell.tolist() == [0, 0, 0, 1, 1, 1] and cells.place.tolist() == [0, 1, 2] * 2
    facts.match(a, b[::-1])
    assert same_place(find_cells(facts), a, b[::-1]) and sizes(facts, a) == [3, 3, 3]


def test_matching_what_is_the_same_says_nothing() -> None:
    facts = Facts()
    a = facts.fresh((3,))
    facts.match(a, a.copy())
    assert facts.matches == []


def test_parts_move_among_themselves() -> None:
    facts = Facts()
    a = facts.fresh((5,))
    facts.part(a[:2])
    assert sizes(facts, a) == [2, 2, 3, 3, 3]
    facts.part(a[1:3])
    assert sizes(facts, a) == [1, 1, 1, 2, 2]


def test_what_is_frozen_stays_with_what_it_is_matched_to() -> None:
    facts = Facts()
    a, b = facts.fresh((4,)), facts.fresh((4,))
    facts.match(a, b)
    with facts.at("a test"):
        facts.freeze(a[:2], "wanted")
    assert sizes(facts, b) == [1, 1, 2, 2]
    assert facts.frozen[0][1:] == ("wanted", "a test")


def test_children_lie_in_blocks() -> None:
    facts = Facts()
    blocks, inside = facts.fresh((2,)), facts.fresh((2, 3))
    facts.project(inside, blocks[:, None])
    cells = find_cells(facts)
    assert cells.sizes == [2, 6]
    ((target, f),) = cells.within[1]
    assert target == 0 and f.tolist() == [0, 0, 0, 1, 1, 1]


def test_copies_are_what_they_are_copies_of() -> None:
    facts = Facts()
    a = facts.fresh((3,))
    copied = facts.copies(a)
    copied_twice = facts.copies(copied)
    cells = find_cells(facts)
    assert same_place(cells, a, copied) and same_place(cells, a, copied_twice)


def test_one_cell_determines_another_through_a_third() -> None:
    facts = Facts()
    outer, inner, all_ = facts.fresh((2,)), facts.fresh((2, 2)), facts.fresh((2, 2, 2))
    facts.project(all_, inner[:, :, None])
    facts.project(all_, outer[:, None, None])
    cells = find_cells(facts)
    assert [target for target, _ in cells.within[1]] == [0]


def test_two_cells_that_share_blocks_of_a_third_lie_in_common_ones() -> None:
    facts = Facts()
    heads, dims = facts.fresh((2, 3)), facts.fresh((2, 4))
    both = facts.fresh((2, 3, 4))
    facts.project(both, heads[:, :, None])
    facts.project(both, dims[:, None, :])
    cells = find_cells(facts)
    ((first, f),), ((second, g),) = cells.within[0], cells.within[1]
    assert first == second and cells.sizes[first] == 2
    assert f.tolist() == [0] * 3 + [1] * 3 and g.tolist() == [0] * 4 + [1] * 4


def test_an_order_that_no_permutation_keeps_is_a_conflict() -> None:
    facts = Facts()
    a, b = facts.fresh((4,)), facts.fresh((4,))
    facts.project(b, a)
    facts.project(b, a[[1, 2, 3, 0]])
    cells = find_cells(facts)
    assert cells.conflicts == {cells.cell[a[0]]} == {cells.cell[b[0]]}


def test_conflicts_of_cells_that_merge_are_those_of_the_cell_they_become() -> None:
    facts = Facts()
    a, b, c = facts.fresh((4,)), facts.fresh((4,)), facts.fresh((4,))
    facts.project(c, b)
    facts.project(c, b[[1, 2, 3, 0]])
    facts.project(b, a)
    assert find_cells(facts).conflicts == {0}


# x + x[order]: what an order connects moves as one.
ORDERS = [
    ([5, 4, 3, 2, 1, 0], [3] * 6),  # pairs
    ([0, 2, 1, 3, 5, 4], [2, 2, 2, 2, 2, 2]),  # two that stay, and two pairs
    ([1, 2, 0, 5, 3, 4], [2] * 6),  # two rings that run in opposite directions
    ([1, 2, 3, 4, 5, 0], [1] * 6),  # one ring
]


@pytest.mark.parametrize(("order", "expected"), ORDERS)
def test_matches_within_one_array(order: list[int], expected: list[int]) -> None:
    facts = Facts()
    a = facts.fresh((6,))
    facts.match(a, a[order])
    assert sizes(facts, a) == expected
    assert keeps(find_cells(facts), a, a[order])


def test_nodes_that_matches_connect_otherwise_do_not_swap() -> None:
    # Two pairs of arrays, matched once straight and once crosswise: e_i ~ f_i, and e_0 ~ g_0,
    # f_0 ~ h_1, but e_1 ~ h_0 and f_1 ~ g_1. Every node has one element of each array.
    facts = Facts()
    e, f, g, h = (facts.fresh((2,)) for _ in range(4))
    facts.match(e, f)
    facts.match(np.concatenate([e, f]), np.array([g[0], h[0], h[1], g[1]]))
    assert sizes(facts, e) == [1, 1]


def test_orders_of_two_arrays_agree() -> None:
    # (a_i, a_pi(i)) next to (b_i, b_pi(i)), with b in another order than a.
    facts = Facts()
    a, b = facts.fresh((6,)), facts.fresh((6,))
    facts.match(a, a[[1, 2, 0, 5, 3, 4]])
    facts.match(b, a[[3, 4, 0, 1, 5, 2]])
    cells = find_cells(facts)
    assert sizes(facts, b) == [2] * 6
    assert keeps(cells, a, a[[1, 2, 0, 5, 3, 4]]) and keeps(cells, b, a[[3, 4, 0, 1, 5, 2]])


def test_pinning_one_digit_of_a_map() -> None:
    facts = Facts()
    map_ = Map((0, 1), facts.fresh((2, 3)))
    facts.pin(map_, 0, "wanted")
    assert sizes(facts, map_.elements) == [3] * 6
    facts.pin(map_, 1, "wanted")
    assert sizes(facts, map_.elements) == [1] * 6


def test_blocks_of_one_array_are_made_once() -> None:
    facts = Facts()
    map_ = Map((0, 1), facts.fresh((2, 3)))
    assert facts.blocks(map_, [0]).elements is facts.blocks(map_, [0, 7]).elements
    assert facts.blocks(map_, [0, 1]) is map_
    assert facts.blocks(map_, [0]).elements is not facts.blocks(map_, [1]).elements
