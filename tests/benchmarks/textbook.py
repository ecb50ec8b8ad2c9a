"""Textbook weight matching, to compare with: Git Re-Basin, arXiv 2209.04836, Algorithm 1.

Every similarity matrix is computed anew each time a group is visited, from the weights permuted by
all other groups as they stand. For specs whose axes are whole groups or fixed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from mergekit_perm import axes
from mergekit_perm.align.evidence import matched_tensors
from mergekit_perm.permspec import PermutationSpec

State = Mapping[str, torch.Tensor]


def weight_matching(
    ours: State,
    theirs: State,
    spec: PermutationSpec,
    *,
    orders: Iterable[Sequence[str]] = (),
    seed: int = 0,
    max_sweeps: int = 100,
    tolerance: float = 1e-9,
) -> tuple[dict[str, np.ndarray], list[float]]:
    """Return the permutation of every group that matches `theirs` to `ours`, and F by sweep.

    F is computed once, at the start; from there on it rises by what assignments gain. Groups are
    visited in these `orders`, one by sweep; when they are used up, in random ones.
    """
    rows = {name: _groups(spec, name) for name in matched_tensors(spec, ours)}
    permutations = {group: np.arange(spec.groups.length(group)) for group in spec.groups}
    generator = np.random.default_rng(seed)
    trace = [_objective(ours, theirs, rows, permutations)]
    random = (generator.permutation(list(permutations)) for _ in itertools.count())
    for order in itertools.islice(itertools.chain(orders, random), max_sweeps):
        gain = 0.0
        for group in order:
            similarity = _similarity(ours, theirs, rows, permutations, group)
            _, best = linear_sum_assignment(similarity, maximize=True)
            every, now = np.arange(len(best)), permutations[group]
            gained = similarity[every, best].sum() - similarity[every, now].sum()
            if gained > 0:
                permutations[group] = best
                gain += gained
        trace.append(trace[-1] + gain)
        if gain <= tolerance * abs(trace[-1]):
            break
    return permutations, trace


def _groups(spec: PermutationSpec, name: str) -> list[str | None]:
    return [axis.group if isinstance(axis, axes.Whole) else None for axis in spec.axes[name]]


def _similarity(
    ours: State,
    theirs: State,
    rows: Mapping[str, list[str | None]],
    permutations: Mapping[str, np.ndarray],
    group: str,
) -> np.ndarray:
    size = len(permutations[group])
    total = torch.zeros(size, size, device=next(iter(ours.values())).device)
    for name, row in rows.items():
        for dim, carried in enumerate(row):
            if carried == group:
                moved = _permuted(theirs[name], row, permutations, but=dim)
                one, other = (t.movedim(dim, 0).reshape(size, -1) for t in (ours[name], moved))
                total += one @ other.T
    return total.double().cpu().numpy()


def _permuted(
    tensor: torch.Tensor,
    row: list[str | None],
    permutations: Mapping[str, np.ndarray],
    *,
    but: int = -1,
) -> torch.Tensor:
    for dim, group in enumerate(row):
        if group is not None and dim != but:
            order = torch.from_numpy(permutations[group]).to(tensor.device)
            tensor = tensor.index_select(dim, order)
    return tensor


def _objective(
    ours: State,
    theirs: State,
    rows: Mapping[str, list[str | None]],
    permutations: Mapping[str, np.ndarray],
) -> float:
    return sum(
        float((ours[name].double() * _permuted(theirs[name], row, permutations).double()).sum())
        for name, row in rows.items()
    )
