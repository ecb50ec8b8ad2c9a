"""Examples that a data-aware solver runs the networks on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from mergekit_perm.data import Split
from mergekit_perm.errors import AlignmentError


@dataclass(frozen=True, slots=True)
class Examples:
    """A split, and the module that networks are run in.

    Attributes:
        module: a network of the architecture; its own weights are never used nor changed.
        split: the examples; a solver takes labels from it only if it says so.
        device: where to compute.
        layout: of inputs in memory, as `data.layout.quickest_layout` finds it.
    """

    module: nn.Module
    split: Split
    device: torch.device
    layout: torch.memory_format = torch.contiguous_format

    def batches(
        self, count: int, batch_size: int, *, seed: int = 0
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield inputs and labels of `count` examples drawn without repetition, in batches.

        All examples, in the order of the split, where there are no more than `count`.
        """
        order = None
        if count < len(self.split):
            chosen = np.random.default_rng(seed).permutation(len(self.split))[:count]
            order = torch.from_numpy(np.sort(chosen))
        return iter(self.split.batches(batch_size, device=self.device, order=order))

    def run(self, state: Mapping[str, torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
        """Return what the network with the weights `state` gives for `inputs`, differentiably.

        The module runs in the mode that it is in; `state` is on `device`. In train mode BatchNorm
        writes its running statistics into the tensors of `state`.
        """
        placed = inputs.to(memory_format=self.layout)
        output: torch.Tensor = torch.func.functional_call(self.module, dict(state), (placed,))
        return output


def needed(examples: Examples | None, method: str) -> Examples:
    """Return `examples`, which `method` cannot do without.

    Raises:
        AlignmentError: there are none.
    """
    if examples is None:
        raise AlignmentError(f"{method} looks at data: give `data`, or a method that needs none")
    return examples
