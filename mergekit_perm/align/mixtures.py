"""Mixtures of networks and their losses, for solvers that look at labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from mergekit_perm.align.examples import Examples
from mergekit_perm.align.views import State

Weights = tuple[float, ...]


def mixture(states: Sequence[State], weights: Weights) -> dict[str, torch.Tensor]:
    """Return sum_i `weights[i]` * `states[i]`, differentiably; integers are those of the first."""
    mixed = {}
    for name, first in states[0].items():
        mixed[name] = first
        if first.is_floating_point():
            parts = zip(states, weights, strict=True)
            mixed[name] = sum((w * s[name] for s, w in parts if w), torch.zeros_like(first))
    return mixed


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


class Excess:
    """How far mixtures lie above the networks they are mixed of, on examples that stay the same.

    The mixtures are those of `points`.
    """

    def __init__(self, examples: Examples, states: Sequence[State], *, count: int, seed: int):
        """Measure the networks themselves: `states`, on up to `count` of `examples`."""
        self.examples = examples
        self.inputs, self.labels = next(examples.batches(count, count, seed=seed))
        self.points = points(len(states))
        with torch.no_grad():
            own = [float(loss(examples, s, self.inputs, self.labels)) for s in states]
        self.level = [sum(w * v for w, v in zip(p, own, strict=True)) for p in self.points]

    def __call__(self, states: Sequence[State]) -> float:
        """Return the highest excess over `points`, in nats per example."""
        with torch.no_grad():
            losses = [
                float(loss(self.examples, mixture(states, point), self.inputs, self.labels))
                for point in self.points
            ]
        excess = [found - level for found, level in zip(losses, self.level, strict=True)]
        return max(excess) if all(value == value for value in excess) else float("inf")


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
