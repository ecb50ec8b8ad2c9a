"""Which elements of a group stand where on an axis: by coordinate, and by element."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mergekit_perm.axes import (
    Axis,
    Block,
    Concatenation,
    Inner,
    Interleaving,
    Leaf,
    Pick,
    Product,
    Slice,
    Whole,
    leaves,
)
from mergekit_perm.axis_action import source
from mergekit_perm.axis_size import chosen, interleaved, size
from mergekit_perm.groups import Groups
from mergekit_perm.members import assemble
from mergekit_perm.permutation import Indices

# --------------------------------------------------------------------------------- coordinates


def elements(axis: Axis, groups: Groups, group: str) -> Indices:
    """Return, for every coordinate of `axis`, the element of `group` that moves it, or -1.

    A group nested within `group`, at any depth, moves with the block it lies in. Coordinates that
    depend on another axis, as on `inner(g)`, have none.
    """

    def of_leaf(leaf: Leaf) -> Indices:
        if not isinstance(leaf, Whole) or group not in {g.name for g in groups.chain(leaf.group)}:
            return np.full(size(leaf, groups), -1)
        length = groups.length(leaf.group)
        return np.arange(length) // (length // groups.length(group))

    return _leafwise(axis, of_leaf)


def standing(axis: Axis, groups: Groups, leaf: Leaf) -> Indices:
    """Return, for every coordinate of `axis`, which coordinate of its `leaf` it is, or -1."""

    def of_leaf(other: Leaf) -> Indices:
        count = size(other, groups)
        return np.arange(count) if other == leaf else np.full(count, -1)

    return _leafwise(axis, of_leaf)


def _leafwise(axis: Axis, of_leaf: Callable[[Leaf], Indices]) -> Indices:
    """Combine one number per coordinate of each leaf into one per coordinate of `axis`."""
    match axis:
        case Concatenation(terms):
            return np.concatenate([_leafwise(term, of_leaf) for term in terms])
        case Interleaving(blocks, terms):
            parts = [_leafwise(term, of_leaf) for term in terms]
            return np.concatenate(parts)[interleaved(blocks, [len(part) for part in parts])]
        case Slice(base) | Pick(base):
            every = _leafwise(base, of_leaf)
            return every[chosen(axis, len(every))]
        case Block(count, base):
            every = _leafwise(base, of_leaf)
            return np.full(len(every) // count, -1)
        case Product(factors):
            result = _leafwise(factors[0], of_leaf)
            for factor in factors[1:]:
                then = _leafwise(factor, of_leaf)[None, :]
                result = np.where(result[:, None] >= 0, result[:, None], then).reshape(-1)
            return result
        case _:
            return of_leaf(axis)


# -------------------------------------------------------------------------------- occurrences


def occurrences(axis: Axis, groups: Groups, group: str) -> Indices:
    """Return where each element of `group` stands on `axis`, shape (length, m).

    When a member puts element e where element 0 was, column k of row e comes to stand at column k
    of row 0. An axis that does not carry the group has m = 0. `inner` is not looked at.
    """
    nested = groups[group]
    if isinstance(axis, Block):
        return np.empty((groups.length(group), 0), dtype=np.int64)
    if nested.within is None:
        cycle = assemble(groups, {group: np.roll(np.arange(nested.size), -1)})
        first = np.flatnonzero(elements(axis, groups, group) == 0)
        return _orbit(first, source(axis, groups, cycle, block=0), nested.size)
    blocks = occurrences(axis, groups, nested.within)
    return blocks[:, inner_occurrences(axis, groups, group)].reshape(groups.length(group), -1)


def inner_occurrences(axis: Axis, groups: Groups, group: str) -> Indices:
    """Return where each inner element of nested `group` stands, shape (size, m).

    On an axis with `inner(group)` these are coordinates of the axis; on any other they are columns
    of `occurrences` of the group that it lies within.
    """
    nested = groups[group]
    outer = nested.within or ""
    blocks = np.tile(np.arange(nested.size), (groups.length(outer), 1))
    blocks[0] = np.roll(blocks[0], -1)
    step = source(axis, groups, assemble(groups, {group: blocks}), block=0)
    if Inner(group) in leaves(axis):
        first = np.flatnonzero(standing(axis, groups, Inner(group)) == 0)
        return _orbit(first, step, nested.size)
    first = np.flatnonzero(elements(axis, groups, group) == 0)
    columns = occurrences(axis, groups, outer)[0]
    place = np.zeros(len(step), dtype=np.int64)
    place[columns] = np.arange(len(columns))
    return place[_orbit(first, step, nested.size)]


def _orbit(first: Indices, step: Indices, count: int) -> Indices:
    rows = np.empty((count, len(first)), dtype=np.int64)
    for element in range(count):
        rows[element] = first
        first = step[first]
    return rows
