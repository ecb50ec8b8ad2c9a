"""What Sinkhorn re-basin makes small: functions of softly permuted networks (arXiv 2212.12042)."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
import torch

from mergekit_perm.align import mixtures
from mergekit_perm.align.evidence import matched_tensors
from mergekit_perm.align.examples import Examples
from mergekit_perm.align.soft import SoftAction, soft_action
from mergekit_perm.align.soft_members import Matrices
from mergekit_perm.align.views import State
from mergekit_perm.permspec import PermutationSpec

Goal = Literal["distance", "midpoint", "random_point"]

# What labelled candidates are judged on: this many examples, and mixtures of the networks.
_JUDGED_ON = 512
_MIXTURES = 4


@dataclass(frozen=True, slots=True)
class Match:
    """Networks that are matched together: their places, and the name of the trace."""

    name: str
    places: tuple[int, ...]


def matches_of(names: Sequence[str], reference: str) -> list[Match]:
    """Return all networks as one match, or each with the reference as one."""
    if reference == "joint":
        return [Match("joint", tuple(range(len(names))))]
    anchor = names.index(reference)
    return [Match(name, (anchor, i)) for i, name in enumerate(names) if i != anchor]


class Loss(Protocol):
    """What is made small, one value per match."""

    @property
    def like(self) -> torch.Tensor:
        """A tensor of the device where it is computed."""
        ...

    def at(self, matrices: Matrices, step: int) -> torch.Tensor:
        """Return the losses of a step, shape (matches,), differentiably."""
        ...

    def judge(self, matrices: Matrices) -> torch.Tensor:
        """Return what soft members are worth, shape (matches,); the same for the same members."""
        ...


@dataclass(frozen=True, slots=True)
class Distance:
    """The mean squared distance over weights and pairs."""

    soft: SoftAction
    weights: Mapping[str, torch.Tensor]
    matches: Sequence[Match]

    @classmethod
    def of(
        cls,
        states: Mapping[str, State],
        spec: PermutationSpec,
        matches: Sequence[Match],
        device: torch.device | None = None,
    ) -> Distance:
        """Return the distance of the weights of `states`, in float64."""
        names = matched_tensors(spec, next(iter(states.values())))
        weights = _stacked(states, names, torch.float64, device)
        return cls(soft_action(spec, names), weights, matches)

    @property
    def like(self) -> torch.Tensor:
        """One of the tensors."""
        return next(iter(self.weights.values()), torch.zeros(0))

    def at(self, matrices: Matrices, step: int) -> torch.Tensor:  # noqa: ARG002 - no batches here
        """Return the distances, the same at every step."""
        return self.judge(matrices)

    def judge(self, matrices: Matrices) -> torch.Tensor:
        """Return the distances."""
        total = torch.zeros(len(self.matches), dtype=torch.float64, device=self.like.device)
        entries = 0
        for name, weight in self.weights.items():
            moved = self.soft.act(name, weight, matrices)
            total = total + torch.stack([_spread(moved[list(m.places)]) for m in self.matches])
            entries += weight[0].numel()
        pairs = math.comb(len(self.matches[0].places), 2)
        return total / (pairs * max(entries, 1))


def _spread(tensors: torch.Tensor) -> torch.Tensor:
    """Return sum_{i<j} |t_i - t_j|^2, by the distances to the mean."""
    return len(tensors) * (tensors - tensors.mean(dim=0)).square().sum()


@dataclass(frozen=True, slots=True)
class CrossEntropy:
    """The cross-entropy of mixtures of the networks, on labelled examples.

    Attributes:
        soft: how soft members act.
        moving: the tensors that they act on, and others that are mixed: (networks, *shape).
        buffers: those of them that are statistics.
        counts: tensors that cannot be mixed, of the first network.
        matches: what is mixed with what.
        goal: which mixtures.
        examples: what the networks run on, BatchNorm by the statistics of each batch.
        batch_size: how many examples at once.
        seed: decides batches and mixtures.
    """

    soft: SoftAction
    moving: Mapping[str, torch.Tensor]
    buffers: Sequence[str]
    counts: Mapping[str, torch.Tensor]
    matches: Sequence[Match]
    goal: Goal
    examples: Examples
    batch_size: int
    seed: int

    @classmethod
    def of(
        cls,
        states: Mapping[str, State],
        spec: PermutationSpec,
        matches: Sequence[Match],
        goal: Goal,
        examples: Examples,
        batch_size: int,
        seed: int,
    ) -> CrossEntropy:
        """Return the cross-entropy of mixtures of `states`."""
        first = next(iter(states.values()))
        mixed = [name for name, tensor in first.items() if tensor.is_floating_point()]
        dtype = functools.reduce(torch.promote_types, {first[name].dtype for name in mixed})
        # Statistics that the module would write down belong to it alone, and it writes none.
        module = copy.deepcopy(examples.module).eval()
        return cls(
            soft_action(spec, mixed),
            _stacked(states, mixed, dtype, examples.device),
            [name for name, _ in module.named_buffers() if name in mixed],
            {n: t.to(examples.device, copy=True) for n, t in first.items() if n not in mixed},
            matches,
            goal,
            replace(examples, module=module),
            batch_size,
            seed,
        )

    @property
    def like(self) -> torch.Tensor:
        """One of the tensors."""
        return next(iter(self.moving.values()))

    def at(self, matrices: Matrices, step: int) -> torch.Tensor:
        """Return the losses of one mixture per match, on the batch of a step."""
        generator = np.random.default_rng([self.seed, step])
        count = min(self.batch_size, len(self.examples.split))
        drawn = int(generator.integers(2**31))
        ((inputs, labels),) = self.examples.batches(count, count, seed=drawn)
        moved = self._moved(matrices)
        losses = [
            self._mixed(moved, match, shares, inputs, labels)
            for match, shares in self._mixtures(generator)
        ]
        return torch.stack(losses)

    def judge(self, matrices: Matrices) -> torch.Tensor:
        """Return the mean losses of mixtures and examples that stay the same."""
        generator = np.random.default_rng(self.seed)
        several = 1 if self.goal == "midpoint" else _MIXTURES
        drawn = [self._mixtures(generator) for _ in range(several)]
        moved = self._moved(matrices)
        total, seen = torch.zeros(len(self.matches), dtype=torch.float64), 0
        for inputs, labels in self.examples.batches(_JUDGED_ON, self.batch_size, seed=self.seed):
            seen += several * len(labels)
            for mixture in drawn:
                for place, (match, shares) in enumerate(mixture):
                    loss = self._mixed(moved, match, shares, inputs, labels)
                    total[place] += loss.item() * len(labels)
        return total / seen

    def _mixtures(self, generator: np.random.Generator) -> list[tuple[Match, torch.Tensor]]:
        return [(m, _shares(self.goal, len(m.places), generator)) for m in self.matches]

    def _moved(self, matrices: Matrices) -> dict[str, torch.Tensor]:
        near = {name: matrix.to(self.like.dtype) for name, matrix in matrices.items()}
        return {name: self.soft.act(name, tensor, near) for name, tensor in self.moving.items()}

    def _mixed(
        self,
        moved: Mapping[str, torch.Tensor],
        match: Match,
        shares: torch.Tensor,
        inputs: torch.Tensor,
        labels: torch.Tensor,
    ) -> torch.Tensor:
        """Return the cross-entropy of one mixture on one batch."""
        weights = shares.to(self.like)
        mixture = {
            name: torch.tensordot(weights, tensor[list(match.places)], dims=1)
            for name, tensor in moved.items()
        }
        # Normalisation layers take statistics as constants, and refuse them otherwise.
        mixture |= {n: mixture[n].detach() for n in self.buffers}
        return mixtures.loss(self.examples, {**mixture, **self.counts}, inputs, labels)


def _shares(goal: Goal, count: int, generator: np.random.Generator) -> torch.Tensor:
    """Return how much of each of `count` networks a mixture has."""
    if goal == "midpoint":
        return torch.full((count,), 1 / count, dtype=torch.float64)
    drawn = generator.random(count)
    if count == 2:
        return torch.tensor([drawn[0], 1 - drawn[0]])
    return torch.from_numpy(drawn / drawn.sum())


def _stacked(
    states: Mapping[str, State],
    names: Sequence[str],
    dtype: torch.dtype,
    device: torch.device | None = None,
) -> dict[str, torch.Tensor]:
    return {
        name: torch.stack(
            [s[name].detach().to(device=device, dtype=dtype) for s in states.values()]
        )
        for name in names
    }
