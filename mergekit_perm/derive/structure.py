"""The groups that cells form: symmetric groups, groups nested in others, and products.

A cell that lies in no other is a group of its own. A cell that lies in one other cell is a group
nested within it: each block has its own permutation. A cell that lies in several cells is
determined by them: its places are combinations of theirs, and it is a product, not a group.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

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

    @property
    def outer(self) -> list[int]:
        """The cells that this one directly lies in."""
        return [] if self.within is None else [self.within]


@dataclass(frozen=True, slots=True)
class Factor:
    """One factor of a product.

    Attributes:
        cell: the group's cell, or None for positions that stay.
        length: how many coordinates the factor has.
        index: of every place of the product, which of them it stands at.
    """

    cell: int | None
    length: int
    index: Indices


@dataclass(frozen=True, slots=True)
class ProductCell:
    """A cell that other cells determine: its places are combinations of theirs.

    Places that agree in all groups stay in order: that is a last factor without a group.
    """

    factors: tuple[Factor, ...]

    @property
    def outer(self) -> list[int]:
        """The cells that this one is made of."""
        return [factor.cell for factor in self.factors if factor.cell is not None]


@dataclass(slots=True)
class Structure:
    """What every cell is; cells of size 1 and those in `tangled`, which must be frozen, are not."""

    forms: dict[int, GroupCell | ProductCell] = field(default_factory=dict)
    tangled: set[int] = field(default_factory=set)

    def enclosing(self, cell: int) -> set[int]:
        """Return `cell` and every cell that it lies in or is made of, at any depth."""
        found, queue = {cell}, [cell]
        while queue:
            new = set(self.forms[queue.pop()].outer) - found
            found |= new
            queue += new
        return found


def find_structure(cells: Cells) -> Structure:
    """Return what every cell that moves is, smaller ones first."""
    structure = Structure(tangled=set(cells.conflicts))
    blocks = {target for found in cells.within.values() for target, _ in found}
    present = set(np.unique(cells.cell).tolist()) | blocks
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
        structure.forms[cell] = _product(cells, structure, parents)
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
    _, first = np.unique(_code(cells, parents), return_index=True)
    table = np.arange(cells.sizes[parents[0][0]])[:, None]  # combinations of the parents so far
    for number, (parent, f) in enumerate(parents[1:], start=1):
        left = np.zeros(len(table), dtype=np.int64)
        right = np.zeros(cells.sizes[parent], dtype=np.int64)
        for column, (other, g) in enumerate(parents[:number]):
            for size, via, through in _meetings(cells, (other, g), (parent, f)):
                left = left * size + via[table[:, column]]
                right = right * size + through
        _, codes = np.unique(np.concatenate([left, right]), return_inverse=True)
        a, b = codes[: len(left)], codes[len(left) :]
        if int(np.bincount(b, minlength=len(codes))[a].sum()) > len(first):
            return False
        rows, places = np.nonzero(a[:, None] == b[None, :])
        table = np.column_stack([table[rows], places])
    return len(table) == len(first)


def _meetings(
    cells: Cells, a: tuple[int, Indices], b: tuple[int, Indices]
) -> Iterator[tuple[int, Indices, Indices]]:
    """Yield size and both functions for every cell in which two parents lie at the same place."""
    (one, f), (other, g) = a, b
    for target, via in cells.within.get(one, []):
        for also, through in cells.within.get(other, []):
            if target == also and np.array_equal(via[f], through[g]):
                yield cells.sizes[target], via, through


def _code(cells: Cells, parents: list[tuple[int, Indices]]) -> Indices:
    """Return a number for every place, equal for those that lie in the same places of `parents`."""
    code: Indices = np.zeros(len(parents[0][1]), dtype=np.int64)
    for parent, f in parents:
        code = np.unique(code * cells.sizes[parent] + f, return_inverse=True)[1].reshape(-1)
    return code


def _product(cells: Cells, structure: Structure, parents: list[tuple[int, Indices]]) -> ProductCell:
    found: dict[tuple[int | None, bytes], Factor] = {}  # parents may have factors in common

    def add(factor: Factor) -> None:
        found.setdefault((factor.cell, factor.index.tobytes()), factor)

    for parent, f in parents:
        form = structure.forms[parent]
        if isinstance(form, GroupCell):
            add(Factor(parent, len(form.index), form.index[f]))
        else:
            for factor in form.factors:
                add(replace(factor, index=factor.index[f]))
    code = _code(cells, parents)
    fibre = len(code) // (int(code.max()) + 1)
    if fibre > 1:
        rank = np.empty_like(code)
        rank[np.argsort(code, kind="stable")] = np.arange(len(code)) % fibre
        add(Factor(None, fibre, rank))
    return ProductCell(tuple(found.values()))
