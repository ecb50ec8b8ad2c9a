"""MergeMany: every network in turn is matched, whole, to the mean of the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from mergekit_perm.align.deadline import Deadline
from mergekit_perm.align.descent import (
    Descent,
    Members,
    Settings,
    anchored,
    pairwise_objective,
)
from mergekit_perm.align.evidence import Evidence, of_weights
from mergekit_perm.align.options import check_options
from mergekit_perm.align.solution import Solution
from mergekit_perm.align.views import State
from mergekit_perm.members import assemble
from mergekit_perm.permspec import PermutationSpec
from mergekit_perm.progress import Progress, silent

# What the others are called together; no network can be called so.
_OTHERS = "joint"


def merge_many(
    states: Mapping[str, State],
    spec: PermutationSpec,
    *,
    reference: str = "joint",
    seed: int = 0,
    restarts: int = 2,
    tolerance: float = 1e-9,
    max_sweeps: int = 100,
    max_seconds: float | None = None,
    device: torch.device | None = None,
    progress: Progress = silent,
) -> Solution:
    """Return one member per network, each matched in turn to the mean of the others.

    In every round each network, in random order, is matched to the mean of the others by weight
    matching, from where it stands and until nothing gains (Git Re-Basin, arXiv 2209.04836,
    Algorithm 3). It maximises F, the sum of all pairwise inner products, as `weight_matching` does
    jointly; there a step is one group of one network instead.

    Args:
        states: at least two state dicts that bound `spec` fits, by name.
        spec: a bound permutation spec.
        reference: the network that stays as it is, or "joint" for the first. It does not change
            what is found: all networks are matched to all others.
        seed: decides the order of visits and the random starts; equal seeds, equal results.
        restarts: how many starts, of which the best wins. The first is the networks as they are
            given, the others are random members.
        tolerance: stop when a round raises F by less than this fraction of it; likewise the weight
            matching of one network, in terms of what it gains with the others.
        max_sweeps: stop after so many rounds at the latest, and a weight matching after so many
            sweeps.
        max_seconds: stop after so many seconds; the best so far is kept.
        device: where similarities are computed; the device of the states by default.
        progress: told after every round.

    F never falls within a start, and is never below that of the networks as given. The trace has
    it before the first round and after each. Running statistics are moved but not matched.

    Raises:
        AlignmentError: an option out of range.
    """
    check_options(seed=seed, restarts=restarts, tolerance=tolerance, max_sweeps=max_sweeps)
    check_options(max_seconds=max_seconds)
    evidence = of_weights(states, spec, device=device)
    settings = Settings("random", tolerance, max_sweeps, Deadline(max_seconds), progress)
    best: _Merge | None = None
    for start in range(restarts):
        generator = np.random.default_rng([seed, start])
        members = _random(evidence, generator) if start else _still(evidence)
        found = _Merge(evidence, members, settings, generator)
        found.descend("aligning jointly" + (f", start {start + 1}" if restarts > 1 else ""))
        if best is None or found.trace[-1] > best.trace[-1]:
            best = found
        if settings.deadline.passed():
            break
    assert best is not None
    anchor = next(iter(states)) if reference == "joint" else reference
    return Solution(anchored(best.members, anchor), {"joint": best.trace})


class _Merge:
    """Where the networks stand.

    Attributes:
        members: by network, the whole permutation of every group.
        trace: F at the start and after every round.
    """

    def __init__(
        self,
        evidence: Evidence,
        members: Members,
        settings: Settings,
        generator: np.random.Generator,
    ) -> None:
        """Start from `members`."""
        self.evidence, self.settings, self.generator = evidence, settings, generator
        self.members = dict(members)
        permuted = {n: evidence.spec.act(m, evidence.states[n]) for n, m in members.items()}
        self.total = _sum(permuted)
        self.trace = [pairwise_objective(permuted)]

    def descend(self, task: str) -> None:
        """Do rounds until one gains nothing."""
        settings = self.settings
        share = settings.least_gain(jointly=True)
        for done in range(settings.max_sweeps):
            settings.progress(task, done, settings.max_sweeps)
            gain = self._round()
            self.trace.append(self.trace[-1] + gain)
            if gain <= share * abs(self.trace[-1]) or settings.deadline.passed():
                break
        settings.progress(task, settings.max_sweeps, settings.max_sweeps)

    def _round(self) -> float:
        """Match every network once; return how much F has gained."""
        names = list(self.members)
        order = self.generator.permutation(len(names))
        return sum(self._match(names[i]) for i in order if not self.settings.deadline.passed())

    def _match(self, name: str) -> float:
        """Match one network to the sum of the others; return how much F has gained."""
        spec, own = self.evidence.spec, self.evidence.states[name]
        before = spec.act(self.members[name], own)
        # The sum differs from the mean by a factor only, and what is gained with it F gains.
        others = {tensor: whole - before[tensor] for tensor, whole in self.total.items()}
        still = assemble(spec.groups, {})
        descent = Descent(
            replace(self.evidence, states={_OTHERS: others, name: own}),
            {_OTHERS: still, name: self.members[name]},
            replace(self.settings, progress=silent),
            generator=self.generator,
            anchor=_OTHERS,
        )
        descent.descend()
        self.members[name] = descent.members[name]
        self.total = {t: others[t] + after for t, after in descent.current[name].items()}
        return descent.trace[-1] - descent.trace[0]


def _sum(states: Mapping[str, State]) -> dict[str, torch.Tensor]:
    first, *rest = states.values()
    total = {tensor: value.double() for tensor, value in first.items()}
    for state in rest:
        for tensor, value in state.items():
            total[tensor] = total[tensor] + value
    return total


def _still(evidence: Evidence) -> Members:
    return {name: assemble(evidence.spec.groups, {}) for name in evidence.states}


def _random(evidence: Evidence, generator: np.random.Generator) -> Members:
    members = {}
    for name in evidence.states:
        drawn = evidence.spec.random(generator=generator)
        members[name] = {group: permutation.indices for group, permutation in drawn.items()}
    return members
