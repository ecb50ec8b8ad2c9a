"""Convex combinations of state dicts, as new states or written into a module."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import nn

from mergekit_perm import checkpoints
from mergekit_perm.errors import EvaluationError
from mergekit_perm.weighted import State, mismatch, weighted_sum

# What is precise enough to be mixed in its own dtype.
_PLAIN = (torch.float32, torch.float64)


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
    """A module on a device, into whose tensors mixes of `states` are written in place.

    A convex mix is reached by interpolating from network to network, each time the share of the
    next: a network alone is itself, and so is a mix of equal networks, bit for bit; other mixes
    are those of `mix` up to rounding.

    Attributes:
        module: a copy in eval mode, which holds its own weights until the first `set`; the very
            module that was given where it may be used `in_place`.

    Raises:
        EvaluationError: no states, or states that differ from one another or from the module in
            tensor names or shapes.
    """

    __slots__ = ("_counts", "_plain", "_sources", "_summed", "_targets", "module")

    def __init__(
        self,
        module: nn.Module,
        states: Sequence[State],
        *,
        device: str | torch.device = "cpu",
        in_place: bool = False,
    ) -> None:
        _check(states)
        if problem := mismatch({"the module": module.state_dict(), "the network": states[0]}):
            raise EvaluationError(f"{problem}; build the module with the networks' architecture")
        own = module if in_place else copy.deepcopy(module)
        self.module = own.to(device).eval().requires_grad_(False)
        # Views of the copy's parameters and buffers: writing to them writes to the module.
        self._targets = self.module.state_dict()
        self._sources = [
            {name: state[name].detach().to(device) for name in self._targets} for state in states
        ]
        # One name of every storage: what two names share would be interpolated twice.
        alone = checkpoints.once(self._targets, checkpoints.ties(self._targets))
        fitting = {name for name in self._targets if self._fits(name)}
        self._plain = [name for name in alone if name in fitting]
        others = [name for name in self._targets if name not in fitting]
        self._counts = [name for name in others if self._has(name, torch.int64)]
        self._summed = [name for name in others if name not in self._counts]

    def _fits(self, name: str) -> bool:
        """Tell whether a tensor may be interpolated: infinities of two networks have no mean."""
        plain = any(self._has(name, dtype) for dtype in _PLAIN)
        return plain and all(bool(source[name].isfinite().all()) for source in self._sources)

    def _has(self, name: str, dtype: torch.dtype) -> bool:
        """Tell whether a tensor is of this dtype, in the module and in all networks."""
        return all(each[name].dtype == dtype for each in (self._targets, *self._sources))

    def arrange(self, layout: torch.memory_format) -> None:
        """Bring weights of four axes into `layout`; networks too, unless they are on the CPU."""
        self.module.to(memory_format=layout)
        self._targets = self.module.state_dict()
        for source in self._sources:
            for name, tensor in source.items():
                if tensor.ndim == 4 and tensor.device.type != "cpu":
                    source[name] = tensor.to(memory_format=layout)

    def set(self, weights: Sequence[float]) -> nn.Module:
        """Write the mix with `weights`, one per state, into `module` and return it.

        Raises:
            EvaluationError: another number of weights.
        """
        if len(weights) != len(self._sources):
            raise EvaluationError(
                f"{len(self._sources)} networks need as many weights, not {len(weights)}"
            )
        convex = min(weights) >= 0 and math.isclose(sum(weights), 1, abs_tol=1e-9)
        with torch.no_grad():
            for name in self._summed if convex else self._targets:
                tensors = [source[name] for source in self._sources]
                weighted_sum(tensors, weights, out=self._targets[name])
            if convex and self._plain:
                self._interpolate(self._plain, weights)
            if convex and self._counts:
                pairs = zip(self._sources, weights, strict=True)
                first = next(source for source, weight in pairs if weight)
                own = [first[name] for name in self._counts]
                torch._foreach_copy_([self._targets[name] for name in self._counts], own)
        return self.module

    def _interpolate(self, names: Sequence[str], weights: Sequence[float]) -> None:
        targets = [self._targets[name] for name in names]
        total = 0.0
        for source, weight in zip(self._sources, weights, strict=True):
            if not weight:  # never read, so that an infinity in it cannot leak
                continue
            own = [source[name] for name in names]
            if not total:
                torch._foreach_copy_(targets, own)
            else:
                torch._foreach_lerp_(targets, own, weight / (total + weight))
            total += weight


def _check(states: Sequence[State]) -> None:
    if not states:
        raise EvaluationError("there are no networks to mix; give at least one")
    if problem := mismatch({f"network {i}": state for i, state in enumerate(states)}):
        raise EvaluationError(f"{problem}; only networks of one architecture can be mixed")
