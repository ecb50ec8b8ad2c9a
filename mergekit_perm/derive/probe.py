"""A fresh network and the inputs to try it with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from mergekit_perm import networks
from mergekit_perm.errors import NetworkError

# Images of this edge show every symmetry that larger ones do, at a twelfth of the cost of 224.
_EDGE = 64

Shape = tuple[int, ...]


def probe(architecture: str, options: Mapping[str, Any]) -> tuple[nn.Module, torch.Tensor]:
    """Return a new module and two random examples, small where the network takes any size.

    Sizes are tried from small to large, up to the network's own, until one runs.

    Raises:
        NetworkError: the architecture cannot be built, does not say what input it takes, or does
            not run on that.
    """
    module = networks.build(architecture, options, seed=0)
    for shape in _shapes(module, options):
        inputs = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
        cause = _failure(module, inputs)
        if cause is None:
            return module, inputs
    reason = " ".join(str(cause).split()) or "no reason given"
    raise NetworkError(
        f"{architecture} does not run on inputs of shape {tuple(inputs.shape)}: "
        f"{type(cause).__name__}: {reason}"
    ) from cause


def _shapes(module: nn.Module, options: Mapping[str, Any]) -> Iterator[Shape]:
    """Yield the shapes of one example worth trying, smallest first; the network's own is last."""
    channels, *own = networks.input_shape(module, options)
    least = networks.least_edge(module, options)
    if least is not None:
        for edge in range(max(_EDGE, least), max(own), 32):
            yield (channels, *(min(edge, length) for length in own))
    yield (channels, *own)


def _failure(module: nn.Module, inputs: torch.Tensor) -> Exception | None:
    try:
        with torch.no_grad():
            module(inputs.clone())
    except Exception as cause:
        return cause
    return None
