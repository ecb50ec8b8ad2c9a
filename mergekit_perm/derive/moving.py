"""Moving one group on one axis of one tensor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from mergekit_perm import axes, tensor_action
from mergekit_perm.axes import Axis
from mergekit_perm.axis_elements import occurrences
from mergekit_perm.groups import Groups
from mergekit_perm.members import Member, assemble
from mergekit_perm.permutation import Indices


def moved_alone(
    value: torch.Tensor, row: Sequence[Axis], groups: Groups, group: str
) -> torch.Tensor:
    """Return `value` with every element of `group` moved on one axis, at its first place there.

    Args:
        value: a tensor.
        row: the expressions of its axes.
        groups: the groups of the spec; those that `row` does not name are not looked at.
        group: one that `row` carries.

    Permuting one of several places breaks the tie between them: of query and key rows that share
    a group, say, only the query rows move.
    """
    groups = axes.groups_of(row, groups)
    member = _cycle(groups, group)
    for dim, axis in enumerate(row):
        if axes.has_inner(axis):
            continue
        places = occurrences(axis, groups, group)
        if places.shape[1]:
            index = np.arange(value.shape[dim])
            index[places[:, 0]] = places[member[group], 0]
            return value.index_select(dim, torch.from_numpy(index))
    return tensor_action.act(value, row, groups, member)


def _cycle(groups: Groups, name: str) -> Member:
    """Return the member that moves every element of a group to the next place, in every block."""
    group = groups[name]
    move: Indices = np.roll(np.arange(group.size), -1)
    if group.within is not None:
        move = np.tile(move, (groups.length(group.within), 1))
    return assemble(groups, {name: move})
