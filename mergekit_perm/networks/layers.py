"""Parts that the built-in networks share: normalisation, initialisation, checks of options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn import functional

from mergekit_perm.errors import NetworkError, suggest

T = TypeVar("T")


class LayerNorm2d(nn.LayerNorm):
    """Affine layer normalisation over the channels at each position of an image batch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise `x` of shape (batch, channels, height, width); the result has its shape."""
        x = x.permute(0, 2, 3, 1)
        x = functional.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


Norm = Callable[[int], nn.Module]

# "none" adds no module: a layer without one keeps its own bias.
VECTOR_NORMS: Mapping[str, Norm | None] = {
    "none": None,
    "layer_norm": nn.LayerNorm,
    "batch_norm": nn.BatchNorm1d,
}
IMAGE_NORMS: Mapping[str, Norm | None] = {
    "none": None,
    "layer_norm": LayerNorm2d,
    "batch_norm": nn.BatchNorm2d,
}


def _default(_module: nn.Module) -> None:
    """Keep PyTorch's own initialisation: uniform, variance 1 / (3 fan_in)."""


def _he_normal(module: nn.Module) -> None:
    """Draw weights from a normal distribution of variance 2 / fan_in; biases become zero."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


INITIALISATIONS: Mapping[str, Callable[[nn.Module], None]] = {
    "default": _default,
    "he_normal": _he_normal,
}


def choice(architecture: str, option: str, value: Any, known: Mapping[Any, T]) -> T:
    """Return what `known` has for `value`.

    Raises:
        NetworkError: naming the option and what it may be.
    """
    # A dictionary takes True for 1 and 16.0 for 16; as options they are mistakes.
    for name, meaning in known.items():
        if type(name) is type(value) and name == value:
            return meaning
    names = ", ".join(str(name) for name in known)
    hint = suggest(str(value), map(str, known)) if isinstance(value, str) else ""
    raise NetworkError(f"{architecture}: {option} is {value!r}, not one of {names}{hint}")


def whole(architecture: str, option: str, value: Any) -> int:
    """Return `value` when it is a whole number of 1 or more.

    Raises:
        NetworkError: naming the option and what was found.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise NetworkError(
            f"{architecture}: {option} is {value!r}, not a whole number of 1 or more"
        )
    return value
