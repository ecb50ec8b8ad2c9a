"""From solved structure to axis expressions: what stands along each axis of each parameter.

Every coordinate of an axis is a coordinate of some *base*: a group, or a product of groups. An
axis is read left to right as runs of its bases; where the runs of several bases take turns, as
query, key and value of each head may, it is written as interleaved.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from mergekit_perm.axes import (
    Axis,
    Block,
    Concatenation,
    Fixed,
    Inner,
    Interleaving,
    Pick,
    Product,
    Slice,
    Whole,
)
from mergekit_perm.derive.cells import Cells, Colours
from mergekit_perm.derive.structure import Factor, GroupCell, Structure
from mergekit_perm.permutation import Indices

# A base that stands on an axis in more pieces than this, or in pieces of fewer than two coordinates
# on average, is written as a list of coordinates.
_MOST_PIECES = 16


class NotExpressibleError(Exception):
    """Elements that move in a way the axis language has no words for."""

    def __init__(self, *elements: Indices) -> None:
        super().__init__(f"{sum(each.size for each in elements)} coordinates")
        self.elements = elements


@dataclass(frozen=True, slots=True)
class Run:
    """One factor of a base: its expression and length, and the coordinate there of each one."""

    base: Axis
    length: int
    index: Indices


_Runs = Callable[[int, Indices], list[Run]]


@dataclass(frozen=True, slots=True)
class Reader:
    """Writes axes as expressions, given what every cell is and what the groups are called."""

    cells: Cells
    structure: Structure
    names: Mapping[int, str]

    def axis(self, elements: Indices) -> Axis:
        """Return the expression of an axis whose coordinates are `elements`, shape (size,)."""
        cells, kinds = self._moving(elements), self.cells.kind[elements]
        return self._read(cells, kinds, lambda cell, at: self._runs(cell, elements[at]))

    def inner_axis(self, elements: Indices) -> Axis:
        """Return the expression of an axis whose coordinates depend on a block of another one.

        Args:
            elements: shape (blocks, size).
        """
        cells = self._moving(elements)
        kinds = np.where(cells >= 0, self.cells.kind[elements], np.uint64(0))
        alike = [(cells == row).all(axis=1) for row in np.unique(cells, axis=0)]
        with suppress(NotExpressibleError):
            if any(_in_other_orders(kinds[rows]) for rows in alike):
                raise NotExpressibleError(elements)
            first, *others = [self._blocks_axis(cells[rows][0], elements[rows]) for rows in alike]
            if all(other == first for other in others):
                return first
        return Block(len(elements), self.axis(elements.reshape(-1)))

    def _blocks_axis(self, cells: Indices, elements: Indices) -> Axis:
        """Return the expression of an axis in blocks (blocks, size) that consist of `cells`."""
        kinds = self.cells.kind[elements[0]]
        return self._read(cells, kinds, lambda cell, at: self._inner_runs(cell, elements[:, at]))

    def _read(self, cells: Indices, kinds: Colours, runs: _Runs) -> Axis:
        bases: list[tuple[Axis, int]] = []
        number, code = np.empty_like(cells), np.empty_like(cells)
        for cell in dict.fromkeys(cells.tolist()):
            at = np.flatnonzero(cells == cell)
            base, length, code[at] = _product(runs(cell, at), len(at))
            # What is written alike is one thing, of whatever cells: products of the same groups.
            if isinstance(base, Fixed) or (base, length) not in bases:
                bases.append((base, length))
            number[at] = len(bases) - 1 - bases[::-1].index((base, length))
        return expression(bases, number, code, kinds)

    def _moving(self, elements: Indices) -> Indices:
        """Return the cell of every element, -1 for those that stay where they are."""
        cells = self.cells.cell[elements]
        moving = np.zeros(len(self.cells.sizes), dtype=bool)
        moving[list(self.structure.forms)] = True
        return np.where(moving[cells], cells, -1)

    def _runs(self, cell: int, elements: Indices) -> list[Run]:
        if cell < 0:
            return []
        places = self.cells.place[elements]
        return _in_order([self._run(f, f.index[places]) for f in self._factors(cell)])

    def _factors(self, cell: int) -> tuple[Factor, ...]:
        form = self.structure.forms[cell]
        if isinstance(form, GroupCell):
            return (Factor(cell, len(form.index), form.index),)
        return form.factors

    def _run(self, factor: Factor, index: Indices) -> Run:
        whole = Fixed(factor.length) if factor.cell is None else Whole(self.names[factor.cell])
        return Run(whole, factor.length, index)

    def _inner_runs(self, cell: int, elements: Indices) -> list[Run]:
        if cell < 0:
            return []
        places = self.cells.place[elements]
        runs = (self._inner_run(f, f.index[places], elements) for f in self._factors(cell))
        return _in_order([run for run in runs if run is not None])

    def _inner_run(self, factor: Factor, index: Indices, elements: Indices) -> Run | None:
        """Return what one factor adds along the axis: nothing, the same in all blocks, or inner."""
        if (index == index[:, :1]).all():
            return None
        if (index == index[0]).all():
            return self._run(factor, index[0])
        form = None if factor.cell is None else self.structure.forms[factor.cell]
        if not isinstance(form, GroupCell) or form.within is None or factor.cell is None:
            raise NotExpressibleError(elements)
        block, place = np.divmod(index, form.size)
        if (block != block[:, :1]).any() or (place != place[0]).any():
            raise NotExpressibleError(elements)
        return Run(Inner(self.names[factor.cell]), form.size, place[0])


def _in_other_orders(kinds: Colours) -> bool:
    """Tell whether two of the blocks (blocks, size) have the same kinds, in different orders.

    The copies of a coordinate that stands in a block twice would take one another's place.
    """
    same = (np.sort(kinds, axis=1) == np.sort(kinds[0])).all(axis=1)
    return bool((kinds[same] != kinds[0]).any())


def _in_order(runs: list[Run]) -> list[Run]:
    """Return `runs` with the one that changes least often along the axis outermost."""
    return sorted(runs, key=lambda run: np.count_nonzero(np.diff(run.index)))


def _product(runs: Sequence[Run], count: int) -> tuple[Axis, int, Indices]:
    """Return the base that `runs` make, its length, and the coordinate there of each one.

    No runs stand for `count` fixed coordinates.
    """
    if not runs:
        return Fixed(count), count, np.arange(count)
    code, length = np.zeros(count, dtype=np.int64), 1
    for run in runs:
        code, length = code * run.length + run.index, length * run.length
    bases = tuple(run.base for run in runs)
    return bases[0] if len(bases) == 1 else Product(bases), length, code


# ------------------------------------------------------------------------------- expressions


def expression(
    bases: Sequence[tuple[Axis, int]], number: Indices, code: Indices, kinds: Colours
) -> Axis:
    """Return the shortest expression of an axis.

    Args:
        bases: expression and length of each base.
        number: for every coordinate of the axis, which base it is of.
        code: which coordinate of that base it is.
        kinds: where a coordinate of a base stands several times, which of them moves to which:
            the one of the same kind.
    """
    straight = _straight(bases, number, code)
    choices = [(straight, np.arange(len(code)))]
    if _length(straight) > len(bases):
        choices += _interleaved(bases, number, code)
    fitting = [terms for terms, order in choices if _in_turn(number, code, kinds, order)]
    if not fitting:
        fitting = [[_by_kind(bases, number, code, kinds)]]
    terms = min(fitting, key=_length)
    return terms[0] if len(terms) == 1 else Concatenation(tuple(terms))


def _in_turn(number: Indices, code: Indices, kinds: Colours, order: Indices) -> bool:
    """Tell whether the occurrences of all coordinates of a base have, in `order`, the same kinds.

    Expressions let the first occurrence of a coordinate move to the first one of another.
    """
    for base in np.unique(number):
        at = np.flatnonzero(number == base)
        at = at[np.lexsort((order[at], code[at]))]
        times = len(at) // len(np.unique(code[at]))
        table = kinds[at].reshape(-1, times)
        if times > 1 and (table != table[0]).any():
            return False
    return True


def _by_kind(
    bases: Sequence[tuple[Axis, int]], number: Indices, code: Indices, kinds: Colours
) -> Axis:
    """Return a selection from a concatenation that has one term for each base and kind."""
    terms: list[Axis] = []
    place, taken = np.empty_like(code), 0
    for base, kind in dict.fromkeys(zip(number.tolist(), kinds.tolist(), strict=True)):
        at = np.flatnonzero((number == base) & (kinds == kind))
        at = at[np.argsort(code[at])]
        terms += pieces(bases[base], code[at])
        place[at] = np.arange(taken, taken + len(at))
        taken += len(at)
    return Pick(Concatenation(tuple(terms)), tuple(place.tolist()))


def _straight(bases: Sequence[tuple[Axis, int]], number: Indices, code: Indices) -> list[Axis]:
    """Return terms, one after another, for the coordinates of an axis."""
    cuts = np.flatnonzero(np.diff(number)) + 1
    terms: list[Axis] = []
    for start, stop in itertools.pairwise([0, *cuts.tolist(), len(number)]):
        terms += pieces(bases[number[start]], code[start:stop])
    return terms


def _interleaved(
    bases: Sequence[tuple[Axis, int]], number: Indices, code: Indices
) -> list[tuple[list[Axis], Indices]]:
    """Return the axis as one interleaved term, in every way that reads each base just once.

    With each comes the order in which its coordinates stand when its terms are not interleaved.
    """
    follows = (number[1:] == number[:-1]) & (code[1:] == code[:-1] + 1)
    first = int(np.flatnonzero(~follows)[0]) + 1 if not follows.all() else len(code)
    again = (number[first:] == number[0]) & (code[first:] == code[first - 1] + 1)
    found: list[tuple[list[Axis], Indices]] = []
    for chunk in (np.flatnonzero(again) + first).tolist():
        if len(code) % chunk:
            continue
        blocks = len(code) // chunk
        cuts = [0, *(np.flatnonzero(~follows[: chunk - 1]) + 1).tolist(), chunk]
        rows, codes = number.reshape(blocks, chunk), code.reshape(blocks, chunk)
        shown = [
            pieces(bases[rows[0, start]], codes[:, start:stop].reshape(-1))
            for start, stop in itertools.pairwise(cuts)
        ]
        single = all(len(terms) == 1 and not isinstance(terms[0], Pick) for terms in shown)
        if single and (rows == rows[0]).all():
            whole = [terms[0] for terms in shown]
            widths = np.diff(cuts)
            column = np.repeat(np.arange(len(widths)), widths)
            order = np.tile(column * len(code), blocks) + np.arange(len(code))
            found.append(([Interleaving(blocks, tuple(whole))], order))
    return found


def pieces(whole: tuple[Axis, int], index: Indices) -> list[Axis]:
    """Return terms that show the coordinates `index` of a base, given with its length, in order."""
    base, length = whole
    if isinstance(base, Fixed):
        return [Fixed(len(index))]
    times, rest = divmod(len(index), length)
    every = np.arange(length)
    if rest == 0 and np.array_equal(index, np.tile(every, times)):
        return [base] * times if times <= 2 else [Product((Fixed(times), base))]
    if rest == 0 and np.array_equal(index, np.repeat(every, times)):
        return [Product((base, Fixed(times)))]
    step = int(index[1] - index[0]) if len(index) > 1 else 1
    if step not in (0, 1) and (np.diff(index) == step).all():
        stop = int(index[-1]) + (1 if step > 0 else -1)
        return [Slice(base, int(index[0]), stop if stop >= 0 else None, step)]
    cuts = np.flatnonzero(np.diff(index) != 1) + 1
    if len(cuts) >= min(_MOST_PIECES, max(1, len(index) // 2)):
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
