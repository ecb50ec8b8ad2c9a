"""Making a network generic, so that a check of its symmetry can be trusted.

A fresh network hides faults: BatchNorm with mean 0 and variance 1, biases of 0 and scales of 1 are
the same under any permutation, and so is an identity matrix. A branch scaled by 1e-6 is as good as
absent, and so are the first layers of a deep network whose running statistics are not those of its
activations: the signal fades from one norm to the next.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from mergekit_perm.derive.exact import clear_caches, without_dropout

# The noise that vectors get, and its share of anything else's own size.
_NOISE = 0.1


def make_generic(module: nn.Module, inputs: torch.Tensor, *, seed: int) -> nn.Module:
    """Turn `module` into float64 in eval mode, in place, with no two channels alike; return it.

    Every parameter gets normal noise: a vector of standard deviation 0.1, anything else a tenth of
    its own size, and as much more as it takes to keep a signal's size: to have entries of size
    n**-0.5, n being the entries per row. Running statistics become nearly those of `inputs`.
    Dropout is off and all parameters require gradients.

    Args:
        module: any network.
        inputs: a float64 batch that it takes.
        seed: of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    module.double().eval()
    without_dropout(module)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.is_floating_point():
                parameter.add_(_noise_for(parameter) * _normal(parameter, generator))
                parameter.requires_grad_(True)
        norms = [part for part in module.modules() if part._buffers.get("running_var") is not None]
        for norm in norms:
            _unsettle(norm, generator)
        settle = partial(_settle, noise=generator)
        hooks = [norm.register_forward_pre_hook(settle) for norm in norms]
        clear_caches(module)
        module(inputs.clone())
        for hook in hooks:
            hook.remove()
    return module


def _noise_for(parameter: torch.Tensor) -> float:
    """Return the standard deviation of the noise that makes `parameter` generic."""
    rows = next((length for length in parameter.shape if length > 1), 1)
    inputs = parameter.numel() / rows
    if inputs <= 1:
        return _NOISE
    size = float(parameter.square().mean())
    return math.sqrt(max(1 / inputs - size, _NOISE**2 * size))


def _unsettle(norm: nn.Module, generator: torch.Generator) -> None:
    """Make running statistics generic, and whatever else a frozen norm keeps in buffers."""
    for name, buffer in norm.named_buffers(recurse=False):
        if name == "running_var":
            buffer.copy_(_spread(buffer, generator))
        elif buffer.is_floating_point():
            buffer.add_(_NOISE * _normal(buffer, generator))


def _settle(norm: nn.Module, inputs: Sequence[torch.Tensor], *, noise: torch.Generator) -> None:
    """Set running statistics to nearly those of what the norm is given, (batch, channels, ...).

    Variances are evened out, for dividing by the deviation of a channel that is all but dead would
    blow up the signal.
    """
    given, buffers = inputs[0], dict(norm.named_buffers(recurse=False))
    over = [dim for dim in range(given.ndim) if dim != 1]
    variance, mean = torch.var_mean(given, dim=over, correction=0)
    variance = (variance + variance.mean()) / 2 * _spread(variance, noise)
    buffers["running_var"].copy_(variance)
    if "running_mean" in buffers:
        buffers["running_mean"].copy_(mean + _NOISE * variance.sqrt() * _normal(mean, noise))


def _spread(like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return 0.75 + 0.5 * torch.rand(like.shape, generator=generator, dtype=like.dtype)


def _normal(like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(like.shape, generator=generator, dtype=like.dtype)
