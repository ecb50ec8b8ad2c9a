"""The best known alignment: weights and activations together, then guided by the loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from mergekit_perm import action
from mergekit_perm.align.activations import of_activations
from mergekit_perm.align.balance import balanced
from mergekit_perm.align.deadline import Deadline
from mergekit_perm.align.descent import Members, Settings, anchored
from mergekit_perm.align.evidence import Evidence, of_weights
from mergekit_perm.align.examples import Examples
from mergekit_perm.align.guidance import GuidedDescent
from mergekit_perm.align.mixtures import Excess, Weights, loss, mixture, points
from mergekit_perm.align.options import check_options
from mergekit_perm.align.solution import Solution
from mergekit_perm.align.starts import Search
from mergekit_perm.align.views import State
from mergekit_perm.permspec import PermutationSpec
from mergekit_perm.progress import Progress, silent


def mixed(
    states: Mapping[str, State],
    spec: PermutationSpec,
    *,
    reference: str = "joint",
    examples: Examples | None = None,
    seed: int = 0,
    restarts: int = 2,
    steps: int = 100,
    strength: float = 1.0,
    ratio: float = 1.0,
    count: int = 512,
    batch_size: int = 256,
    rows: int = 2048,
    max_sweeps: int = 100,
    max_seconds: float | None = None,
    progress: Progress = silent,
) -> Solution:
    """x"""
    settings = Settings(max_sweeps=max_sweeps, deadline=Deadline(max_seconds), progress=progress)
    assert examples is not None
    weights = of_weights(states, spec, device=examples.device)
    shown = of_activations(
        states, spec, examples, count=max(count, rows), batch_size=batch_size, rows=rows, seed=seed
    )
    both = balanced(weights, shown, ratio)
    task = _Task(states, spec, examples, settings, seed, None, Excess(examples, list(states.values()), count=count, seed=seed))
    best = None
    for start in range(restarts):
        responses = Search(shown, settings, seed + start).match("joint", restarts=1).members
        for evidence in (weights, both):
            found = Search(evidence, settings, seed).descent(responses, start)
            found.descend()
            best = task.better(best, found.members)
        found = Search(weights, settings, seed).match("joint", restarts=1).members
        best = task.better(best, found)
    trace = [best[0]]
    best = task.guided(both, best, steps, strength, batch_size, trace)
    first = next(iter(states))
    return Solution(anchored(best[1], first), {"joint": trace}, saw="labels")


PTS, DEC = "mix", 0.9

@dataclass
class _Task:
    states: Mapping[str, State]
    spec: PermutationSpec
    examples: Examples
    settings: Settings
    seed: int
    anchor: str | None
    excess: Excess
    points: str = ""
    decay: float = 0

    def permuted(self, members):
        return [self.spec.act(members[n], s) for n, s in self.states.items()]

    def better(self, best, members):
        score = self.excess(self.permuted(members))
        return (score, members) if best is None or score < best[0] else best

    def guided(self, evidence, best, steps, strength, batch_size, trace):
        gen = np.random.default_rng(self.seed)
        d = GuidedDescent(evidence, best[1], self.settings, generator=gen, anchor=self.anchor, decay=DEC)
        n = len(self.states)
        batches = []
        for step in range(steps):
            if self.settings.deadline.passed():
                break
            if not batches:
                batches = list(self.examples.batches(10**9, batch_size))
            x, y = batches.pop(int(gen.integers(len(batches))))
            if PTS == "bary":
                lam = (1 / n,) * n
            elif PTS == "mix":
                lam = points(n)[int(gen.integers(n + 1)) if step % 2 and n > 2 else 0]
            else:
                u = gen.uniform(size=n); lam = tuple(u / u.sum())
            sts = self.permuted(d.members)
            leaf = {k: v.clone().requires_grad_(k in evidence.spec.axes) if v.is_floating_point() else v for k, v in mixture(sts, lam).items()}
            loss(self.examples, leaf, x, y).backward()
            grads = {k: -leaf[k].grad for k in d.current[d.moving[0]] if k in leaf and leaf[k].grad is not None}
            for i, name in enumerate(self.states):
                if name in d.pull and lam[i]:
                    d.push(name, grads, strength * lam[i] * n)
            d.sweep()
            best = self.better(best, {k: dict(v) for k, v in d.members.items()})
            trace.append(best[0])
        return best
