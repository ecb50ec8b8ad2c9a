"""Cutting tensors at `inner(n, a)`, so that what is left has only the other forms of axes.

The groups of a convolution need not be alike: some may trade places, others stay, and what stands
in them may be permuted by different groups. Blocks that trade places make one *section* of the
tensor, every other block one of its own. Within a section all blocks are alike: `inner(n, a)` is a
part of `a`, or `inner(g)`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mergekit_perm import axes, axis_action, axis_elements, axis_size, tensor_action
from mergekit_perm.axes import (
    Axis,
    Block,
    Concatenation,
    Fixed,
    Inner,
    Interleaving,
    Pick,
    Slice,
    Whole,
)
from mergekit_perm.axis_text import format_axis
from mergekit_perm.errors import PermutationSpecError
from mergekit_perm.groups import Groups
from mergekit_perm.members import Member, generators
from mergekit_perm.permutation import Indices

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a tensor.

    Attributes:
        dim: the dimension that was cut, or -1 when the section is all of the tensor.
        coordinates: which ones of that dimension the section has.
        axes: the expressions of its axes, none of them `inner(n, a)`.
    """

    dim: int
    coordinates: Indices
    axes: tuple[Axis, ...]

    def of(self, tensor: torch.Tensor, before: int = 0) -> torch.Tensor:
        """Return the section of a tensor, which has `before` more dimensions in front."""
        if self.dim < 0:
            return tensor
        return tensor.index_select(self.dim + before, self._index(tensor))

    def replaced(self, tensor: torch.Tensor, part: torch.Tensor, before: int = 0) -> torch.Tensor:
        """Return `tensor` with `part` in place of the section; dimensions as in `of`."""
        if self.dim < 0:
            return part
        return tensor.index_copy(self.dim + before, self._index(tensor), part)

    def _index(self, tensor: torch.Tensor) -> torch.Tensor:
        import torch

        return torch.from_numpy(self.coordinates).to(tensor.device)


def sections(row: Sequence[Axis], groups: Groups) -> list[Section]:
    """Return the sections of a tensor with the axes `row`, which no member leads out of.

    Raises:
        PermutationSpecError: when blocks that trade places are not alike.
    """
    cut = [place for place, axis in enumerate(row) if isinstance(axis, Block)]
    if not cut:
        return [Section(-1, np.empty(0, dtype=np.int64), tuple(row))]
    place, axis = cut[0], row[cut[0]]
    if len(cut) > 1:
        raise PermutationSpecError(f"{format_axis(axis)}: a tensor can have one such axis")
    assert isinstance(axis, Block)
    groups = axes.groups_of(row, groups)
    by = tensor_action.choosing(row, groups, place)
    wide = axis_size.size(row[by], groups) // axis.count
    found = []
    for blocks in _trading(axis, groups):
        coordinates = (blocks[:, None] * wide + np.arange(wide)).reshape(-1)
        parts = list(row)
        parts[by] = part(row[by], groups, coordinates)
        parts[place] = _common(axis, groups, blocks)
        section = Section(by, coordinates, tuple(parts))
        if len(blocks) > 1:
            _check_alike(row, place, section, groups)
        found.append(section)
    return found


def _check_alike(row: Sequence[Axis], place: int, section: Section, groups: Groups) -> None:
    """Raise PermutationSpecError where a section does not move as it does in the whole tensor."""
    size = axis_size.size(row[place], groups)
    whole, own = (
        (expressions[section.dim], expressions[place]) for expressions in (row, section.axes)
    )
    moving = axes.groups_of(whole, groups)
    for member in generators(moving, list(moving)):
        try:
            index, column = np.divmod(_moved(own, moving, member), size)
        except PermutationSpecError:
            raise _unlike(row[place]) from None
        expected = section.coordinates[index] * size + column
        if not np.array_equal(_moved(whole, moving, member)[section.coordinates], expected):
            raise _unlike(row[place])


def _moved(pair: tuple[Axis, Axis], groups: Groups, member: Member) -> Indices:
    """Return where in a tensor of two axes each entry comes from, counted row by row."""
    rows, columns = (axis_size.size(axis, groups) for axis in pair)
    index = np.arange(rows * columns).reshape(rows, columns)
    for dim, by, move in tensor_action.sources(pair, groups, member):
        index = np.take_along_axis(index, move, axis=1) if by >= 0 else index.take(move, axis=dim)
    return index


def part(axis: Axis, groups: Groups, coordinates: Indices) -> Axis:
    """Return the expression of an axis that shows `coordinates` of `axis`, in their order.

    Terms of a sum of which nothing is shown are left out.
    """
    if np.array_equal(coordinates, np.arange(axis_size.size(axis, groups))):
        return axis
    match axis:
        case Fixed():
            return Fixed(len(coordinates))
        case Slice(base) | Pick(base):
            every = axis_size.chosen(axis, axis_size.size(base, groups))
            return part(base, groups, every[coordinates])
        case Interleaving(blocks, terms):
            order = axis_size.interleaved(blocks, [axis_size.size(term, groups) for term in terms])
            return part(Concatenation(terms), groups, order[coordinates])
        case Concatenation(terms):
            return _part_of_sum(terms, groups, coordinates)
        case _:
            return Pick(axis, tuple(coordinates.tolist()))


def _part_of_sum(terms: Sequence[Axis], groups: Groups, coordinates: Indices) -> Axis:
    ends = np.cumsum([axis_size.size(term, groups) for term in terms])
    term_of = np.searchsorted(ends, coordinates, side="right")
    shown = np.unique(term_of).tolist()
    starts = {term: int(ends[term]) - axis_size.size(terms[term], groups) for term in shown}
    if len(shown) == 1:
        return part(terms[shown[0]], groups, coordinates - starts[shown[0]])
    if (np.diff(term_of) >= 0).all():
        parts = (part(terms[t], groups, coordinates[term_of == t] - starts[t]) for t in shown)
        return Concatenation(tuple(parts))
    offset, kept = 0, np.empty_like(coordinates)
    for term in shown:
        kept[term_of == term] = coordinates[term_of == term] - starts[term] + offset
        offset += axis_size.size(terms[term], groups)
    return Pick(Concatenation(tuple(terms[term] for term in shown)), tuple(kept.tolist()))


def _trading(axis: Block, groups: Groups) -> list[Indices]:
    """Return the blocks of `axis` in sets that members carry to one another."""
    size = axis_size.size(axis, groups)
    own = axes.groups_of([axis], groups)
    root = np.arange(axis.count)
    for member in generators(own, list(own)):
        for a, b in enumerate(axis_action.source(axis.base, own, member)[::size] // size):
            root[root == root[a]] = root[b]
    return [np.flatnonzero(root == block) for block in dict.fromkeys(root.tolist())]


def _common(axis: Block, groups: Groups, blocks: Indices) -> Axis:
    """Return what stands on the axis in each of `blocks`, which trade places."""
    size = axis_size.size(axis, groups)
    coordinates = blocks[:, None] * size + np.arange(size)
    if len(blocks) == 1:
        return part(axis.base, groups, coordinates[0])
    names = sorted(axes.names(axis))
    tables = {name: axis_elements.standing(axis.base, groups, Whole(name)) for name in names}
    standing = {name: table[coordinates] for name, table in tables.items()}
    standing = {name: table for name, table in standing.items() if not _moves_blocks(table)}
    for name, table in standing.items():
        shared = (table == table[0]).all()
        if not (shared or _moves_blocks(_outer(table, groups[name].size))):
            raise _unlike(axis)
    places = [
        _place(axis, groups, {name: table[:, place] for name, table in standing.items()})
        for place in range(size)
    ]
    runs = itertools.groupby(places, key=lambda found: found[0])
    return Concatenation(tuple(_picked(base, [at for _, at in run]) for base, run in runs))


def _outer(table: Indices, size: int) -> Indices:
    """Return in which block of a group each coordinate lies, as far as the group moves it."""
    outer = np.where(table < 0, -1, table // size)
    return np.where(table < 0, outer.max(axis=1, keepdims=True), outer)


def _moves_blocks(table: Indices) -> bool:
    """Tell whether a group has one element in each block, and so moves the blocks themselves."""
    return bool((table == table[:, :1]).all()) and len(np.unique(table[:, 0])) == len(table)


def _place(axis: Block, groups: Groups, standing: Mapping[str, Indices]) -> tuple[Axis, int]:
    """Return what moves one coordinate of every block within its block, and as which element.

    Args:
        axis: the axis.
        groups: the groups of the spec.
        standing: for groups that `axis` names, the element in each block, or -1.
    """
    found: list[tuple[Axis, int]] = []
    for name, elements in standing.items():
        inner = elements % groups[name].size
        if elements.max() < 0:
            continue
        if (elements == elements[0]).all():
            found.append((Whole(name), int(elements[0])))
        elif groups[name].within is not None and (inner == inner[0]).all():
            found.append((Inner(name), int(inner[0])))
        else:
            raise _unlike(axis)
    if len(found) > 1:
        raise _unlike(axis)
    return found[0] if found else (Fixed(1), 0)


def _unlike(axis: Axis) -> PermutationSpecError:
    return PermutationSpecError(
        f"{format_axis(axis)}: blocks that trade places must have the elements of their "
        "groups in the same order, one block of a group each, and no products of groups"
    )


def _picked(base: Axis, elements: list[int]) -> Axis:
    return Fixed(len(elements)) if isinstance(base, Fixed) else Pick(base, tuple(elements))
