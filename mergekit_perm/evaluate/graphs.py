"""Passes as CUDA graphs: kernels of small networks take less time than it takes to launch them."""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# How often a pass is run before it is captured: libraries choose their kernels at first.
_WARM = 3

# A process may be at one capture at a time.
_CAPTURING = threading.Lock()

Captured = tuple[torch.cuda.CUDAGraph, torch.Tensor, torch.Tensor]

# What operations are tagged with that wait for the device.
_WAITING = torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape

_COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)

# What takes places in a tensor, or a mask of them.
_BY_PLACES = (
    torch.ops.aten.index,
    torch.ops.aten.index_put,
    torch.ops.aten.index_put_,
    torch.ops.aten._unsafe_index,
    torch.ops.aten._unsafe_index_put,
)


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
        with torch.inference_mode(False):  # so that the first pass, too, may change it in place
            given = inputs.clone()
        device = inputs.device
        aside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        here = torch.cuda.current_stream(device)
        graph = torch.cuda.CUDAGraph()
        # That of now is the current stream again whatever comes.
        with torch.cuda.device(device), torch.cuda.stream(here):
            aside.wait_stream(here)
            with torch.cuda.stream(aside):
                seen = Capturable()  # type: ignore[no-untyped-call]
                # Functions that are made of others are seen as these where inference mode is off.
                with torch.inference_mode(False), torch.no_grad(), seen:
                    self._module(given)
                for _ in range(_WARM - 1):
                    self._module(given)
            here.wait_stream(aside)
            # Other threads pin the memory of the next batches meanwhile.
            capture = torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local")
            with _CAPTURING, capture:
                logits = self._module(given)
        return graph, given, logits


class Capturable(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs what can be captured in a CUDA graph, and raises at what waits for the device.

    A capture that fails midway may leave CUDA's memory and its random numbers as they were within
    it; so one that would is mostly not begun.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run `func`.

        Raises:
            RuntimeError: it depends on what tensors hold, or goes from device to device.
        """
        if _waits(func, args):
            raise RuntimeError(f"{func} waits for the device, so that it cannot be captured")
        result = func(*args, **(kwargs or {}))
        taken, given = _tensors((args, kwargs)), _tensors(result)
        # A number may be on the CPU: it is handed over when a kernel is launched, and attention
        # gives the seeds of a dropout there that it does not do.
        copied = func in _COPIES
        apart = {tensor.device for tensor in taken if tensor.ndim or copied}
        new = {t.device for t in given if t.ndim or copied} - {t.device for t in taken}
        if len(apart) > 1 or (taken and new):
            raise RuntimeError(f"{func} goes to another device, so that it cannot be captured")
        return result


def _waits(func: Any, args: Any) -> bool:
    """Tell whether a function needs to know what tensors on the device hold."""
    if func.overloadpacket in _BY_PLACES:
        # Those of a mask have to be found, but to put one number at all of them.
        one = len(args) > 2 and args[2].numel() == 1 and not (len(args) > 3 and args[3])
        masks = (index.dtype in (torch.bool, torch.uint8) for index in _tensors(args[1]))
        return any(masks) and not one
    return any(tag in func.tags for tag in _WAITING)


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
