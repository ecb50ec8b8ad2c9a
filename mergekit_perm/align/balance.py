"""Two kinds of evidence on one scale."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from mergekit_perm import axes
from mergekit_perm.align.evidence import Evidence, of_tensors, together
from mergekit_perm.axis_elements import occurrences


def balanced(first: Evidence, second: Evidence, ratio: float) -> Evidence:
    """Return both kinds of evidence as one, `second` counting `ratio` times as much as `first`.

    What counts is how large the similarities of the elements of a group are on average, by their
    absolute values, between two networks. A tensor that carries several groups gets the mean of
    their scales.
    """
    sizes, others = _similarity_sizes(first), _similarity_sizes(second)
    scales = {}
    for tensor, row in second.spec.axes.items():
        known = [g for axis in row for g in _whole(axis) if others.get(g) and g in sizes]
        scales[tensor] = sum(ratio * sizes[g] / others[g] for g in known) / max(1, len(known))
    states = {
        name: {tensor: value * scales[tensor] ** 0.5 for tensor, value in state.items()}
        for name, state in second.states.items()
    }
    return together(first, of_tensors(first.spec, second.spec.axes, states))


def _similarity_sizes(evidence: Evidence) -> dict[str, float]:
    """Return by group the mean absolute similarity of elements of the first two networks."""
    ours, theirs, *_ = evidence.states.values()
    total: dict[str, torch.Tensor] = {}
    for tensor in ours:
        for dim, axis in enumerate(evidence.spec.axes[tensor]):
            for group in _whole(axis):
                table = occurrences(axis, evidence.spec.groups, group)
                index = torch.from_numpy(table.reshape(-1)).to(ours[tensor].device)
                one, other = (
                    side[tensor].index_select(dim, index).movedim(dim, 0).reshape(len(table), -1)
                    for side in (ours, theirs)
                )
                product = one @ other.T
                total[group] = total[group] + product if group in total else product
    return {group: float(product.abs().mean()) for group, product in total.items()}


def _whole(axis: axes.Axis) -> Iterator[str]:
    groups = {leaf.group for leaf in axes.leaves(axis) if isinstance(leaf, axes.Whole)}
    return iter(sorted(groups))
