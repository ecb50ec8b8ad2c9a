"""What alignment did, group by group: how far units moved, and how much alike they are now."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from mergekit_perm.align.descent import pairwise_objective
from mergekit_perm.align.precision import add_scaled, squared_norms
from mergekit_perm.align.rows import Rows, rows_by_group
from mergekit_perm.align.views import State
from mergekit_perm.permspec import PermutationSpec
from mergekit_perm.permutation import Permutation


@dataclass(frozen=True, slots=True)
class Effect:
    """What alignment did to one group.

    Attributes:
        size: how many units the group has; a nested group has those of all blocks.
        moved: by network, how many of them are elsewhere now.
        objective_before: the sum over all pairs of networks of the inner product of the tensors
            that carry the group, as given.
        objective: the same after alignment.
        similarity_before: the mean over pairs of networks and over units of the cosine of all that
            the unit carries in the two, as given; of nothing but zeros it is 0.
        similarity: the same after alignment.
    """

    size: int
    moved: dict[str, int]
    objective_before: float
    objective: float
    similarity_before: float
    similarity: float


def inner_products(states: Mapping[str, State], tensors: Sequence[str]) -> dict[str, float]:
    """Return, for each of `tensors`, the sum of its inner products over all pairs of networks."""
    return {
        tensor: pairwise_objective({name: {tensor: s[tensor]} for name, s in states.items()})
        for tensor in tensors
    }


def effects(
    spec: PermutationSpec,
    permutations: Mapping[str, Mapping[str, Permutation]],
    given: Mapping[str, State],
    aligned: Mapping[str, State],
    before: Mapping[str, float],
    after: Mapping[str, float],
) -> dict[str, Effect]:
    """Return what alignment did to every group of bound `spec`.

    Args:
        spec: the permutation spec, bound to the shapes of the networks.
        permutations: by network and group.
        given: the networks as they were, by name.
        aligned: the networks as they are now.
        before: the `inner_products` of the tensors that are compared, as given.
        after: the same after alignment.
    """
    found = {}
    for name, parts in rows_by_group(spec, list(before)).items():
        tensors = dict.fromkeys(tensor for tensor, _ in parts)
        rows = [part for _, part in parts]
        found[name] = Effect(
            size=spec.groups.length(name),
            moved={network: own[name].moved for network, own in permutations.items()},
            objective_before=math.fsum(before[tensor] for tensor in tensors),
            objective=math.fsum(after[tensor] for tensor in tensors),
            similarity_before=_similarity(list(given.values()), rows),
            similarity=_similarity(list(aligned.values()), rows),
        )
    return found


def _similarity(states: Sequence[State], parts: Sequence[Rows]) -> float:
    """Return the mean cosine over pairs and elements.

    For n unit vectors the mean over pairs is (|sum|^2 - n) / (n (n - 1)), which takes one sum, and
    not as many products as there are pairs.
    """
    if not parts:
        return 0.0
    scales = []
    for state in states:
        squares = torch.stack([squared_norms(rows(state)) for rows in parts]).sum(0)
        scales.append(torch.where(squares > 0, squares, torch.inf).rsqrt())
    sums = torch.stack([_sums(states, scales, rows) for rows in parts]).sum(0)
    n, nonzero = len(states), torch.stack(scales).gt(0).sum(0)
    return float(((sums - nonzero) / (n * (n - 1))).mean())


def _sums(states: Sequence[State], scales: Sequence[torch.Tensor], rows: Rows) -> torch.Tensor:
    """Return the squared length of the sum over states, each row scaled, on one tensor."""
    whole = torch.zeros_like(rows(states[0]), dtype=torch.float64)
    for state, scale in zip(states, scales, strict=True):
        add_scaled(whole, rows(state), scale)
    return squared_norms(whole)
