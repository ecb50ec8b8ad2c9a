"""Mixtures of networks and their losses, for solvers that look at labels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from mergekit_perm.align.examples import Examples
from mergekit_perm.align.views import State

Weights = tuple[float, ...]

# Of a smooth maximum, relative to the highest; and the share from which a mixture counts in it.
_TEMPERATURE = 0.1
_LEAST_SHARE = 0.02

# How many numbers a pass may keep for its gradient whatever the batch size: 4 GiB.
_AT_ONCE = 2**30

# How many examples tell how many numbers that are.
_FEW = 2


def mixture(
    states: Sequence[State], weights: Weights, barycentre: State | None = None
) -> dict[str, torch.Tensor]:
    """Return sum_i `weights[i]` * `states[i]`, differentiably; integers are those of the first.

    Where the `barycentre` of the states is known, what all weights have in common is taken from it:
    halfway between it and a network are two terms, however many networks there are.
    """
    terms = list(zip(weights, states, strict=True))
    if barycentre is not None:
        least, above = _split(weights)
        terms = [(least * len(states), barycentre), *zip(above, states, strict=True)]
    mixed = {}
    for name, first in states[0].items():
        mixed[name] = first
        if first.is_floating_point():
            mixed[name] = sum((w * s[name] for w, s in terms if w), torch.zeros_like(first))
    return mixed


def _split(weights: Weights) -> tuple[float, Weights]:
    """Return what all `weights` have in common, and what each has above that."""
    least = min(weights)
    return least, tuple(weight - least for weight in weights)


def loss(
    examples: Examples, state: State, inputs: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Return the cross-entropy of one network in nats per example, differentiably.

    BatchNorm layers normalise by the statistics of `inputs`, taken as one batch, which is what
    re-estimating their running statistics comes to.
    """
    # The layers write their running statistics into what they are given.
    own = {k: v.clone() if _is_statistic(k) else v for k, v in state.items()}
    with _batch_statistics(examples.module):
        return functional.cross_entropy(examples.run(own, inputs), labels)


def gradient(
    examples: Examples,
    state: State,
    tensors: Sequence[str],
    inputs: torch.Tensor,
    labels: torch.Tensor,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return `loss`, and its gradient by those `tensors` of `state` that it depends on."""
    leaves = {name: state[name].detach().requires_grad_() for name in tensors}
    value = loss(examples, {**state, **leaves}, inputs, labels)
    found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
    slopes = {name: g for name, g in zip(tensors, found, strict=True) if g is not None}
    return value.detach(), slopes


class Excess:
    """How far mixtures lie above the networks they are mixed of, on examples that stay the same.

    The mixtures are those of `points`.

    Attributes:
        last: the excess at each of them when it was last found at all.
    """

    def __init__(
        self,
        examples: Examples,
        states: Sequence[State],
        *,
        count: int,
        batch_size: int,
        seed: int,
    ) -> None:
        """Measure the networks themselves: `states`, on up to `count` of `examples`.

        All of them run as one batch, unless that keeps more than 4 GiB for its gradient: then about
        `batch_size` at a time, and BatchNorm has the statistics of each batch.
        """
        self.examples = examples
        self.batches = _batches(examples, states[0], count, batch_size, seed)
        self.count = sum(len(labels) for _, labels in self.batches)
        self.points = points(len(states))
        own = [self._loss(state) for state in states]
        self.level = [sum(w * v for w, v in zip(p, own, strict=True)) for p in self.points]
        self.last = [0.0] * len(self.points)

    def __call__(self, states: Sequence[State], *, limit: float = float("inf")) -> float:
        """Return the highest excess over `points`, in nats per example.

        Args:
            states: the networks as permuted.
            limit: what it takes to be of interest: from there on, the first excess found is
                returned, for the highest is no lower. Those that were highest before come first.
        """
        found: dict[int, float] = {}
        barycentre = mixture(states, self.points[0])
        for place in sorted(range(len(self.points)), key=lambda k: -self.last[k]):
            value = self._loss(mixture(states, self.points[place], barycentre))
            found[place] = value - self.level[place] if value == value else float("inf")
            if found[place] >= limit:
                return found[place]
        self.last = [found[place] for place in range(len(self.points))]
        return max(self.last)

    def gradients(self, states: Mapping[str, State], tensors: Sequence[str]) -> dict[str, State]:
        """Return the gradient of a smooth maximum of the excess over `points`, by network it is of.

        That is log-sum-exp with a tenth of the highest excess as temperature, at the excess that
        was `last` found.

        Args:
            states: the networks as permuted, which `last` is of.
            tensors: what of them to derive by.
        """
        last = torch.tensor(self.last, dtype=torch.float64)
        shares = torch.softmax(last / max(_TEMPERATURE * float(last.max()), 1e-6), 0).tolist()
        networks = list(states.values())
        barycentre = mixture(networks, self.points[0])
        # What all networks have in common, and what each has above that.
        common: dict[str, torch.Tensor] = {}
        found: dict[str, dict[str, torch.Tensor]] = {name: {} for name in states}
        for point, share in zip(self.points, shares, strict=True):
            if share < _LEAST_SHARE:
                continue
            at, (least, above) = mixture(networks, point, barycentre), _split(point)
            for inputs, labels in self.batches:
                part = share * len(labels) / self.count
                _, slope = gradient(self.examples, at, tensors, inputs, labels)
                _add(common, slope, part * least)
                for name, weight in zip(states, above, strict=True):
                    _add(found[name], slope, part * weight)
        for slopes in found.values():
            _add(slopes, common, 1.0)
        return {name: slopes for name, slopes in found.items() if slopes}

    def _loss(self, state: State) -> float:
        with torch.no_grad():
            parts = [
                float(loss(self.examples, state, inputs, labels)) * (len(labels) / self.count)
                for inputs, labels in self.batches
            ]
        return sum(parts)


def _add(total: dict[str, torch.Tensor], slope: State, weight: float) -> None:
    """Add `weight` times `slope` to `total`, in which tensors may be missing."""
    if weight:
        for tensor, value in slope.items():
            total[tensor] = total.get(tensor, torch.zeros(())) + weight * value


def points(count: int) -> list[Weights]:
    """Return mixtures of `count` networks that stand for all: as many as twice that, and one.

    The barycentre, the midpoints of a ring of pairs, and the points halfway from the barycentre to
    every network.
    """
    ends = np.eye(count)
    barycentre = ends.mean(axis=0)
    edges = (ends + np.roll(ends, -1, axis=0)) / 2 if count > 2 else ends[:0]
    found = np.concatenate([barycentre[None], edges, (barycentre + ends) / 2])
    return [tuple(point) for point in found.tolist()]


def _batches(
    examples: Examples, state: State, count: int, batch_size: int, seed: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return up to `count` examples in one batch, or in batches of one size where it is large."""
    number = min(count, len(examples.split))
    large = number * numbers_kept(examples, state) > _AT_ONCE
    parts = math.ceil(number / batch_size) if large else 1
    return list(examples.batches(count, math.ceil(number / parts), seed=seed))


def numbers_kept(examples: Examples, state: State) -> float:
    """Return about how many float32 numbers a pass keeps for its gradient, by example."""
    kept: dict[int, int] = {}
    own = {tensor.untyped_storage().data_ptr() for tensor in state.values()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # what keeps the tensor itself is never freed

    inputs, labels = next(examples.batches(_FEW, _FEW))
    leaves = {
        name: tensor.detach().requires_grad_(tensor.is_floating_point() and not _is_statistic(name))
        for name, tensor in state.items()
    }
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss(examples, leaves, inputs, labels)
    return sum(kept.values()) / 4 / len(labels)


@contextmanager
def _batch_statistics(module: nn.Module) -> Iterator[None]:
    norms = [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]
    flags = [norm.training for norm in norms]
    try:
        for norm in norms:
            norm.training = True
        yield
    finally:
        for norm, flag in zip(norms, flags, strict=True):
            norm.training = flag


def _is_statistic(name: str) -> bool:
    return name.rpartition(".")[2] in ("running_mean", "running_var", "num_batches_tracked")
