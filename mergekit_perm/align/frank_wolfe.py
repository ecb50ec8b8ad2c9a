"""Frank-Wolfe on soft members: align all networks at once through a universe (C2M3).

Every network i has a soft member X_i that takes it to a universe, U_i = X_i[theta_i], so that what
takes one network to another is consistent round any cycle. The sum of all pairwise inner products

    F = sum_{i<j} <U_i, U_j> = (|sum_i U_i|^2 - sum_i |U_i|^2) / 2

is raised from step to step (C2M3, arXiv 2405.17897): towards the members that gain most at the
current point, as far as F is highest. Its gradient with respect to U_i is the sum of the others, so
a step costs as many tensors as there are networks, not pairs.

Two networks have no need of a universe, and in one they would chase each other: each goes to where
the other was. There the first is held where it is, and the second is matched to it.

Rounding costs some of F. What can be had back one group of one network at a time, a descent on
permutations takes in the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import torch
from numpy.polynomial import Chebyshev

from mergekit_perm.align.deadline import Deadline
from mergekit_perm.align.descent import Descent, Members, Settings, anchored
from mergekit_perm.align.evidence import Evidence, matched_tensors, of_weights
from mergekit_perm.align.options import check_choice, check_options
from mergekit_perm.align.soft import SoftAction, soft_action
from mergekit_perm.align.soft_members import (
    Matrices,
    best_member,
    doubly_stochastic,
    matrices_of,
    whole_matrices,
)
from mergekit_perm.align.solution import Solution
from mergekit_perm.align.views import State
from mergekit_perm.groups import Groups
from mergekit_perm.members import assemble
from mergekit_perm.permspec import PermutationSpec
from mergekit_perm.permutation import Indices
from mergekit_perm.progress import Progress, silent

Start = Literal["identity", "random"]
Member = dict[str, Indices]

# Scaling a matrix of standard normal logarithms this often leaves its sums within 1e-12 of 1.
_SCALINGS = 50


def frank_wolfe(
    states: Mapping[str, State],
    spec: PermutationSpec,
    *,
    reference: str = "joint",
    seed: int = 0,
    start: Start = "identity",
    max_iterations: int = 200,
    tolerance: float = 1e-6,
    patience: int = 5,
    max_seconds: float | None = None,
    device: torch.device | None = None,
    progress: Progress = silent,
) -> Solution:
    """Return one member per network, found by Frank-Wolfe over soft members.

    Args:
        states: at least two state dicts that bound `spec` fits, by name.
        spec: a bound permutation spec.
        reference: the network that stays as it is, or "joint" for the first. It does not change
            what is found: all networks are matched to all others.
        seed: decides the random start; equal seeds, equal results.
        start: the soft member of every network that moves before the first step: the "identity",
            or a "random" doubly stochastic one.
        max_iterations: stop after so many steps at the latest.
        tolerance: a step gains little when it raises F by less than this fraction of it.
        patience: stop after so many steps in a row that gain little.
        max_seconds: take no further step after this time; None for no limit.
        device: where to compute; the device of the states by default.
        progress: told after every step, and after every sweep of the descent.

    Each step is exact: the best members by assignment, the length by the polynomial that F is along
    the way. In the end the soft members are rounded by assignment. From the best of these, the
    members at which the steps were aimed, and no move at all, coordinate descent goes on, one group
    of one network at a time, until a sweep gains as little as ends `weight_matching`; F can only
    rise. Soft weights are float64; running statistics are moved but not matched. The trace has F of
    the soft members, and last F of the members returned.

    Raises:
        AlignmentError: an option out of range.
    """
    check_choice("start", start, get_args(Start))
    check_options(max_iterations=max_iterations, tolerance=tolerance, patience=patience)
    check_options(seed=seed, max_seconds=max_seconds)
    deadline = Deadline(max_seconds)
    objective = Objective.of(states, spec, device)
    held = 0 if len(states) == 2 else None
    climb = _Climb(objective, _start(objective, start, seed, held), held)
    climb.consider(objective.still())
    _take_steps(climb, max_iterations, tolerance, patience, deadline, progress)
    climb.consider(climb.rounded(climb.matrices))
    names = list(states)
    polished = _polished(
        of_weights(states, spec, device=device),
        dict(zip(names, climb.best, strict=True)),
        Settings("forward", deadline=deadline, progress=progress),
        anchor=None if held is None else names[held],
    )
    anchor = names[0] if reference == "joint" else reference
    trace = [*climb.trace, polished.trace[-1]]
    return Solution(anchored(polished.members, anchor), {"joint": trace})


# ------------------------------------------------------------------------------------ objective


@dataclass(frozen=True, slots=True)
class Objective:
    """F as a function of the soft members of all networks.

    Attributes:
        count: how many networks there are.
        groups: the groups of the spec.
        soft: how soft members act.
        weights: the matched tensors that move, each of all networks: (networks, *shape), float64.
        fixed: what tensors that do not move add to F.
    """

    count: int
    groups: Groups
    soft: SoftAction
    weights: Mapping[str, torch.Tensor]
    fixed: float

    @classmethod
    def of(
        cls,
        states: Mapping[str, State],
        spec: PermutationSpec,
        device: torch.device | None = None,
    ) -> Objective:
        """Return F for the weights of `states`, computed on `device` or where they are."""
        names = matched_tensors(spec, next(iter(states.values())))
        stacked = {
            name: torch.stack([s[name].detach().to(device).double() for s in states.values()])
            for name in names
        }
        moving = soft_action(spec, names)
        fixed = sum(_pairs(stacked.pop(name)).item() for name in names if name not in moving.plans)
        return cls(len(states), spec.groups, moving, stacked, fixed)

    @property
    def like(self) -> torch.Tensor:
        """A tensor of the dtype and on the device of the matrices."""
        return next(iter(self.weights.values()), torch.zeros(0, dtype=torch.float64))

    @property
    def degree(self) -> int:
        """The degree of F along a straight way from some soft members to others."""
        return 2 * self.soft.degree

    def value(self, matrices: Matrices) -> float:
        """Return F at soft members, shape (networks, length, length) for every group."""
        with torch.no_grad():
            terms = (
                _pairs(self.soft.act(name, weight, matrices)).item()
                for name, weight in self.weights.items()
            )
            return self.fixed + sum(terms)

    def gradient(self, matrices: Matrices) -> dict[str, torch.Tensor]:
        """Return dF/dX for every group, of the shapes of `matrices`."""
        points = {name: matrix.detach().requires_grad_() for name, matrix in matrices.items()}
        total = {name: torch.zeros_like(matrix) for name, matrix in matrices.items()}
        # Tensor by tensor, so that only one is in memory several times over.
        for name, weight in self.weights.items():
            term = _pairs(self.soft.act(name, weight, points))
            parts = torch.autograd.grad(term, list(points.values()), allow_unused=True)
            for group, part in zip(points, parts, strict=True):
                if part is not None:
                    total[group] += part
        return total

    def still(self) -> list[Member]:
        """Return the member that moves nothing, once per network."""
        return [assemble(self.groups, {})] * self.count

    def matrices_of(self, members: Sequence[Member]) -> dict[str, torch.Tensor]:
        """Return the matrices of one member per network."""
        return matrices_of(self.groups, members, like=self.like)


def _pairs(tensors: torch.Tensor) -> torch.Tensor:
    """Return sum_{i<j} <t_i, t_j>, by (|sum|^2 - sum of |.|^2) / 2."""
    return (tensors.sum(dim=0).square().sum() - tensors.square().sum()) / 2


# --------------------------------------------------------------------------------------- climb


@dataclass(slots=True)
class _Climb:
    """Where the soft members are, F on the way there, and the best members seen.

    Attributes:
        objective: F.
        matrices: the soft member of every network.
        held: the place of a network that does not move, if one does not.
        trace: F at the start and after every step.
        best: the members with the highest F so far.
        highest: F of these.
    """

    objective: Objective
    matrices: dict[str, torch.Tensor]
    held: int | None
    trace: list[float] = field(default_factory=list)
    best: list[Member] = field(default_factory=list)
    highest: float = -math.inf

    def __post_init__(self) -> None:
        self.trace.append(self.objective.value(self.matrices))

    def consider(self, members: list[Member], value: float | None = None) -> None:
        """Keep `members` if F, which is `value` if that is known, is the highest there."""
        if value is None:
            value = self.objective.value(self.objective.matrices_of(members))
        if value > self.highest:
            self.best, self.highest = members, value

    def step(self) -> float:
        """Take one step and return how much it gained; 0 when there is no way up."""
        aim = self.rounded(self.objective.gradient(self.matrices))
        far = self.objective.matrices_of(aim)
        ends = self.trace[-1], self.objective.value(far)
        self.consider(aim, ends[1])

        def between(share: float) -> dict[str, torch.Tensor]:
            return {name: here.lerp(far[name], share) for name, here in self.matrices.items()}

        share = best_share(lambda x: self.objective.value(between(x)), ends, self.objective.degree)
        reached = far if share == 1.0 else between(share)
        value = ends[1] if share == 1.0 else self.objective.value(reached)
        if value <= ends[0]:
            return 0.0
        self.matrices = reached
        self.trace.append(value)
        return value - ends[0]

    def rounded(self, matrices: Matrices) -> list[Member]:
        """Return for each network the member with the highest inner product with its matrices."""
        arrays = {name: matrix.cpu().numpy() for name, matrix in matrices.items()}
        members = self.objective.still()
        for network in range(len(members)):
            if network != self.held:
                own = {name: array[network] for name, array in arrays.items()}
                members[network] = best_member(self.objective.groups, own)
        return members


def _take_steps(
    climb: _Climb,
    max_iterations: int,
    tolerance: float,
    patience: int,
    deadline: Deadline,
    progress: Progress,
) -> None:
    """Take steps until `patience` of them gained little, or none is to be had."""
    task, slow = "aligning jointly", 0
    for iteration in range(max_iterations):
        progress(task, iteration, max_iterations)
        if deadline.passed():
            break
        gain = climb.step()
        slow = slow + 1 if gain <= tolerance * abs(climb.trace[-1]) else 0
        # From where a step gains nothing, the next would be the same one.
        if gain == 0.0 or slow >= patience:
            break
    progress(task, max_iterations, max_iterations)


def best_share(along: Callable[[float], float], ends: tuple[float, float], degree: int) -> float:
    """Return where in [0, 1] a polynomial is highest.

    Args:
        along: the polynomial.
        ends: its values at 0 and at 1.
        degree: its degree at most.

    It is evaluated at the extrema of a Chebyshev polynomial and written in their basis, in which
    rounding errors do not grow; its highest point is an end or a root of its derivative.
    """
    if degree < 2:
        return float(ends[1] > ends[0])
    nodes = (1 - np.cos(np.pi * np.arange(degree + 1) / degree)) / 2
    values = [ends[0], *(along(float(node)) for node in nodes[1:-1]), ends[1]]
    curve = Chebyshev.fit(nodes, values, degree, domain=[0, 1])
    # A leading coefficient that is only a rounding error would send roots anywhere.
    slope = curve.deriv().trim(1e-13 * float(np.abs(curve.coef).max()))
    roots = np.asarray(slope.roots(), dtype=np.complex128)
    real = roots.real[np.abs(roots.imag) < 1e-6]
    inside = real[(real > 0) & (real < 1)].tolist()
    heights = {0.0: ends[0], 1.0: ends[1], **{x: float(curve(x)) for x in inside}}
    return float(max(heights, key=lambda x: heights[x]))


def _start(
    objective: Objective, start: Start, seed: int, held: int | None
) -> dict[str, torch.Tensor]:
    """Return every network's first soft member."""
    still = objective.matrices_of(objective.still())
    if start == "identity":
        return still
    generator, groups, like = torch.Generator().manual_seed(seed), objective.groups, objective.like
    own = {}
    for group in groups.values():
        blocks = () if group.within is None else (groups.length(group.within),)
        shape = (objective.count, *blocks, group.size, group.size)
        scores = torch.randn(shape, generator=generator, dtype=like.dtype)
        own[group.name] = doubly_stochastic(scores, _SCALINGS).to(like.device)
    matrices = whole_matrices(groups, own)
    if held is not None:
        for name, matrix in matrices.items():
            matrix[held] = still[name][held]
    return matrices


def _polished(
    evidence: Evidence, members: Members, settings: Settings, *, anchor: str | None
) -> Descent:
    """Return a descent that has left nothing to gain from `members`, group by group."""
    # Groups are visited in the order of the spec, so that no generator is asked.
    descent = Descent(
        evidence, members, settings, generator=np.random.default_rng(0), anchor=anchor
    )
    descent.descend("aligning jointly, group by group")
    return descent
