"""Sinkhorn re-basin: learn soft members by gradient descent, and harden them by assignment.

Every group of every network has a matrix of scores M; the soft member is Sinkhorn(M / temperature),
scaled to rows and columns that sum to 1, and AdamW follows the gradient of an objective on the
softly permuted networks (arXiv 2212.12042). The gradient of the scaling is that of its fixed point.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

import torch

from mergekit_perm.align.deadline import Deadline
from mergekit_perm.align.examples import Examples
from mergekit_perm.align.options import check_choice, check_options
from mergekit_perm.align.sinkhorn_losses import (
    CrossEntropy,
    Distance,
    Goal,
    Loss,
    Match,
    matches_of,
)
from mergekit_perm.align.sinkhorn_scaling import scaled
from mergekit_perm.align.soft_members import Matrices, best_member, matrices_of, whole_matrices
from mergekit_perm.align.solution import Saw, Solution
from mergekit_perm.align.views import State
from mergekit_perm.errors import AlignmentError
from mergekit_perm.groups import Groups
from mergekit_perm.members import assemble
from mergekit_perm.permspec import PermutationSpec
from mergekit_perm.permutation import Indices
from mergekit_perm.progress import Progress, silent

Member = dict[str, Indices]

# The deviation of the noise in the first scores, which are otherwise the identity.
_NOISE = 0.1
# Scores are hardened and judged every so many steps: about what an assignment costs against one.
_EVERY = 10


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
    device: torch.device | None = None,
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
        device: where "distance" is computed, the device of the states by default; with examples it
            is theirs.
        progress: told after every step.

    The first scores are I + 0.1 N(0, 1). Every 10 steps, and in the end, the soft members are
    hardened by assignment; the best of these by the objective are the result, or no move at all
    where none is better. With data, the judges are up to 512 examples and fixed mixtures,
    and BatchNorm normalises by the statistics of the batch. Traces
    have the objective of the soft members before the first step and after each: the lower, the
    better. For "distance" weights are taken in float64; running statistics move with the others.

    Raises:
        AlignmentError: an option out of range, or no examples for an objective that needs them.
    """
    check_choice("objective", objective, get_args(Goal))
    check_options(seed=seed, steps=steps, iterations=iterations, batch_size=batch_size)
    check_options(max_seconds=max_seconds, learning_rate=learning_rate, temperature=temperature)
    deadline = Deadline(max_seconds)
    matches = matches_of(list(states), reference)
    loss: Loss
    if objective == "distance":
        loss = Distance.of(states, spec, matches, device)
    elif examples is None:
        raise AlignmentError(
            f"objective '{objective}' looks at labelled examples: give `data`, and `model`, "
            "a network to run; objective 'distance' looks at none"
        )
    else:
        loss = CrossEntropy.of(states, spec, matches, objective, examples, batch_size, seed)
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
    matches: Sequence[Match]
    loss: Loss
    members: list[Member]
    worth: list[float]
    traces: list[list[float]] = field(default_factory=list)

    @classmethod
    def nothing(cls, groups: Groups, count: int, matches: Sequence[Match], loss: Loss) -> _Found:
        """Return the networks as they stand."""
        members = [assemble(groups, {})] * count
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


def _hard(groups: Groups, members: Sequence[Member], loss: Loss) -> dict[str, torch.Tensor]:
    like = torch.zeros(0, dtype=torch.float64, device=loss.like.device)
    return matrices_of(groups, members, like=like)
