"""What networks are recognised by: tensors, and the axes of them that groups permute.

Weights are one kind of evidence. Anything else that permutes along with them is another tensor with
a row of axes: the activations of a group, or the weights of further checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from mergekit_perm.align.views import State, View, views
from mergekit_perm.axes import Axis
from mergekit_perm.permspec import PermutationSpec

# Statistics move with their channel but say nothing about which channel it is.
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True, slots=True)
class Evidence:
    """The tensors that a descent compares.

    Attributes:
        spec: bound, with a row of axes for each of these tensors.
        states: by network, the tensors: float32, or float64 where they were given so.
        views: how every group sees them.
    """

    spec: PermutationSpec
    states: Mapping[str, Mapping[str, torch.Tensor]]
    views: tuple[View, ...]


def of_weights(
    states: Mapping[str, State], spec: PermutationSpec, *, device: torch.device | None = None
) -> Evidence:
    """Return the weights of networks that bound `spec` permutes as evidence, on `device`."""
    tensors = matched_tensors(spec, next(iter(states.values())))
    kept = {
        name: {tensor: _comparable(state[tensor], device) for tensor in tensors}
        for name, state in states.items()
    }
    return Evidence(spec, kept, tuple(views(spec, tensors)))


def of_tensors(
    spec: PermutationSpec,
    rows: Mapping[str, tuple[Axis, ...]],
    states: Mapping[str, Mapping[str, torch.Tensor]],
) -> Evidence:
    """Return tensors with axes of their own as evidence: `rows` by tensor, in terms of `spec`."""
    shapes = {name: tuple(tensor.shape) for name, tensor in next(iter(states.values())).items()}
    own = replace(spec, axes=dict(rows), shapes=shapes)
    return Evidence(own, states, tuple(views(own, list(rows))))


def together(*parts: Evidence) -> Evidence:
    """Return all of `parts` as one: of the same networks and groups, of tensors of other names."""
    rows = {name: row for part in parts for name, row in part.spec.axes.items()}
    states = {
        name: {tensor: value for part in parts for tensor, value in part.states[name].items()}
        for name in parts[0].states
    }
    tensors = {tensor for state in states.values() for tensor in state}
    return of_tensors(
        parts[0].spec, {name: row for name, row in rows.items() if name in tensors}, states
    )


def matched_tensors(spec: PermutationSpec, state: State) -> list[str]:
    """Return the tensors that weights are compared by: permuted, floating, and no statistics."""
    return [
        name
        for name in spec.axes
        if state[name].is_floating_point() and name.rpartition(".")[2] not in _STATISTICS
    ]


def _comparable(tensor: torch.Tensor, device: torch.device | None) -> torch.Tensor:
    wide = tensor.dtype if tensor.dtype == torch.float64 else torch.float32
    return tensor.detach().to(device=device, dtype=wide)
