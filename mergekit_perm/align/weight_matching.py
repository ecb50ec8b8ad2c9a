"""Weight matching: permute every network so that its weights correlate with the others'.

To a named reference R it maximises the inner product of R and each permuted network by coordinate
descent over groups (Git Re-Basin, arXiv 2209.04836, Algorithm 1). With `reference="joint"` it
maximises the sum of all pairwise inner products,

    F = sum_{i<j} <pi_i[theta_i], pi_j[theta_j]>,

matching one group of one network at a time to the sum of the other networks; every accepted step
raises F. MergeMany (same paper, Algorithm 3) is the special case that visits networks one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch

from mergekit_perm import action
from mergekit_perm.align.similarity import best_moves
from mergekit_perm.align.solution import Solution
from mergekit_perm.align.views import State, View, views
from mergekit_perm.errors import AlignmentError
from mergekit_perm.permspec import PermutationSpec
from mergekit_perm.permutation import Indices
from mergekit_perm.progress import Progress, silent

Order = Literal["random", "forward"]

# Statistics move with their channel but say nothing about which channel it is.
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def weight_matching(
    states: Mapping[str, State],
    spec: PermutationSpec,
    *,
    reference: str = "joint",
    seed: int = 0,
    restarts: int = 2,
    order: Order = "random",
    tolerance: float = 1e-9,
    max_sweeps: int = 100,
    progress: Progress = silent,
) -> Solution:
    """Return one member per network, found by coordinate descent on the weights.

    Args:
        states: at least two state dicts that bound `spec` fits, by name.
        spec: a bound permutation spec.
        reference: the network that stays as it is, or "joint".
        seed: decides the order of visits and the random starts; equal seeds, equal results.
        restarts: how many starts, of which the best wins. Matching to one network starts from
            settled groups (see below), from the identity, then from random members; matching
            jointly starts from matching to the first network with one start, with two, then from
            random members.
        order: visit groups in "random" order, anew each sweep, or "forward" as the spec has them.
        tolerance: stop when a sweep raises the objective by less than this fraction of it.
        max_sweeps: stop after so many sweeps at the latest.
        progress: told after every sweep.

    Settling takes one group after another, always the one that has most to be recognised
    by in tensors whose other axes are fixed or settled already: from the inputs and the outputs
    inwards. Only then is everything matched to everything. Starting from the identity instead, the
    first assignments are made against neighbours that still stand in the wrong order.

    The weights are matched in float64. Running statistics are moved but not matched. With "joint",
    F is never below what matching to the first network reaches with up to two starts, and the
    first network is the one that stays as it is.

    Raises:
        AlignmentError: an option out of range.
    """
    _check_options(restarts=restarts, order=order, max_sweeps=max_sweeps, seed=seed)
    weights = matched_tensors(spec, next(iter(states.values())))
    search = _Search(
        spec=spec,
        views=views(spec, weights),
        states={
            name: {tensor: state[tensor].double() for tensor in weights}
            for name, state in states.items()
        },
        seed=seed,
        restarts=restarts,
        order=order,
        tolerance=tolerance,
        max_sweeps=max_sweeps,
        progress=progress,
    )
    first = next(iter(states))
    if reference != "joint":
        return search.match_each(reference, restarts=restarts)
    if len(states) > 2:
        return search.match_jointly(first)
    # Two networks are matched jointly by matching one to the other.
    pair = search.match_each(first, restarts=restarts)
    return Solution(pair.members, {"joint": next(iter(pair.traces.values()))})


def _check_options(*, restarts: int, order: str, max_sweeps: int, seed: int) -> None:
    if order not in get_args(Order):
        raise AlignmentError(f"order is 'random' or 'forward', not '{order}'")
    least = {"restarts": (restarts, 1), "max_sweeps": (max_sweeps, 0), "seed": (seed, 0)}
    for option, (given, lowest) in least.items():
        if given < lowest:
            raise AlignmentError(f"{option} must be at least {lowest}, found {given}")


@dataclass(frozen=True, slots=True)
class _Search:
    """What every start shares."""

    spec: PermutationSpec
    views: list[View]
    states: dict[str, dict[str, torch.Tensor]]
    seed: int
    restarts: int
    order: Order
    tolerance: float
    max_sweeps: int
    progress: Progress

    def match_each(self, anchor: str, *, restarts: int) -> Solution:
        """Match every network to `anchor`, each on its own, keeping the best start of each."""
        still = action.assemble(self.spec.groups, {})
        result = Solution({}, {})
        for name in self.states:
            result.members[name] = still
            if name != anchor:
                start = {anchor: still, name: still}
                best = self._best(
                    [start, start], {name: [anchor]}, f"aligning {name} to {anchor}", restarts
                )
                result.members[name], result.traces[name] = best.members[name], best.trace
        return result

    def match_jointly(self, anchor: str) -> Solution:
        """Match all networks at once, and anchor the result at `anchor`."""
        others = {name: [other for other in self.states if other != name] for name in self.states}
        # What these starts are must not depend on how many more there are, or more starts could
        # end lower.
        to_one = [self.match_each(anchor, restarts=n + 1) for n in range(min(self.restarts, 2))]
        best = self._best(
            [found.members for found in to_one], others, "aligning jointly", self.restarts
        )
        best.anchor(anchor)
        return Solution(best.members, {"joint": best.trace})

    def _best(
        self,
        starts: list[dict[str, dict[str, Indices]]],
        others: dict[str, list[str]],
        task: str,
        restarts: int,
    ) -> _Descent:
        """Descend from `starts`, then from random members; return the highest objective."""
        # Keyed by the networks, so that a network's result does not depend on which others run.
        key = list("/".join(starts[0]).encode())
        best: _Descent | None = None
        for attempt in range(restarts):
            generator = np.random.default_rng([self.seed, attempt, *key])
            if attempt < len(starts):
                members = starts[attempt]
            else:
                members = {
                    name: self._random_member(generator) if name in others else member
                    for name, member in starts[0].items()
                }
            found = _Descent(self, members, generator)
            if len(others) == 1 and attempt == 0:
                found.settle(others)
            found.descend(others, task if restarts == 1 else f"{task}, start {attempt + 1}")
            if best is None or found.trace[-1] > best.trace[-1]:
                best = found
        assert best is not None
        return best

    def _random_member(self, generator: np.random.Generator) -> dict[str, Indices]:
        member = self.spec.random(generator=generator)
        return {group: permutation.indices for group, permutation in member.items()}


class _Descent:
    """The incumbent of one start: permuted weights, their members, and the objective so far."""

    def __init__(
        self,
        search: _Search,
        members: Mapping[str, dict[str, Indices]],
        generator: np.random.Generator,
    ) -> None:
        self.search, self.generator = search, generator
        self.members = dict(members)
        self.current = {
            name: dict(search.states[name])
            if _moves_nothing(member)
            else search.spec.act(member, search.states[name])
            for name, member in members.items()
        }
        self.trace = [pairwise_objective(self.current)]

    def settle(self, others: Mapping[str, list[str]]) -> None:
        """Match groups one by one, each on the tensors whose other groups are settled already.

        Kept only if F is higher for it: two networks that lie together already stay so.
        """
        before = dict(self.members), {name: dict(state) for name, state in self.current.items()}
        for name in others:
            settled: list[str] = []
            while len(settled) < len(self.search.views):
                known = [v.seen_from(settled) for v in self.search.views if v.group not in settled]
                best = max(known, key=lambda view: view.weight)
                self._match(name, best, others[name], only_if_it_gains=False)
                settled.append(best.group)
        self.trace.append(pairwise_objective(self.current))
        if self.trace[-1] < self.trace[0]:
            self.members, self.current = before
            self.trace.pop()

    def descend(self, others: Mapping[str, list[str]], task: str) -> None:
        """Sweep until nothing gains; network `name` is matched to the sum of `others[name]`."""
        search = self.search
        for sweep in range(search.max_sweeps):
            search.progress(task, sweep, search.max_sweeps)
            gain = sum(self._match(name, view, others[name]) for name, view in self._visits(others))
            # Every gain is one of F: what a network gains with the others, all pairs gain.
            self.trace.append(self.trace[-1] + gain)
            if gain <= search.tolerance * abs(self.trace[-1]):
                break
        search.progress(task, search.max_sweeps, search.max_sweeps)

    def _visits(self, names: Iterable[str]) -> list[tuple[str, View]]:
        visits = [(name, view) for name in names for view in self.search.views]
        if self.search.order == "random":
            visits = [visits[i] for i in self.generator.permutation(len(visits))]
        return visits

    def _match(
        self, name: str, view: View, others: list[str], *, only_if_it_gains: bool = True
    ) -> float:
        """Match one group of one network to the sum of `others`; return how much that gained."""
        spec, current = self.search.spec, self.current[name]
        target = {
            tensor: sum_of([self.current[other][tensor] for other in others])
            for tensor in view.tensors
        }
        step = action.assemble(spec.groups, best_moves(view, target, current))
        if _moves_nothing(step):
            return 0.0
        moved = {
            tensor: action.act(current[tensor], spec.axes[tensor], spec.groups, step)
            for tensor in view.moved
            if tensor in current
        }
        gain = sum(_dot(moved[t], target[t]) - _dot(current[t], target[t]) for t in view.tensors)
        if only_if_it_gains and gain <= 0.0:
            return 0.0
        current.update(moved)
        self.members[name] = _then(self.members[name], step)
        return gain

    def anchor(self, name: str) -> None:
        """Compose every member with the inverse of `name`'s, which leaves F as it is."""
        back = {group: np.argsort(indices) for group, indices in self.members[name].items()}
        self.members = {each: _then(member, back) for each, member in self.members.items()}


def _moves_nothing(member: action.Member) -> bool:
    return all(np.array_equal(indices, np.arange(len(indices))) for indices in member.values())


def _dot(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.dot(a.reshape(-1), b.reshape(-1)))


def _then(member: action.Member, step: action.Member) -> dict[str, Indices]:
    """Return the member that acts as `member` and then as `step`."""
    return {group: indices[step[group]] for group, indices in member.items()}


def matched_tensors(spec: PermutationSpec, state: State) -> list[str]:
    """Return the tensors that enter the objective: permuted, floating, and no statistics."""
    return [
        name
        for name in spec.axes
        if state[name].is_floating_point() and name.rpartition(".")[2] not in _STATISTICS
    ]


def pairwise_objective(states: Mapping[str, State]) -> float:
    """Return sum_{i<j} <theta_i, theta_j> over all tensors, as (|sum|^2 - sum of |.|^2) / 2."""
    total = 0.0
    for tensor in next(iter(states.values())):
        members = [state[tensor] for state in states.values()]
        whole = sum_of(members)
        total += (_dot(whole, whole) - sum(_dot(member, member) for member in members)) / 2
    return total


def sum_of(tensors: list[torch.Tensor]) -> torch.Tensor:
    """Return the sum of `tensors` without changing any of them."""
    total = tensors[0]
    for tensor in tensors[1:]:
        total = total + tensor
    return total
