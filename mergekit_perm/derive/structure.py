"""The groups that cells form: symmetric groups, groups nested in others, and products.

A cell that lies in no other is a group of its own. A cell that lies in one other cell is a group
nested within it: each block has its own permutation. A cell that lies in several cells is
determined by them: its places are combinations of theirs, and it is a product, not a group.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

import numpy as np

from mergekit_perm.derive.cells import Cells
from mergekit_perm.permutation import Indices


@dataclass(frozen=True, slots=True)
class GroupCell:
    """A cell that is a group.

    Attributes:
        size: how many elements it permutes, for a nested group in each block.
        within: the cell of the group it is nested in, or None.
        index: of every place of the cell, its index in the whole group, block by block.
    """

    size: int
    within: int | None
    index: Indices


@dataclass(frozen=True, slots=True)
class ProductCell:
    """A cell that other cells determine.

    Attributes:
        factors: the groups' cells, each with its index there for every place of the product.
        rank: of every place, which of the `fibre` places it is that agree in all factors.
        fibre: how many do.
    """

    factors: tuple[tuple[int, Indices], ...]
    rank: Indices
    fibre: int


@dataclass(slots=True)
class Structure:
    """What every cell is; cells of size 1 and those in `tangled`, which must be frozen, are not."""

    forms: dict[int, GroupCell | ProductCell] = field(default_factory=dict)
    tangled: set[int] = field(default_factory=set)


def find_structure(cells: Cells) -> Structure:
    """Return what every cell that moves is, smaller ones first."""
    structure = Structure(tangled=set(cells.conflicts))
    present = set(np.unique(cells.cell).tolist())
    for cell in sorted(present, key=lambda cell: (cells.sizes[cell], cell)):
        if cells.sizes[cell] > 1 and cell not in structure.tangled:
            _form(cells, structure, cell)
    return structure


def _form(cells: Cells, structure: Structure, cell: int) -> None:
    size = cells.sizes[cell]
    parents = _nearest(cells, cell)
    if any(parent in structure.tangled for parent, _ in parents):
        structure.tangled.add(cell)
    elif not parents:
        structure.forms[cell] = GroupCell(size, None, np.arange(size))
    elif len(parents) == 1 and isinstance(structure.forms[parents[0][0]], GroupCell):
        structure.forms[cell] = _nested(cells, structure, cell, *parents[0])
    elif _independent(cells, parents):
        structure.forms[cell] = _product(cells, structure, parents, size)
    else:
        structure.tangled.update(parent for parent, _ in parents)
        structure.tangled.add(cell)


def _nearest(cells: Cells, cell: int) -> list[tuple[int, Indices]]:
    """Return the cells that `cell` lies in, without those that another of them determines."""
    found = cells.within.get(cell, [])

    def implied(target: int, f: Indices) -> bool:
        return any(
            via_target == target and np.array_equal(via[g], f)
            for other, g in found
            for via_target, via in cells.within.get(other, [])
        )

    return [(target, f) for target, f in found if not implied(target, f)]


def _nested(
    cells: Cells, structure: Structure, cell: int, parent: int, block: Indices
) -> GroupCell:
    outer = structure.forms[parent]
    assert isinstance(outer, GroupCell)
    size = cells.sizes[cell] // cells.sizes[parent]
    index = np.empty(cells.sizes[cell], dtype=np.int64)
    index[np.lexsort((np.arange(len(index)), outer.index[block]))] = np.arange(len(index))
    return GroupCell(size, parent, index)


def _independent(cells: Cells, parents: list[tuple[int, Indices]]) -> bool:
    """Tell whether the places are all combinations of places of `parents` that can occur.

    Two parents that lie in one cell can only combine where they lie in the same place of it.
    """
    code = np.zeros(len(parents[0][1]), dtype=np.int64)
    for parent, f in parents:
        code = np.unique(code * cells.sizes[parent] + f, return_inverse=True)[1].reshape(-1)
    combinations = math.prod(cells.sizes[parent] for parent, _ in parents)
    for (a, f), (b, g) in itertools.combinations(parents, 2):
        if a == b:
            return False
        shared = [
            cells.sizes[target]
            for target, via in cells.within.get(a, [])
            for other, through in cells.within.get(b, [])
            if target == other and np.array_equal(via[f], through[g])
        ]
        combinations //= max(shared, default=1)
    return int(code.max(initial=-1)) + 1 == combinations


def _product(
    cells: Cells, structure: Structure, parents: list[tuple[int, Indices]], size: int
) -> ProductCell:
    factors: list[tuple[int, Indices]] = []
    code = np.zeros(size, dtype=np.int64)
    for parent, f in parents:
        code = np.unique(code * cells.sizes[parent] + f, return_inverse=True)[1].reshape(-1)
        form = structure.forms[parent]
        if isinstance(form, GroupCell):
            factors.append((parent, form.index[f]))
        else:
            factors += [(factor, index[f]) for factor, index in form.factors]
    order = np.lexsort((np.arange(size), code))
    fibre = size // (int(code.max()) + 1)
    rank = np.empty(size, dtype=np.int64)
    rank[order] = np.arange(size) % fibre
    return ProductCell(tuple(factors), rank, fibre)
