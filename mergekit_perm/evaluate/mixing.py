"""Convex combinations of state dicts, as new states or written into a module."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from mergekit_perm.errors import EvaluationError
from mergekit_perm.weighted import State, mismatch, weighted_sum


def mix(states: Sequence[State], weights: Sequence[float]) -> State:
    """Return sum_i `weights[i]` * `states[i]`, tensor by tensor.

    Sums are taken in float64 and rounded once to the dtype of the tensor; a lone weight of 1
    gives that state bit for bit. Integer and boolean tensors (`num_batches_tracked`) come from
    the first state whose weight is not 0.

    Args:
        states: state dicts with the same tensor names and shapes.
        weights: as many numbers; they need not sum to 1.

    Raises:
        EvaluationError: no states, states that differ in tensors, or another number of weights.
    """
    _check(states)
    if len(weights) != len(states):
        raise EvaluationError(f"{len(states)} networks need as many weights, not {len(weights)}")
    return {name: weighted_sum([state[name] for state in states], weights) for name in states[0]}


class Mixer:
    """A copy of a module on a device, into whose tensors mixes of `states` are written in place.

    The module that is passed in and the states stay as they are.

    Attributes:
        module: the copy, in eval mode; holds the module's own weights until the first `set`.

    Raises:
        EvaluationError: no states, or states that differ from one another or from the module in
            tensor names or shapes.
    """

    __slots__ = ("_sources", "_targets", "module")

    def __init__(
        self, module: nn.Module, states: Sequence[State], *, device: str | torch.device = "cpu"
    ) -> None:
        _check(states)
        if problem := mismatch({"the module": module.state_dict(), "the network": states[0]}):
            raise EvaluationError(f"{problem}; build the module with the networks' architecture")
        self.module = copy.deepcopy(module).to(device).eval().requires_grad_(False)
        # Views of the copy's parameters and buffers: writing to them writes to the module.
        self._targets = self.module.state_dict()
        self._sources = {
            name: [state[name].detach().to(device) for state in states] for name in self._targets
        }

    def set(self, weights: Sequence[float]) -> nn.Module:
        """Write the mix with `weights`, one per state, into `module` and return it."""
        with torch.no_grad():
            for name, target in self._targets.items():
                weighted_sum(self._sources[name], weights, out=target)
        return self.module


def _check(states: Sequence[State]) -> None:
    if not states:
        raise EvaluationError("there are no networks to mix; give at least one")
    if problem := mismatch({f"network {i}": state for i, state in enumerate(states)}):
        raise EvaluationError(f"{problem}; only networks of one architecture can be mixed")
