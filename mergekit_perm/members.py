"""Members of the symmetry group: one permutation for every group, nested ones moving in blocks.

A *member* is a mapping from every group's name to its whole permutation in gather form (int64). The
permutation of a nested group moves whole blocks as its outer group does, and reorders each block.
What members do to axes and tensors is in `axis_action` and `tensor_action`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from mergekit_perm.errors import PermutationSpecError
from mergekit_perm.groups import Group, Groups
from mergekit_perm.permutation import Indices

Member = Mapping[str, Indices]


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
