"""Descents from several starts, of which the highest wins."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from mergekit_perm import action
from mergekit_perm.align.descent import Descent, Members, Settings, anchored, pairwise_objective
from mergekit_perm.align.evidence import Evidence
from mergekit_perm.align.solution import Solution
from mergekit_perm.permutation import Indices

# The share by which settled groups must be ahead to have found what networks have in common.
_CLEARLY = 0.01

# The noise that cooling begins with: half the size of what a network is matched to.
_NOISE = 0.5


@dataclass(frozen=True, slots=True)
class Search:
    """What every start shares.

    Attributes:
        evidence: what is compared.
        settings: how to descend.
        seed: of everything random; equal seeds, equal results.
        cooling: sweeps with noise before a joint descent.
    """

    evidence: Evidence
    settings: Settings
    seed: int
    cooling: int = 20

    def match(self, reference: str, *, restarts: int) -> Solution:
        """Match all networks to the one called `reference`, or jointly where that is "joint"."""
        names = list(self.evidence.states)
        if reference != "joint":
            return self.match_each(reference, restarts=restarts)
        if len(names) > 2:
            return self.match_jointly(restarts=restarts)
        # Two networks are matched jointly by matching one to the other.
        pair = self.match_each(names[0], restarts=restarts)
        return Solution(pair.members, {"joint": next(iter(pair.traces.values()))})

    def match_each(self, anchor: str, *, restarts: int) -> Solution:
        """Match every network to `anchor`, each on its own, keeping the best start of each."""
        still = self.still()
        result = Solution({}, {})
        for name in self.evidence.states:
            result.members[name] = still
            if name != anchor:
                task = f"aligning {name} to {anchor}"
                starts = self._race({anchor: still, name: still}, anchor, task)
                best = self._best(starts, task, restarts)
                result.members[name], result.traces[name] = best.members[name], best.trace
        return result

    def match_jointly(self, *, restarts: int) -> Solution:
        """Match all networks at once; the first is the one that stays as it is.

        Every start cools from the best so far, at first from matching to the first network.
        """
        names = list(self.evidence.states)
        best = self.descent(self.match_each(names[0], restarts=1).members, "joint")
        for attempt in range(restarts):
            if attempt and self.settings.deadline.passed():
                break
            task = "aligning jointly" + f", start {attempt + 1}" * (restarts > 1)
            found = self.descent(best.members, "cooling", attempt)
            found.cool(task, sweeps=self.cooling, noise=_NOISE)
            found.descend(task)
            best = max(best, found, key=lambda descent: descent.trace[-1])
        if not best.sweeps:  # cooling has lost ground
            best.descend("aligning jointly")
        if best.trace[-1] < pairwise_objective(self.evidence.states):  # no worse than as given
            best = self.descent({name: self.still() for name in names}, "as given")
            best.descend("aligning jointly, as given")
        return Solution(anchored(best.members, names[0]), {"joint": best.trace})

    def descent(self, members: Members, *key: int | str, anchor: str | None = None) -> Descent:
        """Return a descent from `members`, its randomness decided by the seed and by `key`."""
        # Keyed by the networks, so that a network's result does not depend on which others run.
        generator = self._generator(*key, *members)
        return Descent(self.evidence, members, self.settings, generator=generator, anchor=anchor)

    def _race(self, members: Members, anchor: str, task: str) -> list[Descent]:
        """Return the descents from settled groups and from `members`, the more promising first.

        Settling finds what networks have in common, and makes a worse start where that is little.
        It has found something if it is clearly above what one sweep from `members` reaches.
        """
        settled, plain = (self.descent(members, start, anchor=anchor) for start in range(2))
        settled.settle()
        plain.descend(task, until=1)
        found = settled.trace[-1] - plain.trace[-1] > _CLEARLY * abs(plain.trace[-1])
        return [settled, plain] if found else [plain, settled]

    def _best(self, starts: Iterable[Descent], task: str, restarts: int) -> Descent:
        """Descend from `starts`, then from random members; return the highest objective."""
        best: Descent | None = None
        given = iter(starts)
        for attempt in range(restarts):
            found = next(given, None) or self._random_start(best, attempt)
            found.descend(task if restarts == 1 else f"{task}, start {attempt + 1}")
            if best is None or found.trace[-1] > best.trace[-1]:
                best = found
            if self.settings.deadline.passed():
                break
        assert best is not None
        return best

    def _random_start(self, like: Descent | None, attempt: int) -> Descent:
        """Return a descent that starts where random members put the networks of `like`."""
        assert like is not None
        generator = self._generator("start", attempt, *like.members)
        members = {
            name: member if name == like.anchor else self._random_member(generator)
            for name, member in like.members.items()
        }
        return self.descent(members, attempt, anchor=like.anchor)

    def _generator(self, *key: int | str) -> np.random.Generator:
        words = [byte for part in key for byte in f"{part}/".encode()]
        return np.random.default_rng([self.seed, *words])

    def still(self) -> dict[str, Indices]:
        """Return the member that moves nothing."""
        return action.assemble(self.evidence.spec.groups, {})

    def _random_member(self, generator: np.random.Generator) -> dict[str, Indices]:
        member = self.evidence.spec.random(generator=generator)
        return {group: permutation.indices for group, permutation in member.items()}
