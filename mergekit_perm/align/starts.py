"""Descents from several starts, of which the highest wins."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mergekit_perm.align.descent import Descent, Members, Settings, anchored, pairwise_objective
from mergekit_perm.align.evidence import Evidence
from mergekit_perm.align.solution import Solution
from mergekit_perm.members import assemble
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

    def match_each(self, anchor: str, *, restarts: int, until: int | None = None) -> Solution:
        """Match every network to `anchor`, each on its own, keeping the best start of each.

        Every start ends when nothing gains, or `until` so many sweeps are done.
        """
        still, all_sweeps = self.still(), self.settings.max_sweeps
        result = Solution({}, {})
        for name in self.evidence.states:
            result.members[name] = still
            if name != anchor:
                task = f"aligning {name} to {anchor}"
                starts = self._starts({anchor: still, name: still}, anchor, task)
                best = self._best(starts, task, restarts, until)
                if until is not None:
                    self.settings.progress(task, all_sweeps, all_sweeps)
                result.members[name], result.traces[name] = best.members[name], best.trace
        return result

    def match_jointly(self, *, restarts: int) -> Solution:
        """Match all networks at once; the first is the one that stays as it is.

        Every start cools from the best so far, at first from matching to the first network; where
        nothing cools, it starts from matching to another network. One sweep of that matching does:
        noise undoes what more of them find (F of five MLPs and ResNets is the same within what two
        seeds differ by).
        """
        task = "aligning jointly"
        names = list(self.evidence.states)
        first = best = self._near(names[0])
        for attempt in range(restarts):
            if attempt and self.settings.deadline.passed():
                break
            start = task + f", start {attempt + 1}" * (restarts > 1)
            begin = best
            if attempt and not self.cooling:
                begin = self._near(names[attempt % len(names)])
            descent = self.descent(begin.members, "cooling", attempt)
            descent.cool(start, sweeps=self.cooling, noise=_NOISE)
            best = max(best, _descended(descent, start), key=_Found.height)
            del descent
        if best is first:  # cooling has lost ground
            best = _descended(self.descent(first.members, "joint", trace=first.trace), task)
        if best.height() < pairwise_objective(self.evidence.states):  # no worse than as given
            still = {name: self.still() for name in names}
            best = _descended(self.descent(still, "as given"), f"{task}, as given")
        return Solution(anchored(best.members, names[0]), {"joint": best.trace})

    def descent(
        self,
        members: Members,
        *key: int | str,
        anchor: str | None = None,
        trace: Sequence[float] = (),
    ) -> Descent:
        """Return a descent from `members`, its randomness decided by the seed and by `key`."""
        # Keyed by the networks, so that a network's result does not depend on which others run.
        generator = self._generator(*key, *members)
        return Descent(
            self.evidence, members, self.settings, generator=generator, anchor=anchor, trace=trace
        )

    def _starts(self, members: Members, anchor: str, task: str) -> Iterator[Descent]:
        """Yield descents from settled groups and from `members`, then from random members.

        Settling finds what networks have in common, and makes a worse start where that is little.
        It has found something, and comes first, if it is clearly above what one sweep from
        `members` reaches.
        """
        # Every descent holds a network: here, too, there is only one at a time.
        settled = _settled(self.descent(members, 0, anchor=anchor))
        plain = self.descent(members, 1, anchor=anchor, trace=settled.trace[:1])
        plain.descend(task, until=1)
        reached = plain.trace[-1]
        clearly = 0.0 if self.settings.deadline.passed() else _CLEARLY * abs(reached)
        if settled.height() - reached > clearly:  # when time is over, the higher one
            del plain
            yield self.descent(settled.members, 0, anchor=anchor, trace=settled.trace)
            yield self.descent(members, 1, anchor=anchor, trace=settled.trace[:1])
        else:
            yield plain
            del plain
            yield self.descent(settled.members, 0, anchor=anchor, trace=settled.trace)
        for attempt in itertools.count(2):
            generator = self._generator("start", attempt, *members)
            yield self.descent(
                {n: m if n == anchor else self._random(generator) for n, m in members.items()},
                attempt,
                anchor=anchor,
            )

    def _near(self, anchor: str) -> _Found:
        """Return where one sweep that matches all networks to `anchor` ends."""
        members = self.match_each(anchor, restarts=1, until=1).members
        return _Found(members, [self._objective(members)])

    def _best(
        self, starts: Iterator[Descent], task: str, restarts: int, until: int | None
    ) -> _Found:
        """Return the highest of the descents from the first of `starts`."""
        best: _Found | None = None
        for attempt in range(restarts):
            start = task if restarts == 1 else f"{task}, start {attempt + 1}"
            found = _descended(next(starts), start, until)
            best = found if best is None else max(best, found, key=_Found.height)
            if self.settings.deadline.passed():
                break
        assert best is not None
        return best

    def _generator(self, *key: int | str) -> np.random.Generator:
        words = [byte for part in key for byte in f"{part}/".encode()]
        return np.random.default_rng([self.seed, *words])

    def still(self) -> dict[str, Indices]:
        """Return the member that moves nothing."""
        return assemble(self.evidence.spec.groups, {})

    def _objective(self, members: Members) -> float:
        return self.descent(members, "objective").trace[-1]

    def _random(self, generator: np.random.Generator) -> dict[str, Indices]:
        member = self.evidence.spec.random(generator=generator)
        return {group: permutation.indices for group, permutation in member.items()}


@dataclass(frozen=True, slots=True)
class _Found:
    """Where a descent has ended: all that is kept of it."""

    members: dict[str, dict[str, Indices]]
    trace: list[float]

    def height(self) -> float:
        return self.trace[-1]


def _descended(descent: Descent, task: str, until: int | None = None) -> _Found:
    descent.descend(task, until=until)
    return _Found(descent.members, descent.trace)


def _settled(descent: Descent) -> _Found:
    descent.settle()
    return _Found(descent.members, descent.trace)
