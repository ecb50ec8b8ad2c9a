"""Sinkhorn re-basin: learn soft members by gradient descent, and harden them by assignment.

Every group of every network has a matrix of scores M; the soft member is Sinkhorn(M / temperature),
scaled to rows and columns that sum to 1, and AdamW follows the gradient of an objective on the
softly permuted networks (arXiv 2212.12042). The gradient of the scaling is that of its fixed point.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from torch.nn import functional

from mergekit_perm import action
from mergekit_perm.align.deadline import Deadline
from mergekit_perm.align.evidence import matched_tensors
from mergekit_perm.align.examples import Examples
from mergekit_perm.align.options import check_choice, check_options
from mergekit_perm.align.soft import SoftAction, soft_action
from mergekit_perm.align.soft_members import (
    Matrices,
    best_member,
    doubly_stochastic,
    matrices_of,
    whole_matrices,
)
from mergekit_perm.align.solution import Saw, Solution
from mergekit_perm.align.views import State
from mergekit_perm.errors import AlignmentError
from mergekit_perm.groups import Groups
from mergekit_perm.permspec import PermutationSpec
from mergekit_perm.permutation import Indices
from mergekit_perm.progress import Progress, silent

Goal = Literal["distance", "midpoint", "random_point"]
Member = dict[str, Indices]

# The deviation of the noise in the first scores, which are otherwise the identity.
_NOISE = 0.1
# Scores are hardened and judged every so many steps: about what an assignment costs against one.
_EVERY = 10
# What labelled candidates are judged on: this many examples, and mixtures of the networks.
_JUDGED_ON = 512
_MIXTURES = 4
# Added to the diagonal of a system that is singular by one direction in which nothing changes, and
# by more the closer it comes to a permutation.
_RIDGE = 1e-10


def sinkhorn(
    states: Mapping[str, State],
    spec: PermutationSpec,
    *,
    reference: str = "joint",
    seed: int = 0,
    steps: int = 200,
    learning_rate: float = 0.1,
    temperature: float = 1.0,
    iterations: int = 20,
    objective: Goal = "distance",
    examples: Examples | None = None,
    batch_size: int = 256,
    max_seconds: float | None = None,
    progress: Progress = silent,
) -> Solution:
    """Return one member per network, learned by gradient descent on soft members.

    Args:
        states: at least two state dicts that bound `spec` fits, by name.
        spec: a bound permutation spec.
        reference: the network that stays as it is and that each other is matched to, or "joint":
            all are matched to one another, and the first stays as it is.
        seed: decides the first scores, the batches and the mixtures; equal seeds, equal results.
        steps: how many steps of AdamW.
        learning_rate: of AdamW.
        temperature: what scores are divided by; the lower, the harder the soft members.
        iterations: of Sinkhorn's scaling of rows and columns.
        objective: what is made small. "distance": the mean squared distance of two networks, over
            their weights and over all pairs that are matched, without data. "midpoint": the mean
            cross-entropy at the mean of the networks matched together. "random_point": the same at
            a mixture, anew each step: uniform between two networks, u / sum(u) with uniform u for
            more.
        examples: labelled examples for "midpoint" and "random_point".
        batch_size: how many examples a step takes, drawn at random.
        max_seconds: take no further step after this time; None for no limit.
        progress: told after every step.

    The first scores are I + 0.1 N(0, 1). Every 10 steps, and in the end, the soft members are
    hardened by assignment; the best of these by the objective are the result, or no move at all
    where none is better. With data, the judges are up to 512 examples and fixed mixtures. Traces
    have the objective of the soft members before the first step and after each: the lower, the
    better. For "distance" weights are taken in float64; running statistics move with the others.

    Raises:
        AlignmentError: an option out of range, or no examples for an objective that needs them.
    """
    check_choice("objective", objective, get_args(Goal))
    check_options(seed=seed, steps=steps, iterations=iterations, batch_size=batch_size)
    check_options(max_seconds=max_seconds, learning_rate=learning_rate, temperature=temperature)
    deadline = Deadline(max_seconds)
    matches = _matches(list(states), reference)
    loss: _Loss
    if objective == "distance":
        loss = _Distance.of(states, spec, matches)
    elif examples is None:
        raise AlignmentError(
            f"objective '{objective}' looks at labelled examples: give `data`, and `model`, "
            "a network to run; objective 'distance' looks at none"
        )
    else:
        loss = _CrossEntropy.of(states, spec, matches, objective, examples, batch_size, seed)
    anchor = 0 if reference == "joint" else list(states).index(reference)
    scores = _Scores.first(spec.groups, len(states), anchor, loss.like, seed)
    optimizer = torch.optim.AdamW(scores.own.values(), lr=learning_rate)
    found = _Found.nothing(spec.groups, len(states), matches, loss)
    for step in range(steps):
        progress("aligning", step, steps)
        if deadline.passed():
            break
        soft = scores.soft(temperature, iterations)
        if step % _EVERY == 0:
            found.consider(soft)
        losses = loss.at(soft, step)
        found.traces.append(losses.tolist())
        if losses.requires_grad:  # not where no group has two elements
            optimizer.zero_grad()
            torch.autograd.backward(losses.sum())
            optimizer.step()
    last = scores.soft(temperature, iterations)
    found.consider(last)
    found.traces.append(loss.at(last, steps).tolist())
    progress("aligning", steps, steps)
    return found.solution(list(states), saw="weights" if objective == "distance" else "labels")


# -------------------------------------------------------------------------------- soft members


class _Scaling(torch.autograd.Function):
    """Sinkhorn's scaling; its gradient is that of the point where rows and columns stay put."""

    @staticmethod
    def forward(ctx: Any, scores: torch.Tensor, iterations: int) -> torch.Tensor:
        scaled = doubly_stochastic(scores, iterations)
        ctx.save_for_backward(scaled)
        return scaled

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (scaled,) = ctx.saved_tensors
        return _pulled_back(scaled, gradients[0]), None


def scaled(scores: torch.Tensor, iterations: int) -> torch.Tensor:
    """Return exp(scores), shape (..., n, n), with rows and columns scaled in turn to sum to 1.

    The gradient is by implicit differentiation (arXiv 2212.12042): exact for a scaling that has
    converged, at the cost of one linear system however many `iterations` there were.
    """
    result: torch.Tensor = _Scaling.apply(scores, iterations)
    return result


def _pulled_back(scaled: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Return the gradient with respect to the scores.

    With P = exp(scores + u + v), u and v keeping the sums r of rows and c of columns as they are,
    it is P * (G - a - b) where row and column sums of that are 0; a is eliminated.
    """
    rows, columns = scaled.sum(-1), scaled.sum(-2)
    flow = scaled * gradient
    across = scaled.mT / rows[..., None, :]
    system = torch.diag_embed(columns + _RIDGE) - across @ scaled
    known = flow.sum(-2) - (across @ flow.sum(-1)[..., None])[..., 0]
    b = torch.linalg.solve(system, known)
    a = (flow.sum(-1) - (scaled @ b[..., None])[..., 0]) / rows
    pulled: torch.Tensor = scaled * (gradient - a[..., :, None] - b[..., None, :])
    return pulled


@dataclass(frozen=True, slots=True)
class _Scores:
    """The scores of every network but the one that stays.

    Attributes:
        groups: the groups of the spec.
        anchor: the place of the network that stays.
        own: for an outermost group shape (networks - 1, size, size); for a nested one a matrix for
            every target block, shape (networks - 1, length of the outer group, size, size).
    """

    groups: Groups
    anchor: int
    own: dict[str, torch.Tensor]

    @classmethod
    def first(
        cls, groups: Groups, count: int, anchor: int, like: torch.Tensor, seed: int
    ) -> _Scores:
        """Return the scores before the first step."""
        generator = torch.Generator().manual_seed(seed)
        own = {}
        for group in groups.values():
            blocks = () if group.within is None else (groups.length(group.within),)
            shape = (count - 1, *blocks, group.size, group.size)
            noise = torch.randn(shape, generator=generator, dtype=torch.float64)
            start = torch.eye(group.size, dtype=torch.float64) + _NOISE * noise
            own[group.name] = start.to(like.device).requires_grad_()
        return cls(groups, anchor, own)

    def soft(self, temperature: float, iterations: int) -> dict[str, torch.Tensor]:
        """Return the soft member of every network, in float64."""
        whole = {}
        for name, scores in self.own.items():
            learned = scaled(scores / temperature, iterations)
            still = torch.eye(scores.shape[-1], dtype=scores.dtype, device=scores.device)
            anchor = still.expand(1, *learned.shape[1:])
            parts = [learned[: self.anchor], anchor, learned[self.anchor :]]
            whole[name] = torch.cat(parts)
        return whole_matrices(self.groups, whole)


# ---------------------------------------------------------------------------------- objectives


@dataclass(frozen=True, slots=True)
class _Match:
    """Networks that are matched together: their places, and the name of the trace."""

    name: str
    places: tuple[int, ...]


def _matches(names: Sequence[str], reference: str) -> list[_Match]:
    """Return all networks as one match, or each with the reference as one."""
    if reference == "joint":
        return [_Match("joint", tuple(range(len(names))))]
    anchor = names.index(reference)
    return [_Match(name, (anchor, i)) for i, name in enumerate(names) if i != anchor]


class _Loss(Protocol):
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
class _Distance:
    """The mean squared distance over weights and pairs."""

    soft: SoftAction
    weights: Mapping[str, torch.Tensor]
    matches: Sequence[_Match]

    @classmethod
    def of(
        cls, states: Mapping[str, State], spec: PermutationSpec, matches: Sequence[_Match]
    ) -> _Distance:
        """Return the distance of the weights of `states`, in float64."""
        names = matched_tensors(spec, next(iter(states.values())))
        return cls(soft_action(spec, names), _stacked(states, names, torch.float64), matches)

    @property
    def like(self) -> torch.Tensor:
        return next(iter(self.weights.values()), torch.zeros(0))

    def at(self, matrices: Matrices, step: int) -> torch.Tensor:  # noqa: ARG002 - no batches here
        return self.judge(matrices)

    def judge(self, matrices: Matrices) -> torch.Tensor:
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
class _CrossEntropy:
    """The cross-entropy of mixtures of the networks, on labelled examples.

    Attributes:
        soft: how soft members act.
        moving: the tensors that they act on, and others that are mixed: (networks, *shape).
        buffers: those of them that are statistics.
        counts: tensors that cannot be mixed, of the first network.
        matches: what is mixed with what.
        goal: which mixtures.
        examples: what the networks run on, in eval mode.
        batch_size: how many examples at once.
        seed: decides batches and mixtures.
    """

    soft: SoftAction
    moving: Mapping[str, torch.Tensor]
    buffers: Sequence[str]
    counts: Mapping[str, torch.Tensor]
    matches: Sequence[_Match]
    goal: Goal
    examples: Examples
    batch_size: int
    seed: int

    @classmethod
    def of(
        cls,
        states: Mapping[str, State],
        spec: PermutationSpec,
        matches: Sequence[_Match],
        goal: Goal,
        examples: Examples,
        batch_size: int,
        seed: int,
    ) -> _CrossEntropy:
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
        return next(iter(self.moving.values()))

    def at(self, matrices: Matrices, step: int) -> torch.Tensor:
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
        generator = np.random.default_rng(self.seed)
        several = 1 if self.goal == "midpoint" else _MIXTURES
        mixtures = [self._mixtures(generator) for _ in range(several)]
        moved = self._moved(matrices)
        total, seen = torch.zeros(len(self.matches), dtype=torch.float64), 0
        for inputs, labels in self.examples.batches(_JUDGED_ON, self.batch_size, seed=self.seed):
            seen += several * len(labels)
            for mixture in mixtures:
                for place, (match, shares) in enumerate(mixture):
                    loss = self._mixed(moved, match, shares, inputs, labels)
                    total[place] += loss.item() * len(labels)
        return total / seen

    def _mixtures(self, generator: np.random.Generator) -> list[tuple[_Match, torch.Tensor]]:
        return [(m, _shares(self.goal, len(m.places), generator)) for m in self.matches]

    def _moved(self, matrices: Matrices) -> dict[str, torch.Tensor]:
        near = {name: matrix.to(self.like.dtype) for name, matrix in matrices.items()}
        return {name: self.soft.act(name, tensor, near) for name, tensor in self.moving.items()}

    def _mixed(
        self,
        moved: Mapping[str, torch.Tensor],
        match: _Match,
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
        return functional.cross_entropy(
            self.examples.run({**mixture, **self.counts}, inputs), labels
        )


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


# --------------------------------------------------------------------------------------- result


@dataclass(slots=True)
class _Found:
    """The best hard members so far, match by match, and the losses of the soft ones.

    Attributes:
        groups: the groups of the spec.
        matches: what is matched together.
        loss: what is made small.
        members: by place of the network.
        worth: the loss of each match with these.
        traces: the losses of the matches at every step.
    """

    groups: Groups
    matches: Sequence[_Match]
    loss: _Loss
    members: list[Member]
    worth: list[float]
    traces: list[list[float]] = field(default_factory=list)

    @classmethod
    def nothing(cls, groups: Groups, count: int, matches: Sequence[_Match], loss: _Loss) -> _Found:
        """Return the networks as they stand."""
        members = [action.assemble(groups, {})] * count
        with torch.no_grad():
            worth = loss.judge(_hard(groups, members, loss)).tolist()
        return cls(groups, matches, loss, members, worth)

    def consider(self, soft: Matrices) -> None:
        """Harden soft members, and keep them for each match that is the better for it."""
        arrays = {name: matrix.detach().cpu().numpy() for name, matrix in soft.items()}
        members = [
            best_member(self.groups, {name: array[place] for name, array in arrays.items()})
            for place in range(len(self.members))
        ]
        with torch.no_grad():
            worth = self.loss.judge(_hard(self.groups, members, self.loss)).tolist()
        for number, match in enumerate(self.matches):
            if worth[number] < self.worth[number]:
                self.worth[number] = worth[number]
                for place in match.places:
                    self.members[place] = members[place]

    def solution(self, names: Sequence[str], saw: Saw) -> Solution:
        """Return the best members, and the trace of every match."""
        traces = zip(*self.traces, strict=True)
        return Solution(
            dict(zip(names, self.members, strict=True)),
            {m.name: list(trace) for m, trace in zip(self.matches, traces, strict=True)},
            saw,
        )


def _hard(groups: Groups, members: Sequence[Member], loss: _Loss) -> dict[str, torch.Tensor]:
    like = torch.zeros(0, dtype=torch.float64, device=loss.like.device)
    return matrices_of(groups, members, like=like)
