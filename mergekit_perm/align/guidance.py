"""Descent guided by the loss: matching to the other networks, and against the gradient of mixtures.

The loss of a mixture falls, to first order, where the inner product of a permuted network with the
gradient falls. So what a network is matched to is, besides the other networks, minus a running sum
of gradients; each sweep is followed by a gradient where the sweep has led. Straight-through
estimation (Git Re-Basin, arXiv 2209.04836, Algorithm 2) has the same two parts, the latent weights
it matches to starting at one network.
"""

from __future__ import annotations

import numpy as np
import torch

from mergekit_perm.align.descent import Descent, Members, Settings
from mergekit_perm.align.evidence import Evidence
from mergekit_perm.align.views import View


class GuidedDescent(Descent):
    """A descent in which something is added to what each network is matched to.

    Attributes:
        pull: by network and tensor, what is added.
        decay: what is left of it at every new push.
    """

    def __init__(
        self,
        evidence: Evidence,
        members: Members,
        settings: Settings,
        *,
        generator: np.random.Generator,
        anchor: str | None = None,
        decay: float = 0.97,
    ) -> None:
        """Start from `members` without any pull."""
        super().__init__(evidence, members, settings, generator=generator, anchor=anchor)
        self.decay = decay
        self.pull: dict[str, dict[str, torch.Tensor]] = {name: {} for name in self.moving}

    def push(self, name: str, direction: dict[str, torch.Tensor], strength: float) -> None:
        """Add `direction`, scaled to `strength` times the size of the network's own tensors."""
        pull = self.pull[name]
        for tensor, value in direction.items():
            own, size = self.current[name][tensor], float(value.norm()) or 1.0
            step, share = value.to(own.dtype), strength * float(own.norm()) / size
            if tensor in pull:
                pull[tensor].mul_(self.decay).add_(step, alpha=share)
            else:
                pull[tensor] = step * share

    def sweep(self) -> None:
        """Match every group of every network once."""
        for name, view in self._visits():
            if not self.settings.deadline.passed():
                self.match(name, view)

    def _target(self, name: str, tensor: str) -> torch.Tensor:
        target = super()._target(name, tensor)
        pull = self.pull[name].get(tensor)
        return target if pull is None else target + pull

    def _may_gain(self, _name: str, _view: View) -> bool:
        return True  # the pull has changed

    def _keeper(self, _name: str, _view: View) -> None:
        return None  # so has the similarity
