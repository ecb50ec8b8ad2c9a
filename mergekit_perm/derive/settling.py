"""Giving norms the statistics of what passes through them: signals neither fade nor blow up.

Norms with running statistics are settled one after the other in a single pass, each on what the
settled ones before it give.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

# How far, in deviations, means are off.
_OFFSET = 0.1

# Which argument of an affine function is its bias.
_BIAS = {"batch_norm": 4, "linear": 2, "conv2d": 2}

# What is zero on one side, and what is merely flat there.
_RECTIFIERS = {"relu", "relu6"}
_ACTIVATIONS = {"celu", "elu", "gelu", "hardswish", "hardtanh"}
_ACTIVATIONS |= {"leaky_relu", "mish", "selu", "silu"}


@contextmanager
def settling(norms: Sequence[nn.Module], generator: torch.Generator) -> Iterator[None]:
    """Within the block, running statistics become nearly those of what each of `norms` is given.

    Biases right before a ReLU, and those of batch norms before any activation, grow by a deviation,
    too. Most units are then on, whatever the example. In a deep network without shortcuts, half of
    them off would mean chaos: each layer multiplies rounding by about 1.2 (arXiv 1902.08129).
    """
    settle = partial(_settle, generator=generator)
    hooks = [norm.register_forward_pre_hook(settle) for norm in norms]
    try:
        with _Lifting():
            yield
    finally:
        for hook in hooks:
            hook.remove()


def spread(like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return factors drawn from [0.75, 1.25], in the shape of `like`."""
    return 0.75 + 0.5 * torch.rand(like.shape, generator=generator, dtype=like.dtype)


def _settle(norm: nn.Module, inputs: Sequence[Any], *, generator: torch.Generator) -> None:
    """Set running statistics for inputs of shape (batch, channels, ...).

    Variances are evened out, for dividing by the deviation of a channel that is all but dead would
    blow up the signal.
    """
    known = norm.get_buffer("running_var")
    if not inputs or inputs[0].ndim < 2 or inputs[0].shape[1] != len(known):
        return
    over = [dim for dim in range(inputs[0].ndim) if dim != 1]
    variance, mean = torch.var_mean(inputs[0], dim=over, correction=0)
    known.copy_((variance + variance.mean()) / 2 * spread(variance, generator))
    if norm._buffers.get("running_mean") is not None:
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype)
        norm.get_buffer("running_mean").copy_(mean + _OFFSET * known.sqrt() * noise)


class _Lifting(TorchFunctionMode):
    """Raises biases where what they are added to goes into an activation."""

    def __init__(self) -> None:
        super().__init__()
        self._last: tuple[str, torch.Tensor, torch.Tensor] | None = None
        self._raised: set[int] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call `func`, and before it, if it is an activation, raise what it is given."""
        name = getattr(func, "__name__", "").rstrip("_")
        if args and (name in _RECTIFIERS or name in _ACTIVATIONS):
            self._raise(args[0], rectified=name in _RECTIFIERS)
        result = func(*args, **(kwargs or {}))
        if name in _BIAS:
            place = _BIAS[name]
            bias = (kwargs or {}).get("bias", args[place] if len(args) > place else None)
            self._last = None if bias is None else (name, result, bias)
        return result

    def _raise(self, given: torch.Tensor, *, rectified: bool) -> None:
        if self._last is None or given is not self._last[1]:
            return
        name, outputs, bias = self._last
        if id(bias) not in self._raised and (rectified or name == "batch_norm"):
            self._raised.add(id(bias))
            deviation = float(outputs.std(correction=0))
            bias.add_(deviation)
            outputs.add_(deviation)
