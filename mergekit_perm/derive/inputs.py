"""What a forward pass is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.utils._pytree import tree_map_only

# One batch; a sequence of arguments; or arguments by name.
Inputs: TypeAlias = torch.Tensor | Sequence[Any] | Mapping[str, Any]


def arguments_of(inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return positional arguments and those by name."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return ((inputs,) if isinstance(inputs, torch.Tensor) else tuple(inputs)), {}


def output_of(module: nn.Module, inputs: Inputs) -> Any:
    """Return what `module` gives for `inputs`, which are copied: it may write into them."""
    args, named = tree_map_only(torch.Tensor, torch.Tensor.clone, arguments_of(inputs))
    return module(*args, **named)


def in_float64(inputs: Inputs) -> Inputs:
    """Return `inputs` with real numbers in float64 and complex ones in complex128."""
    widened: Inputs = tree_map_only(torch.Tensor, wide, inputs)
    return widened


def wide(tensor: torch.Tensor) -> torch.Tensor:
    """Return real numbers in float64 and complex ones in complex128; others as they are."""
    if tensor.is_complex():
        return tensor.to(torch.complex128)
    return tensor.double() if tensor.is_floating_point() else tensor
