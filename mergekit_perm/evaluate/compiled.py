"""Passes compiled by `torch.compile`: several small functions become one kernel."""

from __future__ import annotations

import torch
from torch import nn


class Compiled:
    """The passes of a module, compiled for inputs of the shape of the first ones.

    Others (a last batch, which is smaller) are run as they are: it takes long to compile. What the
    module's tensors hold may change; the compiled code is given them each time.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._compiled = torch.compile(module, dynamic=False)
        self._shape: torch.Size | None = None

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return what the module gives.

        Raises:
            Exception: of many kinds, where it cannot be compiled.
        """
        self._shape = self._shape or inputs.shape
        passes = self._compiled if inputs.shape == self._shape else self._module
        logits: torch.Tensor = passes(inputs)
        return logits
