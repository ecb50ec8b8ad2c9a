"""Matrices of members of the symmetry group, hard and soft, and the best member by scores."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from mergekit_perm.align.assignment import Similarity, assign, assign_blocks, gathered
from mergekit_perm.groups import Groups
from mergekit_perm.members import Member, assemble
from mergekit_perm.permutation import Indices

Matrices = Mapping[str, torch.Tensor]
"""Soft members, one per network: for every group shape (networks, length, length)."""


def matrices_of(
    groups: Groups, members: Sequence[Member], *, like: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Return the permutation matrices of `members`, of the dtype and on the device of `like`."""
    result = {}
    for group in groups:
        whole = torch.from_numpy(np.stack([member[group] for member in members]))
        still = torch.eye(whole.shape[1], dtype=like.dtype, device=like.device)
        result[group] = still[whole.to(like.device)]
    return result


def whole_matrices(groups: Groups, own: Matrices) -> dict[str, torch.Tensor]:
    """Return whole matrices made of each group's own, as `members.assemble` makes members.

    Args:
        groups: the groups of the spec.
        own: for an outermost group shape (networks, size, size); for a nested group one matrix for
            every target block, shape (networks, length of the outer group, size, size).

    Returns:
        For a nested group M[(i, a), (j, b)] = M_outer[i, j] own[i, a, b]. Where all own matrices
        are doubly stochastic, this is a convex combination of members.
    """
    whole: dict[str, torch.Tensor] = {}
    for group in sorted(groups.values(), key=lambda group: len(groups.chain(group.name))):
        matrix = own[group.name]
        if group.within is not None:
            outer = whole[group.within]
            length = groups.length(group.name)
            matrix = torch.einsum("nij,niab->niajb", outer, matrix).reshape(-1, length, length)
        whole[group.name] = matrix
    return {name: whole[name] for name in groups}


def doubly_stochastic(scores: torch.Tensor, iterations: int) -> torch.Tensor:
    """Return exp(scores), shape (..., n, n), with rows and columns scaled in turn to sum to 1.

    Sinkhorn's iterations in the logarithmic domain; after the last, columns sum to 1 exactly.
    """
    logs = scores
    for _ in range(iterations):
        logs = logs - logs.logsumexp(dim=-1, keepdim=True)
        logs = logs - logs.logsumexp(dim=-2, keepdim=True)
    return logs.exp()


def best_member(groups: Groups, scores: Mapping[str, Similarity]) -> dict[str, Indices]:
    """Return the member p with the highest sum of scores[g][i, p_g[i]] over all groups g.

    Args:
        groups: the groups of the spec.
        scores: for every group shape (length, length); matrices of a soft member, say, or a
            gradient with respect to them.

    The exact maximum: for nested groups the best inner moves of every pair of blocks come first,
    the deepest level before all others, and what they are worth counts for the pair.
    """
    choices: dict[str, Indices] = {}

    def worth(name: str) -> Similarity:
        value = np.array(scores[name], dtype=np.float64)
        for child in groups.children(name):
            count, inner = groups.length(name), groups[child].size
            pairs = worth(child).reshape(count, inner, count, inner)
            choices[child] = assign_blocks(pairs)
            value += gathered(pairs, choices[child])
        return value

    moves = {name: assign(worth(name)) for name in groups.top()}
    return assemble(groups, _unfolded(groups, moves, choices))


def _unfolded(
    groups: Groups, outermost: Mapping[str, Indices], choices: Mapping[str, Indices]
) -> dict[str, Indices]:
    """Return each group's own moves: `choices[g][i, j]` is for source block j at target i."""
    moves = dict(outermost)
    waiting = list(itertools.chain.from_iterable(groups.children(name) for name in outermost))
    while waiting:
        name = waiting.pop()
        origin = assemble(groups, moves)[groups[name].within or ""]
        moves[name] = choices[name][np.arange(len(origin)), origin]
        waiting += groups.children(name)
    return moves
