"""Architectures by name: everything timm has, three built-in families, and Python functions.

This is the only package that imports timm; importing it registers `mlp`, `vgg` and
`resnet_cifar` there, so that `timm.create_model` builds and loads them as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import timm

from mergekit_perm.networks import mlp, resnet_cifar, vgg
from mergekit_perm.networks.building import (
    build,
    code_of,
    is_function,
    refusal,
    skeleton,
    without_weight_options,
)
from mergekit_perm.networks.describing import (
    example_inputs,
    input_shape,
    least_edge,
    model_config,
    preprocessing,
)

__all__ = [
    "BUILTINS",
    "VERSION",
    "build",
    "code_of",
    "example_inputs",
    "input_shape",
    "is_function",
    "least_edge",
    "model_config",
    "permutation_spec_text",
    "preprocessing",
    "skeleton",
    "without_weight_options",
]

# Of timm, whose networks may change from one version to the next.
VERSION: str = timm.__version__

BUILTINS = ("mlp", "vgg", "resnet_cifar")

_SPEC_TEXTS: Mapping[str, Callable[..., str]] = {
    "mlp": mlp.permutation_spec_text,
    "vgg": vgg.permutation_spec_text,
    "resnet_cifar": resnet_cifar.permutation_spec_text,
}


def permutation_spec_text(architecture: str, options: Mapping[str, Any] = {}) -> str | None:
    """Return the permutation spec of a built-in architecture as YAML text; None for any other.

    Raises:
        NetworkError: for options that the architecture does not have or values it cannot take.
    """
    write = _SPEC_TEXTS.get(architecture)
    if write is None:
        return None
    try:
        return write(**options)
    except TypeError as cause:
        raise refusal(architecture, options, cause, [write]) from cause
