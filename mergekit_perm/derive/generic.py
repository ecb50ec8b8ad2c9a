"""Making a network generic, so that a check of its symmetry can be trusted.

A fresh network hides faults: BatchNorm with mean 0 and variance 1, biases of 0 and scales of 1 are
the same under any permutation, and so is an identity matrix. A branch scaled by 1e-6 is as good as
absent, and so are the first layers of a deep network whose running statistics are not those of its
activations: the signal fades from one norm to the next.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from mergekit_perm.derive.exact import clear_caches, without_dropout
from mergekit_perm.derive.inputs import Inputs, output_of, wide
from mergekit_perm.derive.settling import settling, spread

# The noise that scales get, and its share of a matrix's own size.
_NOISE = 0.1

# The noise that biases get. More would drown what tells tokens apart, and attention with it.
_SHIFT = 0.03

# From how many entries on a tensor is no longer a vector with an entry per channel.
_MANY = 100_000


def make_generic(module: nn.Module, inputs: Inputs, *, seed: int) -> nn.Module:
    """Turn `module` into float64 in eval mode, in place, with no two channels alike; return it.

    Every parameter gets normal noise. A vector of equal entries, a scale, gets a standard deviation
    of 0.1; any other and one of zeros, a bias, 0.03; anything else a tenth of its own size, and as
    much more as it takes to keep a signal's size: to have entries of size n**-0.5, n being the
    entries per row. A single number goes away from zero by 0.1: it may scale a whole branch, and
    noise near zero would leave that as good as absent. Running statistics become nearly those of
    `inputs`. Dropout is off and all parameters require gradients.

    Args:
        module: any network.
        inputs: what it takes, in float64.
        seed: of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = wide(tensor.data)
    module.eval()
    without_dropout(module)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.is_floating_point() or parameter.is_complex():
                noise = _normal(parameter, generator)
                if parameter.numel() == 1:
                    noise = torch.sgn(torch.where(parameter == 0, noise, parameter))
                parameter.add_(noise, alpha=_noise_for(parameter))
                parameter.requires_grad_(True)
        norms = [part for part in module.modules() if part._buffers.get("running_var") is not None]
        for norm in norms:
            _unsettle(norm, generator)
        clear_caches(module)
        with settling(norms, generator):
            output_of(module, inputs)
    return module


def _noise_for(parameter: torch.Tensor) -> float:
    """Return the standard deviation of the noise that makes `parameter` generic."""
    if parameter.numel() == 1:
        return _NOISE
    rows = next((length for length in parameter.shape if length > 1), 1)
    inputs = parameter.numel() / rows
    if inputs <= 1:
        return _NOISE if _is_scale(parameter.flatten()) else _SHIFT
    size = float(torch.linalg.vector_norm(parameter)) ** 2 / parameter.numel()
    return math.sqrt(max(1 / inputs - size, _NOISE**2 * size))


def _is_scale(vector: torch.Tensor) -> bool:
    return bool(len(vector)) and bool((vector == vector[0]).all()) and bool(vector[0] != 0)


def _unsettle(norm: nn.Module, generator: torch.Generator) -> None:
    """Make running statistics generic, and whatever else a frozen norm keeps in buffers."""
    for name, buffer in norm.named_buffers(recurse=False):
        if name == "running_var":
            buffer.copy_(spread(buffer, generator))
        elif buffer.is_floating_point():
            buffer.add_(_NOISE * _normal(buffer, generator))


def _normal(like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    # Numbers in single precision are drawn several times as fast, but there are few of them: among
    # some thousand, two are the same.
    many = like.numel() > _MANY and not like.is_complex()
    drawn = torch.randn(
        like.shape, generator=generator, dtype=torch.float32 if many else like.dtype
    )
    return drawn.to(like.dtype)
