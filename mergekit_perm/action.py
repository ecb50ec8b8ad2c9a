"""How members of the symmetry group move the coordinates of axes and the entries of tensors.

An expression gives every coordinate a *label* made of group elements and fixed positions. A member
of the group relabels the coordinates; the source of a target coordinate is the coordinate that
carries its new label. Where a label occurs several times (`g + g`), occurrences correspond in the
order in which they stand before parts are taken: `(g + g)[...]` moves as `g + g` does, whatever the
order it shows. This one rule covers every form of the axis language.

A *member* is a mapping from every group's name to its whole permutation in gather form (int64). The
permutation of a nested group moves whole blocks as its outer group does, and reorders each block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from mergekit_perm.axes import (
    Axis,
    Block,
    Concatenation,
    Fixed,
    Inner,
    Interleaving,
    Leaf,
    Pick,
    Product,
    Slice,
    Whole,
    chosen,
    format_axis,
    has_inner,
    inner_group,
    interleaved,
    leaves,
    names,
    size,
)
from mergekit_perm.errors import PermutationSpecError
from mergekit_perm.groups import Group, Groups
from mergekit_perm.permutation import Indices

if TYPE_CHECKING:
    import torch

Member = Mapping[str, Indices]


def source(axis: Axis, groups: Groups, member: Member, *, block: int | None = None) -> Indices:
    """Return the source coordinate of every target coordinate of `axis`.

    Args:
        axis: the expression.
        groups: the groups of the spec.
        member: the member of the group; only the groups named in `axis` are looked at.
        block: for an axis with `inner(g)`, the target's index in the outer group of g.

    Raises:
        PermutationSpecError: when the permutations lead out of the axis, which shows only a part
            of a group.
    """
    if isinstance(axis, Whole):  # what the labels come to, for most axes of most networks
        return member[axis.group].copy()
    labels = _labels(axis, groups, member, block, _Fresh(groups.total))
    before: Indices
    before, after = (np.lexsort((labels[2], labels[row])) for row in (0, 1))
    if not np.array_equal(labels[0][before], labels[1][after]):
        raise PermutationSpecError(
            f"axis '{format_axis(axis)}' shows only a part of a group, "
            "so permuting the group leads out of it"
        )
    sources = np.empty_like(before)
    sources[after] = before
    return sources


def _labels(
    axis: Axis, groups: Groups, member: Member, block: int | None, fresh: _Fresh
) -> Indices:
    """Return shape (3, size): labels before and after relabelling, order before taking parts."""
    match axis:
        case Fixed():
            own = fresh.labels(size(axis, groups))
            return _ordered(own, own)
        case Whole(group):
            offset = groups.offsets[group]
            return _ordered(np.arange(groups.length(group)) + offset, member[group] + offset)
        case Inner(group):
            count, outer = groups[group].size, groups[group].within
            if block is None or outer is None:
                raise PermutationSpecError(f"inner({group}) needs an axis that carries '{outer}'")
            first = int(member[outer][block]) * count + groups.offsets[group]
            after = member[group][block * count : (block + 1) * count] + groups.offsets[group]
            return _ordered(np.arange(first, first + count), after)
        case Concatenation(terms):
            joined = _labels(terms[0], groups, member, block, fresh)
            for term in terms[1:]:
                then = _labels(term, groups, member, block, fresh)
                then[2] += joined[2].max(initial=-1) + 1
                joined = np.concatenate([joined, then], axis=1)
            return joined
        case Interleaving(blocks, terms):
            joined = _labels(Concatenation(terms), groups, member, block, fresh)
            return joined[:, interleaved(blocks, [size(term, groups) for term in terms])]
        case Slice(base) | Pick(base):
            all_labels = _labels(base, groups, member, block, fresh)
            return all_labels[:, chosen(axis, all_labels.shape[1])]
        case Block():
            raise PermutationSpecError(f"{format_axis(axis)} needs another axis of the tensor")
        case Product(factors):  # pragma: no branch - the last form
            if axis not in fresh.products:
                labels = _labels(factors[0], groups, member, block, fresh)
                for factor in factors[1:]:
                    labels = _paired(labels, _labels(factor, groups, member, block, fresh), fresh)
                fresh.products[axis] = labels
            return fresh.products[axis].copy()


@dataclass(slots=True)
class _Fresh:
    """Labels that no group has: where the next ones begin, and those of the products so far.

    A product has the same labels wherever it stands on an axis, so that several parts of it are
    parts of one thing: `(a * 4)[0:2] + (a * 4)[2:]` is `a * 4` when `a` has one element.
    """

    next: int
    products: dict[Product, Indices] = field(default_factory=dict)

    def labels(self, count: int) -> Indices:
        self.next += count
        return np.arange(self.next - count, self.next)


def _ordered(before: Indices, after: Indices) -> Indices:
    return np.stack([before, after, np.arange(len(before))])


def _paired(a: Indices, b: Indices, fresh: _Fresh) -> Indices:
    """Return one label for every pair (outer label, inner label), the same in both label rows."""
    _, a_code = np.unique(a[:2], return_inverse=True)
    _, b_code = np.unique(b[:2], return_inverse=True)
    a = np.stack([*a_code.reshape(2, -1), a[2]])[:, :, None]
    b = np.stack([*b_code.reshape(2, -1), b[2]])[:, None, :]
    pairs: Indices = (a * (b.max(axis=(1, 2), initial=0, keepdims=True) + 1) + b).reshape(3, -1)
    pairs[:2] += fresh.next
    fresh.next = int(pairs[:2].max(initial=fresh.next)) + 1
    return pairs


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


# ----------------------------------------------------------------------------------- members


def assemble(groups: Groups, moves: Mapping[str, Indices]) -> dict[str, Indices]:
    """Return the member made of each group's own moves.

    Args:
        groups: the groups of the spec.
        moves: for an outermost group its permutation, shape (size,); for a nested group the
            permutation within each target block, shape (length of the outer group, size). Groups
            that are left out make no move of their own.
    """
    member: dict[str, Indices] = {}

    def whole(group: Group) -> Indices:
        if group.name not in member:
            own = moves.get(group.name, np.arange(group.size))
            if group.within is not None:
                origin = whole(groups[group.within])
                own = (origin[:, None] * group.size + own).reshape(-1)
            member[group.name] = own
        return member[group.name]

    for group in groups.values():
        whole(group)
    return {name: member[name] for name in groups}


def own_moves(groups: Groups, member: Member) -> dict[str, Indices]:
    """Return each group's own moves: the inverse of `assemble`.

    Raises:
        PermutationSpecError: when a nested permutation does not move whole blocks as its outer
            group does.
    """
    moves: dict[str, Indices] = {}
    for group in groups.values():
        whole = member[group.name]
        if group.within is None:
            moves[group.name] = whole
            continue
        block, place = np.divmod(whole.reshape(-1, group.size), group.size)
        if not np.array_equal(block, np.repeat(member[group.within][:, None], group.size, axis=1)):
            raise PermutationSpecError(
                f"the permutation of '{group.name}' does not move whole blocks as "
                f"'{group.within}', which it lies within, does"
            )
        moves[group.name] = place
    return moves


def generators(groups: Groups, names: Sequence[str]) -> Iterator[dict[str, Indices]]:
    """Yield members that together generate every permutation of the groups `names`.

    A transposition and a cycle generate a symmetric group; made on the first block of a nested
    group, and carried round by the generators of the outer one, they generate the wreath product.
    """
    for name in names:
        group = groups[name]
        if group.size < 2:
            continue
        swap, cycle = np.arange(group.size), np.roll(np.arange(group.size), -1)
        swap[[0, 1]] = 1, 0
        for move in (swap, cycle):
            if group.within is not None:
                blocks = np.tile(np.arange(group.size), (groups.length(group.within), 1))
                blocks[0] = move
                move = blocks
            yield assemble(groups, {name: move})


# ----------------------------------------------------------------------------------- tensors


def carrier(axes: Sequence[Axis], groups: Groups, group: str) -> int:
    """Return which of `axes` tells, for each coordinate, the outer block of nested `group`.

    Raises:
        PermutationSpecError: when no axis does so for all its coordinates.
    """
    outer = groups[group].within
    for place, axis in enumerate(axes):
        if outer is None or has_inner(axis) or isinstance(axis, Fixed):
            continue
        if (elements(axis, groups, outer) >= 0).all():
            return place
    raise PermutationSpecError(
        f"inner({group}) needs another axis of the tensor on which every coordinate belongs to "
        f"'{outer}' or to a group within it"
    )


def choosing(axes: Sequence[Axis], groups: Groups, place: int) -> int:
    """Return which of `axes` chooses the block of the one at `place`, an `inner(n, a)`.

    Raises:
        PermutationSpecError: when that axis cannot be cut into as many blocks.
    """
    axis = axes[place]
    assert isinstance(axis, Block)
    for other, expression in enumerate(axes):
        length = size(expression, groups)
        if other != place and length > 1:
            if has_inner(expression) or length % axis.count:
                raise PermutationSpecError(
                    f"{format_axis(axis)} needs {axis.count} equal blocks of axis {other}, "
                    f"'{format_axis(expression)}', to choose from"
                )
            return other
    raise PermutationSpecError(f"{format_axis(axis)} needs another axis that chooses the block")


def sources(axes: Sequence[Axis], groups: Groups, member: Member) -> list[tuple[int, int, Indices]]:
    """Return the moves that permute a tensor: (dimension, carrying dimension or -1, sources).

    Sources have shape (size,); for an axis with `inner`, shape (size of the carrying axis, size):
    one row for every target coordinate of the carrying axis. Axes that stay are left out.
    """
    plain: list[tuple[int, int, Indices]] = []
    inner: list[tuple[int, int, Indices]] = []
    for place, axis in enumerate(axes):
        if isinstance(axis, Fixed):
            continue
        if isinstance(axis, Block):
            by = choosing(axes, groups, place)
            inner.append((place, by, _block_sources(axis, axes[by], groups, member)))
            continue
        nested = inner_group(axis)
        if nested is None:
            move = source(axis, groups, member)
            if (move != np.arange(len(move))).any():
                plain.append((place, -1, move))
            continue
        by = carrier(axes, groups, nested)
        _check_one_outer(axis, groups)
        block_of = elements(axes[by], groups, groups[nested].within or "")
        rows = {
            block: source(axis, groups, member, block=block)
            for block in dict.fromkeys(block_of.tolist())
        }
        inner.append((place, by, np.stack([rows[block] for block in block_of.tolist()])))
    return plain + inner


def _block_sources(axis: Block, by: Axis, groups: Groups, member: Member) -> Indices:
    """Return the sources on an `inner(n, a)` axis for every target coordinate of the axis `by`."""
    moved = source(axis.base, groups, member).reshape(axis.count, -1)
    block, place = np.divmod(moved, moved.shape[1])
    chosen_by = source(by, groups, member).reshape(axis.count, -1)
    wide = chosen_by.shape[1]
    if (block != block[:, :1]).any() or (chosen_by // wide != block[:, :1]).any():
        raise PermutationSpecError(
            f"the blocks of '{format_axis(axis)}' do not move as those of '{format_axis(by)}', "
            "the axis that chooses among them"
        )
    return np.repeat(place, wide, axis=0)


def _check_one_outer(axis: Axis, groups: Groups) -> None:
    outer = {groups[leaf.group].within for leaf in leaves(axis) if isinstance(leaf, Inner)}
    if len(outer) > 1:
        raise PermutationSpecError(
            f"axis '{format_axis(axis)}' has `inner` of groups within different ones, "
            "but one index on another axis can choose the block of only one"
        )


def act(tensor: torch.Tensor, axes: Sequence[Axis], groups: Groups, member: Member) -> torch.Tensor:
    """Return `tensor` permuted by `member`: a new tensor of the same shape, dtype and device."""
    import torch

    result = tensor
    for place, by, move in sources(axes, groups, member):
        index = torch.from_numpy(move).to(tensor.device)
        if by < 0:
            result = result.index_select(place, index)
        else:
            rows = torch.arange(len(move), device=tensor.device)[:, None]
            moved = result.movedim((by, place), (0, 1))[rows, index]
            result = moved.movedim((0, 1), (by, place)).contiguous()
    return result.clone() if result is tensor else result


def check_closed(axes: Sequence[Axis], groups: Groups) -> None:
    """Raise PermutationSpecError when a member of the group would lead out of one of `axes`."""
    own = groups_of(axes, groups)
    for member in generators(own, list(own)):
        sources(axes, own, member)


def groups_of(axes: Sequence[Axis], groups: Groups) -> Groups:
    """Return the groups that the axes of one tensor name, and those that they lie within."""
    named = dict.fromkeys(name for axis in axes for name in sorted(names(axis)))
    return Groups({group.name: group for name in named for group in groups.chain(name)})


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
