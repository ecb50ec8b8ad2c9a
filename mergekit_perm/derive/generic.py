"""Making a network generic and exact, so that a check of its symmetry can be trusted.

A fresh network hides faults: BatchNorm with mean 0 and variance 1, biases of 0 and scales of 1 are
the same under any permutation. And casts to float32 inside a network drown the difference between
right and wrong in rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import nn

# Parameters whose entries differ by less than this are taken for constants.
_CONSTANT = 1e-3


def make_generic(module: nn.Module, *, seed: int) -> nn.Module:
    """Turn `module` into float64 in eval mode, in place, with no two channels alike; return it.

    Running variances become uniform on [0.75, 1.25]; running means and every parameter that is a
    vector or constant get normal noise of standard deviation 0.1.
    """
    generator = torch.Generator().manual_seed(seed)
    module.double().eval()
    with torch.no_grad():
        for name, buffer in module.named_buffers():
            if name.endswith("running_var"):
                buffer.copy_(0.75 + 0.5 * torch.rand(buffer.shape, generator=generator))
            elif name.endswith("running_mean"):
                buffer.copy_(0.1 * torch.randn(buffer.shape, generator=generator))
        for parameter in module.parameters():
            if parameter.ndim <= 1 or float(parameter.max() - parameter.min()) < _CONSTANT:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return module


@contextmanager
def float64_throughout() -> Iterator[None]:
    """Within the block, `.float()` inside a network keeps float64 instead of rounding."""

    def keep(tensor: torch.Tensor, *_args: Any, **_options: Any) -> torch.Tensor:
        return tensor.double()

    with mock.patch.object(torch.Tensor, "float", keep):
        yield


def clear_caches(module: nn.Module) -> None:
    """Empty the dictionaries in which some timm networks keep attention biases between calls."""
    for part in module.modules():
        for name, value in vars(part).items():
            if "cache" in name and isinstance(value, dict):
                value.clear()
