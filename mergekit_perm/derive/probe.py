"""A fresh network and the inputs to try it with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from mergekit_perm import networks

# Images of this edge show every symmetry that larger ones do, at a twelfth of the cost of 224.
_EDGE = 64


def probe(architecture: str, options: Mapping[str, Any]) -> tuple[nn.Module, torch.Tensor]:
    """Return a new module and two random examples, small where the network takes any size.

    Raises:
        NetworkError: the architecture cannot be built, or does not say what input it takes.
    """
    module = networks.build(architecture, options, seed=0)
    shape = networks.input_shape(module, options)
    preparation = networks.preprocessing(module, options)
    if preparation is not None and not preparation.fixed_size and "img_size" not in options:
        shape = (shape[0], *(min(edge, _EDGE) for edge in shape[1:]))
    return module, torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
