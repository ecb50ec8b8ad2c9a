"""Coordinate descent over groups: one group of one network at a time, matched to the others.

To an anchor R it maximises the inner product of R and the permuted network (Git Re-Basin, arXiv
2209.04836, Algorithm 1). Jointly it maximises the sum of all pairwise inner products,

    F = sum_{i<j} <pi_i[theta_i], pi_j[theta_j]>,

matching one group of one network to the sum of the other networks; every accepted step raises F.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch

from mergekit_perm.align.changes import Change, change
from mergekit_perm.align.deadline import Deadline
from mergekit_perm.align.evidence import Evidence
from mergekit_perm.align.precision import in_double
from mergekit_perm.align.similarity import KeptSimilarity, best_moves
from mergekit_perm.align.views import View
from mergekit_perm.members import Member, assemble
from mergekit_perm.permutation import Indices
from mergekit_perm.progress import Progress, silent

Order = Literal["random", "forward"]

# The share of the objective that a sweep must gain to be followed by another one: to an anchor, and
# jointly, where sweeps go on for long that gain a hundredth of what two starts differ by, and are
# the more the more networks there are (measured on 4 to 32 MLPs).
_TOLERANCE = 1e-9
_JOINT_TOLERANCE = 2e-5

Members = Mapping[str, Mapping[str, Indices]]


@dataclass(frozen=True, slots=True)
class Settings:
    """What all descents of one alignment share.

    Attributes:
        order: visit groups in "random" order, anew each sweep, or "forward" as the spec has them.
        tolerance: stop when a sweep raises the objective by less than this fraction of it; None is
            1e-9 to an anchor, and 2e-5 jointly.
        max_sweeps: stop after so many sweeps at the latest.
        deadline: stop when it has passed.
        progress: told after every sweep.
    """

    order: Order = "random"
    tolerance: float | None = None
    max_sweeps: int = 100
    deadline: Deadline = field(default_factory=Deadline)
    progress: Progress = silent

    def least_gain(self, *, jointly: bool) -> float:
        """Return the share of the objective that a sweep must gain to be followed by another."""
        if self.tolerance is not None:
            return self.tolerance
        return _JOINT_TOLERANCE if jointly else _TOLERANCE


class Descent:
    """An incumbent: permuted tensors, their members, and the objective so far.

    Attributes:
        members: by network, the whole permutation of every group.
        trace: the objective at the start and after every sweep.
        sweeps: how many there were.
    """

    def __init__(
        self,
        evidence: Evidence,
        members: Members,
        settings: Settings,
        *,
        generator: np.random.Generator,
        anchor: str | None = None,
        trace: Sequence[float] = (),
    ) -> None:
        """Start from `members`.

        Args:
            evidence: what is compared.
            members: where the networks stand at first.
            settings: how to descend.
            generator: of random orders.
            anchor: the network that stays, and that the others are matched to; None to match
                each network to all the others.
            trace: the objective until now, where it is known, that of `members` last.
        """
        self.evidence, self.settings, self.generator = evidence, settings, generator
        self.anchor = anchor
        self.members = {name: dict(member) for name, member in members.items()}
        self.moving = [name for name in members if name != anchor]
        self.current = {
            name: dict(evidence.states[name])
            if moves_nothing(member)
            else evidence.spec.act(member, evidence.states[name])
            for name, member in members.items()
        }
        # Jointly, what a network is matched to is the sum of all without itself.
        self.total = {} if anchor else {t: self._sum(t) for t in self.current[self.moving[0]]}
        self.trace = list(trace) or [pairwise_objective(self.current)]
        self.sweeps = 0
        self._noise = 0.0
        self._torch_generator = torch.Generator().manual_seed(int(generator.integers(2**62)))
        self._clock = 0
        self._changed: dict[str, int] = {}
        self._settled: dict[tuple[str, str], int] = {}
        self._kept: dict[str, dict[str, KeptSimilarity]] = {}
        # The tensors that nobody else holds: they are moved in place.
        self._own: set[tuple[str, str]] = set()

    def settle(self) -> None:
        """Match groups one by one, each on the tensors whose other groups are settled already.

        Kept only if the objective is higher for it: two networks that lie together stay so.
        """
        before = dict(self.members), {name: dict(state) for name, state in self.current.items()}
        views = self.evidence.views
        self._own.clear()  # what was before is kept
        for name in self.moving:
            settled: list[str] = []
            while len(settled) < len(views) and not self.settings.deadline.passed():
                known = [v.seen_from(settled) for v in views if v.group not in settled]
                best = max(known, key=lambda view: view.weight)
                self.match(name, best, only_if_it_gains=False)
                settled.append(best.group)
        self.trace.append(pairwise_objective(self.current))
        if self.trace[-1] < self.trace[0]:
            self.members, self.current = before
            self._own.clear()
            self.trace.pop()
            self._kept.clear()

    def descend(self, task: str = "aligning", *, until: int | None = None) -> None:
        """Sweep until nothing gains, or `until` so many sweeps are done; may be called again."""
        settings = self.settings
        most = settings.max_sweeps if until is None else min(until, settings.max_sweeps)
        share = settings.least_gain(jointly=self.anchor is None)
        while self.sweeps < most:
            settings.progress(task, self.sweeps, settings.max_sweeps)
            self.sweeps += 1
            gain = 0.0
            for name, view in self._visits():
                if settings.deadline.passed():
                    break
                gain += self.match(name, view)
            # Every gain is one of F: what a network gains with the others, all pairs gain.
            self.trace.append(self.trace[-1] + gain)
            if gain <= share * abs(self.trace[-1]) or settings.deadline.passed():
                break
        self._correct_trace()
        if until is None:
            settings.progress(task, settings.max_sweeps, settings.max_sweeps)

    def cool(self, task: str, *, sweeps: int, noise: float) -> None:
        """Sweep with noise that dies away, taking every step whether it gains or not.

        Simulated annealing: what a descent meets first no longer decides where it ends. The trace
        begins anew after it.

        Args:
            task: for progress.
            sweeps: over how many sweeps the noise falls, evenly, to nothing.
            noise: at first, as a share of the size of what a network is matched to.
        """
        for sweep in range(sweeps):
            self.settings.progress(task, sweep, sweeps)
            self._noise = noise * (1 - sweep / sweeps)
            for name, view in self._visits():
                if not self.settings.deadline.passed():
                    self.match(name, view, only_if_it_gains=False)
        self.settings.progress(task, sweeps, sweeps)
        self._noise = 0.0
        self.trace = [pairwise_objective(self.current)]

    def match(self, name: str, view: View, *, only_if_it_gains: bool = True) -> float:
        """Match one group of one network to what it is matched to.

        Args:
            name: the network.
            view: of the group.
            only_if_it_gains: leave the group as it is unless the objective is higher for it.

        Returns:
            How much that gained; 0.0 where `only_if_it_gains` is false, and nobody looks.
        """
        if only_if_it_gains and not self._may_gain(name, view):
            return 0.0
        kept = self._keeper(name, view) if only_if_it_gains else None
        if kept:
            moves = kept.best_moves()
        else:
            target = {tensor: self._rough_target(name, tensor) for tensor in view.tensors}
            moves = best_moves(view, target, self.current[name])
            del target
        gain = 0.0
        if not _still(moves):
            step = assemble(self.evidence.spec.groups, moves)
            known = kept.gained(moves[view.group]) if kept else None
            gain = self._take(name, view, step, only_if_it_gains, known)
        if only_if_it_gains and (view.is_linear or not gain):
            self._settled[name, view.group] = self._clock
        return gain

    def _take(
        self,
        name: str,
        view: View,
        step: Member,
        only_if_it_gains: bool,
        known: float | None,
    ) -> float:
        spec, current = self.evidence.spec, self.current[name]
        changes = {
            tensor: change(current[tensor], spec.axes[tensor], spec.groups, step)
            for tensor in view.moved
            if tensor in current
        }
        gain = 0.0
        if only_if_it_gains:
            gain = known or sum(
                _inner_product_gained(changes[t], self._target(name, t)) for t in view.tensors
            )
            if gain <= 0.0:
                return 0.0
        self._clock += 1
        for kept in self._kept.get(name, {}).values():
            if kept.view.group == view.group:
                kept.moved(step[view.group])
            else:
                kept.changed(changes)
        for tensor, made in changes.items():
            if self.total:
                made.add_to(self.total[tensor])
            own = (name, tensor) in self._own
            current[tensor] = made.made(current[tensor], in_place=own)
            self._own.add((name, tensor))
            self._changed[tensor] = self._clock
        self.members[name] = then(self.members[name], step)
        return gain

    def _correct_trace(self) -> None:
        """Let the trace end at the very objective: sums of gains in single precision drift."""
        exact = pairwise_objective(self.current)
        self.trace = [*(min(value, exact) for value in self.trace[:-1]), exact]

    def _may_gain(self, name: str, view: View) -> bool:
        """Tell whether a tensor of the group has changed since it was matched last."""
        last = self._settled.get((name, view.group), -1)
        return any(self._changed.get(tensor, 0) > last for tensor in view.tensors)

    def _keeper(self, name: str, view: View) -> KeptSimilarity | None:
        """Return the similarity kept for this group: to an anchor, which never changes."""
        if self.anchor is None or not view.is_linear:
            return None
        kept = self._kept.setdefault(name, {})
        if view.group not in kept:
            anchor, current = self.current[self.anchor], self.current[name]
            near = {tensor: anchor[tensor].to(current[tensor].dtype) for tensor in view.tensors}
            kept[view.group] = KeptSimilarity(view, near, current)
        return kept[view.group]

    def _target(self, name: str, tensor: str) -> torch.Tensor:
        if self.anchor is not None:
            return self.current[self.anchor][tensor]
        return self.total[tensor] - self.current[name][tensor]

    def _rough_target(self, name: str, tensor: str) -> torch.Tensor:
        """Return what moves are found by: the target as precise as the network, with noise."""
        target = self._target(name, tensor).to(self.current[name][tensor].dtype)
        if not self._noise:
            return target
        size = torch.linalg.vector_norm(target) / target.numel() ** 0.5
        # Drawn on the CPU, so that devices agree.
        noise = torch.randn(target.shape, generator=self._torch_generator, dtype=torch.float32)
        return torch.add(target, noise.to(target.device), alpha=self._noise * float(size))

    def _sum(self, tensor: str) -> torch.Tensor:
        total = torch.zeros_like(self.current[self.moving[0]][tensor], dtype=torch.float64)
        for state in self.current.values():
            total += state[tensor]
        return total

    def _visits(self) -> list[tuple[str, View]]:
        visits = [(name, view) for name in self.moving for view in self.evidence.views]
        if self.settings.order == "random":
            visits = [visits[i] for i in self.generator.permutation(len(visits))]
        return visits


def anchored(members: Members, name: str) -> dict[str, dict[str, Indices]]:
    """Compose every member with the inverse of `name`'s, which leaves the objective as it is."""
    back = {group: np.argsort(indices) for group, indices in members[name].items()}
    return {each: then(member, back) for each, member in members.items()}


def moves_nothing(member: Member) -> bool:
    """Tell whether `member` is the identity."""
    return all(np.array_equal(indices, np.arange(len(indices))) for indices in member.values())


def _still(moves: Mapping[str, Indices]) -> bool:
    """Tell whether groups' own `moves`, nested ones (blocks, size), leave all where it is."""
    return all((own == np.arange(own.shape[-1])).all() for own in moves.values())


def then(member: Member, step: Member) -> dict[str, Indices]:
    """Return the member that acts as `member` and then as `step`."""
    return {group: indices[step[group]] for group, indices in member.items()}


def pairwise_objective(states: Mapping[str, Mapping[str, torch.Tensor]]) -> float:
    """Return sum_{i<j} <theta_i, theta_j> over all tensors.

    Of more than two networks that is (|sum|^2 - sum of |.|^2) / 2.
    """
    total = 0.0
    for tensor in next(iter(states.values())):
        for parts in in_double([state[tensor] for state in states.values()]):
            if len(states) == 2:
                total += float(torch.dot(*parts))
                continue
            whole, squares = torch.zeros(()), 0.0
            for part in parts:
                whole, squares = whole + part, squares + float(torch.dot(part, part))
            total += (float(torch.dot(whole, whole)) - squares) / 2
    return total


def _inner_product_gained(change: Change, target: torch.Tensor) -> float:
    """Return what the inner product of the changed tensor and `target` gains."""
    parts = [change.after, change.before, change.part(target)]
    return sum(
        float(torch.dot(after, target)) - float(torch.dot(before, target))
        for after, before, target in in_double(parts)
    )
