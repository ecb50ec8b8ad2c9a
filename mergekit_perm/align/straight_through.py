"""Straight-through estimation: latent weights learn where to be matched to, from labels.

Every network but the anchor has latent weights. They are what it is matched to, and the loss of a
mixture reaches them as if they were the permuted network itself (Git Re-Basin, arXiv 2209.04836,
Algorithm 2; for more than two networks STE-MM: Ito, Yamada, Kumagai, ICML 2025, PMLR
267:26611-26626).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import torch

from mergekit_perm.align.deadline import Deadline
from mergekit_perm.align.descent import Descent, Settings
from mergekit_perm.align.evidence import Evidence, of_weights
from mergekit_perm.align.examples import Examples, needed
from mergekit_perm.align.mixtures import Excess, gradient, mixture
from mergekit_perm.align.options import check_choice, check_options
from mergekit_perm.align.solution import Solution
from mergekit_perm.align.starts import Search
from mergekit_perm.align.views import State
from mergekit_perm.permspec import PermutationSpec
from mergekit_perm.progress import Progress, silent

Mixtures = Literal["random", "equal"]

# What latent weights are called beside the network that is matched to them; no network is.
_LATENT = "joint"


def straight_through(
    states: Mapping[str, State],
    spec: PermutationSpec,
    *,
    reference: str = "joint",
    examples: Examples | None = None,
    seed: int = 0,
    steps: int = 200,
    batch_size: int = 256,
    learning_rate: float = 1e-2,
    mixtures: Mixtures = "random",
    count: int = 1024,
    max_seconds: float | None = None,
    progress: Progress = silent,
) -> Solution:
    """Return one member per network, learned from the loss of mixtures by straight-through steps.

    The latents of every network but the anchor start at the anchor's weights. Each step matches
    every network to its latents by weight matching, from where it stands, and takes a step of Adam
    on the latents down the cross-entropy of a mixture of all networks as permuted (STE, Git
    Re-Basin, arXiv 2209.04836, Algorithm 2; for more than two networks STE-MM, Ito, Yamada,
    Kumagai, ICML 2025, PMLR 267:26611-26626). The anchor stays as it is.

    Args:
        states: at least two state dicts that bound `spec` fits, by name.
        spec: a bound permutation spec.
        reference: the anchor, or "joint" for the first network. Either way all networks are
            mixed with one another; none is matched to the reference on its own.
        examples: training examples with labels.
        seed: of examples, batches, mixtures and the order of visits; equal seeds, equal results.
        steps: how many steps of Adam; after 0, it is weight matching to the anchor, or the networks
            as given where they lie better.
        batch_size: examples for a step, drawn at random, and at a time elsewhere where they are
            large.
        learning_rate: of Adam. That of the code of STE-MM, 0.001, asks for more steps.
        mixtures: "random": at every step another one, u / sum(u) with u uniform in [0, 1);
            "equal": always the barycentre.
        count: examples by whose loss the best members are chosen, at most; always the same ones.
        max_seconds: take no further step after this time; None for no limit.
        progress: told after every step.

    The candidates are the networks as given, weight matching to the anchor, and what every step
    gives. The result is the best of them all: the one whose barycentre, midpoints of a ring of
    pairs and points halfway from the barycentre to every network, on the fixed examples, exceed the
    losses of the networks themselves by least. The trace is the lowest excess so far.

    BatchNorm normalises by the statistics of the batch; running statistics are moved, and neither
    matched nor learned. A loss that is not finite ends the steps.

    Memory, on top of the networks: for each, four copies of its weights in float32 (as permuted,
    its latents and their two moments), and a few for all together; besides, what a pass over
    `batch_size` examples keeps for the gradient of its loss, or one over `count` without it.

    Raises:
        AlignmentError: no examples, or an option out of range.
    """
    examples = needed(examples, "straight_through")
    check_choice("mixtures", mixtures, get_args(Mixtures))
    check_options(seed=seed, steps=steps, batch_size=batch_size, count=count)
    check_options(learning_rate=learning_rate, max_seconds=max_seconds)
    settings = Settings(deadline=Deadline(max_seconds))
    near = {
        name: {tensor: value.detach().to(examples.device) for tensor, value in state.items()}
        for name, state in states.items()
    }
    anchor = next(iter(states)) if reference == "joint" else reference
    learner = _Learner(
        of_weights(near, spec), near, anchor, settings, examples, count, batch_size, seed
    )
    optimizers = {
        name: torch.optim.Adam(latents.values(), lr=learning_rate)
        for name, latents in learner.latents.items()
    }
    for step, (inputs, labels) in enumerate(_batches(examples, batch_size, steps, seed)):
        progress("straight through", step, steps)
        if settings.deadline.passed():
            break
        shares = learner.shares(mixtures)
        value, slope = learner.gradient(shares, inputs, labels)
        if not value.isfinite():
            break
        for name, optimizer in optimizers.items():
            learner.descend(name, slope, shares[name], optimizer)
        del slope
        learner.match()
    progress("straight through", steps, steps)
    return Solution(learner.best, {"joint": learner.trace}, saw="labels")


class _Learner:
    """The networks as they stand, their latents, and the best members so far.

    Attributes:
        members: by network, where it stands.
        best: the members of the lowest excess.
        trace: the lowest excess as given, at the start and after every match.
    """

    def __init__(
        self,
        evidence: Evidence,
        states: Mapping[str, State],
        anchor: str,
        settings: Settings,
        examples: Examples,
        count: int,
        batch_size: int,
        seed: int,
    ) -> None:
        """Match all networks to `anchor`, unless they lie better; latents start at its weights."""
        self.evidence, self.states, self.anchor = evidence, states, anchor
        self.settings = settings
        self.generator = np.random.default_rng(seed)
        self.excess = Excess(
            examples, list(states.values()), count=count, batch_size=batch_size, seed=seed
        )
        first = evidence.states[anchor]
        self.latents = {
            name: {tensor: value.clone() for tensor, value in first.items()}
            for name in states
            if name != anchor
        }
        search = Search(evidence, settings, seed)
        self.best = dict.fromkeys(states, search.still())
        self.trace = [self.excess(list(states.values()))]
        self.members = search.match(anchor, restarts=1).members
        self.permuted = {n: self._permuted(n) for n in states}
        self._consider()

    def match(self) -> None:
        """Match every network to its latents, from where it stands, and keep the best members."""
        moved = [self._match(name) for name in self.latents]
        if any(moved):
            self._consider()
        else:
            self.trace.append(self.trace[-1])

    def _consider(self) -> None:
        """Keep the members as they stand if mixtures are better."""
        lowest = self.trace[-1]
        excess = self.excess(list(self.permuted.values()), limit=lowest)
        if excess < lowest:
            lowest, self.best = excess, dict(self.members)
        self.trace.append(lowest)

    def shares(self, mixtures: Mixtures) -> dict[str, float]:
        """Return how much of every network is in a mixture."""
        count = len(self.states)
        drawn = self.generator.random(count) if mixtures == "random" else np.ones(count)
        return dict(zip(self.states, (drawn / drawn.sum()).tolist(), strict=True))

    def gradient(
        self, shares: Mapping[str, float], inputs: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, State]:
        """Return the loss of a mixture of the networks as permuted, and its gradient."""
        mixed = mixture(list(self.permuted.values()), tuple(shares.values()))
        tensors = list(self.evidence.states[self.anchor])
        return gradient(self.excess.examples, mixed, tensors, inputs, labels)

    def descend(
        self, name: str, slope: State, share: float, optimizer: torch.optim.Optimizer
    ) -> None:
        """Take a step of the latents of one network, whose `share` of a mixture has that `slope`.

        The slope reaches them as if they were the permuted network.
        """
        for tensor, value in slope.items():
            self.latents[name][tensor].grad = value * share
        optimizer.step()
        optimizer.zero_grad()

    def _match(self, name: str) -> bool:
        """Match one network to its latents; tell whether it has moved."""
        pair = {_LATENT: self.latents[name], name: self.evidence.states[name]}
        descent = Descent(
            replace(self.evidence, states=pair),
            {_LATENT: self.members[self.anchor], name: self.members[name]},
            self.settings,
            generator=self.generator,
            anchor=_LATENT,
        )
        descent.descend()
        if descent.trace[-1] == descent.trace[0]:
            return False
        self.members[name] = descent.members[name]
        self.permuted[name] = self._permuted(name)
        return True

    def _permuted(self, name: str) -> dict[str, torch.Tensor]:
        return self.evidence.spec.act(self.members[name], self.states[name])


def _batches(
    examples: Examples, batch_size: int, steps: int, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield `steps` batches, each drawn without repetition."""
    size = min(batch_size, len(examples.split))
    generator = np.random.default_rng([seed, 1])
    for _ in range(steps):
        yield next(examples.batches(size, size, seed=int(generator.integers(2**31))))
