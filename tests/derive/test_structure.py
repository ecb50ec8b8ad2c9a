"""What cells are: groups, groups nested in others, and products."""

from __future__ import annotations

from typing import Any

import numpy as np

from mergekit_perm.derive.cells import Cells, find_cells
from mergekit_perm.derive.facts import Facts
from mergekit_perm.derive.structure import GroupCell, ProductCell, Structure, find_structure
from mergekit_perm.permutation import Indices


def solved(facts: Facts) -> tuple[Cells, Structure]:
    cells = find_cells(facts)
    return cells, find_structure(cells)


def form(facts: Facts, elements: Indices) -> GroupCell | ProductCell:
    """What the one cell of `elements` is."""
    cells, structure = solved(facts)
    (cell,) = set(cells.cell[elements.reshape(-1)].tolist())
    return structure.forms[cell]


def factors(facts: Facts, elements: Indices) -> list[tuple[int, list[Any]]]:
    """Length and index of each factor of a product, with the indices in the order of `elements`."""
    found = form(facts, elements)
    assert isinstance(found, ProductCell)
    place = find_cells(facts).place[elements]
    return [(factor.length, factor.index[place].tolist()) for factor in found.factors]


def inside(facts: Facts, parents: Indices, count: int) -> Indices:
    """New elements, `count` in each of `parents`: shape (*parents, count)."""
    children = facts.fresh((*parents.shape, count))
    facts.project(children, parents[..., None])
    return children


def test_alone_a_cell_is_a_group() -> None:
    facts = Facts()
    a = facts.fresh((4,))
    found = form(facts, a)
    assert isinstance(found, GroupCell) and (found.size, found.within) == (4, None)
    assert found.index.tolist() == [0, 1, 2, 3] and found.outer == []


def test_groups_nested_three_deep() -> None:
    facts = Facts()
    a = facts.fresh((2,))
    b = inside(facts, a, 3)
    c = inside(facts, b, 4)
    cells, structure = solved(facts)
    sizes = [(f.size, f.within) for f in structure.forms.values() if isinstance(f, GroupCell)]
    assert sizes == [(2, None), (3, 0), (4, 1)]
    assert structure.enclosing(cells.cell[c[0, 0, 0]]) == {0, 1, 2}


def test_blocks_that_lie_apart_are_indexed_block_by_block() -> None:
    facts = Facts()
    blocks, children = facts.fresh((2,)), facts.fresh((3, 2))
    facts.project(children, blocks)
    found = form(facts, children)
    assert isinstance(found, GroupCell)
    assert found.index.reshape(3, 2).tolist() == [[0, 3], [1, 4], [2, 5]]


def test_two_groups_make_a_product() -> None:
    facts = Facts()
    a, b, both = facts.fresh((2,)), facts.fresh((3,)), facts.fresh((2, 3))
    facts.project(both, a[:, None])
    facts.project(both, b)
    assert sorted(factors(facts, both)) == [
        (2, [[0, 0, 0], [1, 1, 1]]),
        (3, [[0, 1, 2], [0, 1, 2]]),
    ]


def test_what_agrees_in_all_factors_stays_in_order() -> None:
    facts = Facts()
    a, b, both = facts.fresh((2,)), facts.fresh((3,)), facts.fresh((2, 3, 2))
    facts.project(both, a[:, None, None])
    facts.project(both, b[:, None])
    last = factors(facts, both)[-1]
    assert last == (2, [[[0, 1]] * 3] * 2)
    within = inside(facts, both, 5)
    # A product within a product: all of its factors, and a place of its own.
    found = factors(facts, within)
    assert sorted(length for length, _ in found) == [2, 2, 3, 5]
    assert (
        len({tuple(np.array(index).reshape(-1)[i] for _, index in found) for i in range(60)}) == 60
    )


def test_one_group_may_be_a_factor_twice() -> None:
    facts = Facts()
    a, pairs = facts.fresh((3,)), facts.fresh((3, 3))
    facts.project(pairs, a[:, None])
    facts.project(pairs, a)
    assert [length for length, _ in factors(facts, pairs)] == [3, 3]


def test_factors_that_share_a_block_combine_within_it() -> None:
    facts = Facts()
    heads = facts.fresh((2,))
    q, k = inside(facts, heads, 3), inside(facts, heads, 4)
    scores = facts.fresh((2, 3, 4))
    facts.project(scores, q[:, :, None])
    facts.project(scores, k[:, None, :])
    assert sorted(length for length, _ in factors(facts, scores)) == [6, 8]


def test_three_factors_that_share_one_block() -> None:
    facts = Facts()
    heads = facts.fresh((2,))
    parts = [inside(facts, heads, count) for count in (2, 3, 4)]
    all_ = facts.fresh((2, 2, 3, 4))
    for axis, part in enumerate(parts, start=1):
        shape = [2, *(part.shape[1] if i == axis else 1 for i in (1, 2, 3))]
        facts.project(all_, part.reshape(shape))
    assert sorted(length for length, _ in factors(facts, all_)) == [4, 6, 8]


def test_products_that_share_a_factor_have_it_once() -> None:
    facts = Facts()
    a, b, c = facts.fresh((2,)), facts.fresh((3,)), facts.fresh((5,))
    one, other, all_ = facts.fresh((2, 3)), facts.fresh((2, 5)), facts.fresh((2, 3, 5))
    facts.project(one, a[:, None])
    facts.project(one, b)
    facts.project(other, a[:, None])
    facts.project(other, c)
    facts.project(all_, one[:, :, None])
    facts.project(all_, other[:, None, :])
    assert sorted(length for length, _ in factors(facts, all_)) == [2, 3, 5]


def test_some_combinations_alone_are_no_product() -> None:
    facts = Facts()
    a, b = facts.fresh((4,)), facts.fresh((4,))
    ring = np.array([[i, (i + step) % 4] for i in range(4) for step in (0, 1)])
    some = facts.fresh((8,))
    facts.project(some, a[ring[:, 0]])
    facts.project(some, b[ring[:, 1]])
    cells, structure = solved(facts)
    assert structure.tangled == set(cells.cell.tolist())


def test_more_combinations_than_places_are_no_product() -> None:
    facts = Facts()
    a, pairs = facts.fresh((4,)), np.array([(i, j) for i in range(4) for j in range(4) if i != j])
    some = facts.fresh((12,))
    facts.project(some, a[pairs[:, 0]])
    facts.project(some, a[pairs[:, 1]])
    assert len(solved(facts)[1].tangled) == 2


def test_what_lies_in_a_conflict_is_tangled() -> None:
    facts = Facts()
    a, b = facts.fresh((4,)), facts.fresh((4,))
    facts.project(b, a)
    facts.project(b, a[[1, 2, 3, 0]])
    inside(facts, inside(facts, a, 2), 2)
    cells, structure = solved(facts)
    assert structure.tangled == set(cells.cell.tolist())


def test_single_places_are_nothing() -> None:
    facts = Facts()
    facts.fresh((1,))
    facts.positions(3, "wanted")
    assert solved(facts)[1].forms == {}
