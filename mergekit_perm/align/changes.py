"""What a step changes in a tensor: where only few of a group's elements move, little."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mergekit_perm import tensor_action
from mergekit_perm.axes import Axis
from mergekit_perm.groups import Groups
from mergekit_perm.members import Member

# The share of a tensor's places from which on picking out those that change does not pay.
_MOST = 0.9


@dataclass(frozen=True, slots=True)
class Change:
    """A tensor before and after a step, where they may differ.

    Attributes:
        dim: along which axis they do so at `places` only.
        places: coordinates on that axis; None for all of it.
        before: the tensor at these places.
        after: the same after the step.
    """

    dim: int
    places: torch.Tensor | None
    before: torch.Tensor
    after: torch.Tensor

    def part(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return another tensor of the same shape at these places."""
        return tensor if self.places is None else tensor.index_select(self.dim, self.places)

    def spread(self, part: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Return a tensor as large as `like` that is `part` at these places, and 0 elsewhere."""
        if self.places is None:
            return part
        return torch.zeros_like(like).index_copy_(self.dim, self.places, part)

    def made(self, tensor: torch.Tensor, *, in_place: bool) -> torch.Tensor:
        """Return `tensor`, which is as it was before, as it is after the step."""
        if self.places is None:
            return self.after
        own = tensor if in_place else tensor.clone()
        return own.index_copy_(self.dim, self.places, self.after)

    def add_to(self, total: torch.Tensor) -> None:
        """Let `total`, a sum that the tensor is part of, follow; each is rounded on its own."""
        if self.places is None:
            total.add_(self.after).sub_(self.before)
        else:
            after, before = self.after.to(total.dtype), self.before.to(total.dtype)
            total.index_add_(self.dim, self.places, after)
            total.index_add_(self.dim, self.places, before, alpha=-1)


def change(tensor: torch.Tensor, axes: Sequence[Axis], groups: Groups, step: Member) -> Change:
    """Return what `step` changes in `tensor`, which has these `axes`."""
    moves = tensor_action.sources(axes, groups, step)
    if len(moves) == 1:
        dim, by, sources = moves[0]
        places = np.flatnonzero(sources != np.arange(len(sources))) if by < 0 else None
        if places is not None and len(places) < _MOST * len(sources):
            to, of = (torch.from_numpy(x).to(tensor.device) for x in (places, sources[places]))
            return Change(dim, to, tensor.index_select(dim, to), tensor.index_select(dim, of))
    return Change(0, None, tensor, tensor_action.act(tensor, axes, groups, step))
