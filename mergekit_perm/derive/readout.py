"""From solved structure to axis expressions: what stands along each axis of each parameter.

Every coordinate of an axis is a coordinate of some *base*: a group, or a product of groups. An
axis is read left to right as runs of its bases; where the runs of several bases take turns, as
query, key and value of each head may, it is written as interleaved.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mergekit_perm.axes import (
    Axis,
    Concatenation,
    Fixed,
    Inner,
    Interleaving,
    Pick,
    Product,
    Slice,
    Whole,
)
from mergekit_perm.derive.cells import Cells
from mergekit_perm.derive.structure import GroupCell, Structure
from mergekit_perm.permutation import Indices

# A base that stands on an axis in more pieces than this is written as a list of coordinates.
_MOST_PIECES = 16


class NotExpressibleError(Exception):
    """Elements that move in a way the axis language has no words for."""

    def __init__(self, elements: Indices) -> None:
        super().__init__(f"{elements.size} coordinates")
        self.elements = elements


@dataclass(frozen=True, slots=True)
class Factor:
    """One factor of a base: its expression and length, and the coordinate there of each one."""

    base: Axis
    length: int
    index: Indices


_Factors = Callable[[int, Indices], list[Factor]]


@dataclass(frozen=True, slots=True)
class Reader:
    """Writes axes as expressions, given what every cell is and what the groups are called."""

    cells: Cells
    structure: Structure
    names: Mapping[int, str]

    def axis(self, elements: Indices) -> Axis:
        """Return the expression of an axis whose coordinates are `elements`, shape (size,)."""
        return self._read(self._kinds(elements), lambda cell, at: self._factors(cell, elements[at]))

    def inner_axis(self, elements: Indices) -> Axis:
        """Return the expression of an axis whose coordinates depend on a block of another one.

        Args:
            elements: shape (blocks, size).

        Raises:
            NotExpressibleError: when blocks differ in more than the elements' blocks.
        """
        kinds = self._kinds(elements)
        if (kinds != kinds[0]).any():
            raise NotExpressibleError(elements)
        return self._read(kinds[0], lambda cell, at: self._inner_factors(cell, elements[:, at]))

    def _read(self, kinds: Indices, factors: _Factors) -> Axis:
        bases: list[tuple[Axis, int]] = []
        number, code = np.empty_like(kinds), np.empty_like(kinds)
        for cell in dict.fromkeys(kinds.tolist()):
            at = np.flatnonzero(kinds == cell)
            number[at] = len(bases)
            base, length, code[at] = _product(factors(cell, at), len(at))
            bases.append((base, length))
        return expression(bases, number, code)

    def _kinds(self, elements: Indices) -> Indices:
        """Return the cell of every element, -1 for those that stay where they are."""
        cells = self.cells.cell[elements]
        moving = np.zeros(len(self.cells.sizes), dtype=bool)
        moving[list(self.structure.forms)] = True
        return np.where(moving[cells], cells, -1)

    def _factors(self, cell: int, elements: Indices) -> list[Factor]:
        if cell < 0:
            return []
        form, places = self.structure.forms[cell], self.cells.place[elements]
        if isinstance(form, GroupCell):
            return [Factor(Whole(self.names[cell]), len(form.index), form.index[places])]
        factors = [
            Factor(Whole(self.names[factor]), self.cells.sizes[factor], index[places])
            for factor, index in form.factors
        ]
        return _in_order([*factors, *_rank(form.rank[places], form.fibre)])

    def _inner_factors(self, cell: int, elements: Indices) -> list[Factor]:
        if cell < 0:
            return []
        form, places = self.structure.forms[cell], self.cells.place[elements]
        if isinstance(form, GroupCell):
            return self._inner_factor(cell, form.index[places], elements)
        if (form.rank[places] != form.rank[places][0]).any():
            raise NotExpressibleError(elements)
        factors = [
            factor
            for number, index in form.factors
            for factor in self._inner_factor(number, index[places], elements)
        ]
        return _in_order([*factors, *_rank(form.rank[places][0], form.fibre)])

    def _inner_factor(self, cell: int, index: Indices, elements: Indices) -> list[Factor]:
        """Return what one factor adds along the axis: nothing, the same in all blocks, or inner."""
        form, name = self.structure.forms[cell], self.names[cell]
        assert isinstance(form, GroupCell)
        if (index == index[:, :1]).all():
            return []
        if (index == index[0]).all():
            return [Factor(Whole(name), len(form.index), index[0])]
        block, place = np.divmod(index, form.size)
        if form.within is None or (block != block[:, :1]).any() or (place != place[0]).any():
            raise NotExpressibleError(elements)
        return [Factor(Inner(name), form.size, place[0])]


def _rank(rank: Indices, fibre: int) -> list[Factor]:
    return [Factor(Fixed(fibre), fibre, rank)] if fibre > 1 else []


def _in_order(factors: list[Factor]) -> list[Factor]:
    """Return `factors` with the one that changes least often along the axis outermost."""
    return sorted(factors, key=lambda factor: np.count_nonzero(np.diff(factor.index)))


def _product(factors: Sequence[Factor], count: int) -> tuple[Axis, int, Indices]:
    """Return the base that `factors` make, its length, and the coordinate there of each one.

    No factors stand for `count` fixed coordinates.
    """
    if not factors:
        return Fixed(count), count, np.arange(count)
    code, length = np.zeros(count, dtype=np.int64), 1
    for factor in factors:
        code, length = code * factor.length + factor.index, length * factor.length
    bases = tuple(factor.base for factor in factors)
    return bases[0] if len(bases) == 1 else Product(bases), length, code


# ------------------------------------------------------------------------------- expressions


def expression(bases: Sequence[tuple[Axis, int]], number: Indices, code: Indices) -> Axis:
    """Return the shortest expression of an axis.

    Args:
        bases: expression and length of each base.
        number: for every coordinate of the axis, which base it is of.
        code: which coordinate of that base it is.
    """
    terms = _straight(bases, number, code)
    if len(terms) > len(bases):
        terms = min([terms, *_interleaved(bases, number, code)], key=_length)
    return terms[0] if len(terms) == 1 else Concatenation(tuple(terms))


def _straight(bases: Sequence[tuple[Axis, int]], number: Indices, code: Indices) -> list[Axis]:
    """Return terms, one after another, for the coordinates of an axis."""
    cuts = np.flatnonzero(np.diff(number)) + 1
    terms: list[Axis] = []
    for start, stop in itertools.pairwise([0, *cuts.tolist(), len(number)]):
        base, length = bases[number[start]]
        terms += pieces(base, length, code[start:stop])
    return terms


def _interleaved(
    bases: Sequence[tuple[Axis, int]], number: Indices, code: Indices
) -> list[list[Axis]]:
    """Return the axis as one interleaved term, in every way that reads each base just once."""
    follows = (number[1:] == number[:-1]) & (code[1:] == code[:-1] + 1)
    first = int(np.flatnonzero(~follows)[0]) + 1 if not follows.all() else len(code)
    again = (number[first:] == number[0]) & (code[first:] == code[first - 1] + 1)
    found: list[list[Axis]] = []
    for chunk in (np.flatnonzero(again) + first).tolist():
        if len(code) % chunk:
            continue
        blocks = len(code) // chunk
        cuts = [0, *(np.flatnonzero(~follows[: chunk - 1]) + 1).tolist(), chunk]
        rows, codes = number.reshape(blocks, chunk), code.reshape(blocks, chunk)
        terms: list[Axis] = []
        for start, stop in itertools.pairwise(cuts):
            if (rows[:, start] == rows[0, start]).all():
                base, length = bases[rows[0, start]]
                terms += pieces(base, length, codes[:, start:stop].reshape(-1))
        if len(terms) == len(cuts) - 1 and not any(isinstance(term, Pick) for term in terms):
            found.append([Interleaving(blocks, tuple(terms))])
    return found


def pieces(base: Axis, length: int, index: Indices) -> list[Axis]:
    """Return terms that show the coordinates `index` of `base`, which has `length`, in order."""
    if isinstance(base, Fixed):
        return [Fixed(len(index))]
    times, rest = divmod(len(index), length)
    every = np.arange(length)
    if rest == 0 and np.array_equal(index, np.tile(every, times)):
        return [base] * times if times <= 2 else [Product((Fixed(times), base))]
    if rest == 0 and np.array_equal(index, np.repeat(every, times)):
        return [Product((base, Fixed(times)))]
    step = int(index[1] - index[0]) if len(index) > 1 else 1
    if step > 1 and (np.diff(index) == step).all():
        return [Slice(base, int(index[0]), int(index[-1]) + 1, step)]
    cuts = np.flatnonzero(np.diff(index) != 1) + 1
    if len(cuts) >= _MOST_PIECES:
        return [Pick(base, tuple(index.tolist()))]
    return [
        base
        if stop - start == length
        else Slice(base, int(index[start]), int(index[stop - 1]) + 1, None)
        for start, stop in itertools.pairwise([0, *cuts.tolist(), len(index)])
    ]


def _length(terms: list[Axis]) -> int:
    return sum(_size(term) for term in terms)


def _size(term: Axis) -> int:
    match term:
        case Pick(_, indices):
            return len(indices)
        case Interleaving(_, terms):
            return _length(list(terms))
        case _:
            return 1
