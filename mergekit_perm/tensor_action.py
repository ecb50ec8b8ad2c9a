"""How members of the symmetry group move the entries of tensors.

Each axis of a tensor moves as `axis_action` says; one with `inner` moves in another way for every
coordinate of another axis of the tensor, which is found here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mergekit_perm.axes import (
    Axis,
    Block,
    Fixed,
    Inner,
    groups_of,
    has_inner,
    inner_group,
    leaves,
)
from mergekit_perm.axis_action import source
from mergekit_perm.axis_elements import elements
from mergekit_perm.axis_size import size
from mergekit_perm.axis_text import format_axis
from mergekit_perm.errors import PermutationSpecError
from mergekit_perm.groups import Groups
from mergekit_perm.members import Member, generators
from mergekit_perm.permutation import Indices

if TYPE_CHECKING:
    import torch


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
