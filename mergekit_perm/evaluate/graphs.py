"""Passes as CUDA graphs: kernels of small networks take less time than it takes to launch them."""

from __future__ import annotations

import torch
from torch import nn

# How often a pass is run before it is captured: libraries choose their kernels at first.
_WARM = 3

Captured = tuple[torch.cuda.CUDAGraph, torch.Tensor, torch.Tensor]


class Graphed:
    """The passes of a module on a CUDA device, captured once for every shape of inputs.

    The module's tensors must stay where they are in memory; what they hold may change.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._captured: dict[tuple[torch.Size, tuple[int, ...], torch.dtype], Captured] = {}

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return what the module gives.

        Raises:
            RuntimeError: the pass does what cannot be captured: it waits for the device, say.
        """
        key = inputs.shape, inputs.stride(), inputs.dtype
        if key not in self._captured:
            self._captured[key] = self._capture(inputs)
        graph, given, logits = self._captured[key]
        given.copy_(inputs)
        graph.replay()
        return logits.clone()

    def _capture(self, inputs: torch.Tensor) -> Captured:
        given = inputs.clone()
        device = inputs.device
        aside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        here = torch.cuda.current_stream(device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(device):
            aside.wait_stream(here)
            with torch.cuda.stream(aside):
                for _ in range(_WARM):
                    self._module(given)
            here.wait_stream(aside)
            # Other threads pin the memory of the next batches meanwhile.
            with torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"):
                logits = self._module(given)
        return graph, given, logits
