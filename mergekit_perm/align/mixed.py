"""Mixed alignment: weights and activations together, then guided by the loss of mixtures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from mergekit_perm.align.activations import of_activations
from mergekit_perm.align.balance import balanced
from mergekit_perm.align.deadline import Deadline
from mergekit_perm.align.descent import Members, Settings, anchored
from mergekit_perm.align.evidence import Evidence, matched_tensors, of_weights
from mergekit_perm.align.examples import Examples
from mergekit_perm.align.exchanges import promising, trials
from mergekit_perm.align.guidance import GuidedDescent
from mergekit_perm.align.incumbent import Incumbent
from mergekit_perm.align.mixtures import gradient, mixture, points
from mergekit_perm.align.options import check_options
from mergekit_perm.align.rows import rows_by_group
from mergekit_perm.align.sites import find_sites
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
    exchanges: int = 500,
    ratio: float = 1.0,
    count: int = 2048,
    batch_size: int = 256,
    rows: int = 2048,
    max_sweeps: int = 100,
    max_seconds: float | None = None,
    device: torch.device | None = None,
    progress: Progress = silent,
) -> Solution:
    """Return one member per network, the best of several kinds of evidence by the loss of mixtures.

    Every start aligns activations, and from there weights, and weights and activations together.
    The best of these by the loss of mixtures is then guided by it: sweeps that match each network
    to the others, and against a running sum of gradients of the loss of mixtures, one sweep for a
    gradient. From the best place met on the way, exchanges of two elements of a group go on, those
    first that promise most by the gradient at the highest mixtures: at first one in every network
    at once, and fewer where that does not lower the loss. (Ours; straight-through
    estimation, Git Re-Basin, arXiv 2209.04836, Algorithm 2, is where matching against gradients
    comes from.)

    Without examples it is `weight_matching` with twice as many starts, and looks at weights alone.

    Args:
        states: at least two state dicts that bound `spec` fits, by name.
        spec: a bound permutation spec.
        reference: the network that stays as it is, each of the others being aligned to it alone;
            or "joint": all are aligned at once, and the first stays as it is.
        examples: training examples with labels; None to look at weights alone.
        seed: of examples, positions, batches and the order of visits; equal seeds, equal results.
        restarts: how many starts, of which the best wins.
        steps: gradients that guide each start; 0 for none.
        strength: how far a gradient pushes, in terms of the size of the weights.
        exchanges: how often exchanges of two elements are tried in the end; 0 for none.
        ratio: how much similarities of activations count against those of weights.
        count: examples by whose loss the best is chosen, at most. All run as one batch; where that
            keeps more than 4 GiB for its gradient, `batch_size` at a time.
        batch_size: examples for a gradient, and at a time for activations.
        rows: about how many examples and positions of activations are compared, and at least one
            position of every example, other ones of each.
        max_sweeps: stop a descent after so many sweeps at the latest.
        max_seconds: stop after so many seconds; the best so far is kept. To a named reference every
            network has an equal part of them.
        device: where weights alone are compared; with examples it is theirs.
        progress: told after every sweep and every gradient.

    The loss is measured at the barycentre, at the midpoints of a ring of pairs and halfway from the
    barycentre to every network, as the excess over the networks' own, with BatchNorm re-estimated.
    The networks as given are a candidate, too: they never end worse than they were, by that loss.
    The traces are the lowest excess so far.

    Memory, on top of the networks, in float32 and where it computes: for each, two copies of its
    weights and three of its activations, as `activation_matching` keeps them jointly; one of either
    in float64, and a few of weights, for all together. Networks of less precision are there once
    more as they are mixed. To a named reference that is of two networks, however many there are.
    Besides, what a pass keeps for the gradient of its loss: of all `count` examples, up to 4 GiB,
    or else of `batch_size`.

    Raises:
        AlignmentError: an option out of range.
    """
    check_options(restarts=restarts, steps=steps, seed=seed, count=count, rows=rows, ratio=ratio)
    check_options(batch_size=batch_size, max_sweeps=max_sweeps, strength=strength)
    check_options(exchanges=exchanges, max_seconds=max_seconds)
    settings = Settings(max_sweeps=max_sweeps, deadline=Deadline(max_seconds), progress=progress)
    if examples is None:
        search = Search(of_weights(states, spec, device=device), settings, seed)
        return search.match(reference, restarts=2 * restarts)
    weights = of_weights(states, spec, device=examples.device)
    sites = find_sites(spec, examples, next(iter(states.values())))

    def shown(some: Mapping[str, State], deadline: Deadline) -> Evidence:
        return of_activations(
            some, spec, examples, sites, count=max(count, rows), batch_size=batch_size, rows=rows,
            seed=seed, deadline=deadline, progress=progress,
        )  # fmt: skip

    guide = _Guide(steps, strength, batch_size, exchanges)
    tensors = matched_tensors(spec, next(iter(states.values())))
    choice = _Choice(spec, examples, settings, seed, ratio, count, restarts, guide, tensors)
    if reference == "joint":
        members, trace = choice.best(states, weights, shown(states, settings.deadline))
        return Solution(anchored(members, next(iter(states))), {"joint": trace}, saw="labels")
    found = Solution({reference: Search(weights, settings, seed).still()}, {}, saw="labels")
    others = [name for name in states if name != reference]
    for place, name in enumerate(others):
        deadline = settings.deadline.share(len(others) - place)
        pair = {each: states[each] for each in (reference, name)}
        own = replace(choice, settings=replace(settings, deadline=deadline))
        members, trace = own.best(pair, _of(pair, weights), shown(pair, deadline))
        found.members[name], found.traces[name] = dict(members[name]), trace
    return replace(found, members={name: found.members[name] for name in states})


@dataclass(frozen=True, slots=True)
class _Guide:
    """How gradients guide: how many, how strong, of how many examples; then how many exchanges."""

    steps: int
    strength: float
    batch_size: int
    exchanges: int


@dataclass(frozen=True, slots=True)
class _Choice:
    """What all starts share."""

    spec: PermutationSpec
    examples: Examples
    settings: Settings
    seed: int
    ratio: float
    count: int
    restarts: int
    guide: _Guide
    tensors: list[str]

    def best(
        self, states: Mapping[str, State], weights: Evidence, shown: Evidence
    ) -> tuple[Members, list[float]]:
        """Return members of the networks and the lowest excess after every step."""
        # Two networks are aligned by moving one of them.
        anchor = next(iter(states)) if len(states) == 2 else None
        incumbent = Incumbent(
            self.spec, self.examples, states, weights.states, count=self.count, seed=self.seed,
            batch_size=self.guide.batch_size,
        )  # fmt: skip
        still = Search(weights, self.settings, self.seed).still()
        incumbent.consider(dict.fromkeys(states, still), incumbent.states)
        both = balanced(weights, shown, self.ratio)
        for start in range(self.restarts):
            if self.settings.deadline.passed():
                break
            begun = incumbent.fresh()
            for members in self._candidates(weights, shown, both, start, anchor):
                begun.consider(members, begun.permuted(members))
            self._follow(begun, both, start, anchor)
            incumbent.take(begun)
        if not self.settings.deadline.passed():
            self._exchange(incumbent, anchor)
        return incumbent.members, incumbent.trace

    def _candidates(
        self, weights: Evidence, shown: Evidence, both: Evidence, start: int, anchor: str | None
    ) -> Iterator[Members]:
        """Yield where descents on either kind of evidence and on both end."""
        by_weight = Search(weights, self.settings, self.seed + start)
        by_response = Search(shown, self.settings, self.seed + start, cooling=0)
        yield by_weight.match(anchor or "joint", restarts=1).members
        if self.settings.deadline.passed():
            return
        responses = by_response.match(anchor or "joint", restarts=1).members
        yield responses
        for evidence in (weights, both):
            yield self._descended(evidence, responses, start, anchor)

    def _descended(
        self, evidence: Evidence, members: Members, start: int, anchor: str | None
    ) -> Members:
        """Return where a descent from `members` ends: all that is kept of it."""
        search = Search(evidence, self.settings, self.seed + start)
        descent = search.descent(members, start, anchor=anchor)
        descent.descend("weights and activations")
        return descent.members

    def _follow(
        self, incumbent: Incumbent, evidence: Evidence, start: int, anchor: str | None
    ) -> None:
        """Go on from the incumbent, guided by gradients; the best place met becomes it."""
        generator = np.random.default_rng([self.seed, start])
        descent = GuidedDescent(
            evidence, incumbent.members, self.settings, generator=generator, anchor=anchor
        )
        batches = self._batches(generator)
        permuted = incumbent.permuted(descent.members, descent.current)
        task = f"guided by the loss, start {start + 1}"
        for step in range(self.guide.steps):
            self.settings.progress(task, step, self.guide.steps)
            if self.settings.deadline.passed():
                break
            self._push(descent, permuted, step, next(batches))
            del permuted  # they share tensors with the descent, which moves them in place
            descent.sweep()
            permuted = incumbent.permuted(descent.members, descent.current)
            incumbent.consider(descent.members, permuted)
        self.settings.progress(task, self.guide.steps, self.guide.steps)

    def _exchange(self, incumbent: Incumbent, anchor: str | None) -> None:
        """Exchange two elements of a group at a time, wherever that lowers the excess."""
        rows = rows_by_group(self.spec, self.tensors)
        tried, most, task = 0, self.guide.exchanges, "exchanging"
        # Looking at mixtures costs more the more networks there are, so more move for one look.
        together = len(incumbent.states)
        gained = most > 0
        if gained:  # let `excess` have seen the incumbent last, as it has after every gain
            permuted = incumbent.permuted(incumbent.members)
            incumbent.excess(list(permuted.values()))
        while gained and tried < most:
            gained = False
            slopes = incumbent.excess.gradients(permuted, self.tensors)
            slopes = {name: slope for name, slope in slopes.items() if name != anchor}
            found = promising(self.spec.groups, rows, permuted, slopes, most=most - tried)
            del slopes
            for trial in trials(found, together):
                self.settings.progress(task, tried, most)
                if self.settings.deadline.passed():
                    return
                if tried == most:
                    break
                tried, together = tried + 1, len(trial)
                if after := incumbent.exchange(trial, permuted):
                    gained, permuted = True, after
                    break
        self.settings.progress(task, most, most)

    def _push(
        self,
        descent: GuidedDescent,
        permuted: Mapping[str, State],
        step: int,
        batch: tuple[torch.Tensor, torch.Tensor],
    ) -> None:
        """Push every network against the gradient at the barycentre, or at another mixture."""
        mixtures = points(len(permuted))
        # Every other time the barycentre, which is the farthest from all networks.
        place = int(descent.generator.integers(len(mixtures))) if step % 2 else 0
        at = mixture(list(permuted.values()), mixtures[place])
        tensors = [t for t in self.tensors if t in descent.current[descent.moving[0]]]
        _, slope = gradient(self.examples, at, tensors, *batch)
        down = {name: -value for name, value in slope.items()}
        for name, share in zip(permuted, mixtures[place], strict=True):
            if name in descent.pull and share:
                descent.push(name, down, self.guide.strength * share * len(permuted))

    def _batches(
        self, generator: np.random.Generator
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield random batches for ever, each epoch in another order."""
        split = self.examples.split
        size = min(self.guide.batch_size, len(split))
        while True:
            order = torch.from_numpy(generator.permutation(len(split)))
            order = order[: len(split) // size * size]
            yield from split.batches(size, device=self.examples.device, order=order)


def _of(states: Mapping[str, State], evidence: Evidence) -> Evidence:
    """Return the evidence of some of its networks."""
    return replace(evidence, states={name: evidence.states[name] for name in states})
