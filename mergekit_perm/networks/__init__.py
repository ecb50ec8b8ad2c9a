"""Architectures by name: everything timm has, three built-in families, and Python functions.

This is the only package that imports timm, which takes seconds: what is here is loaded on first
use, so that what needs names and no networks goes without. `mergekit_perm.networks.builtin`
registers `mlp`, `vgg` and `resnet_cifar` in timm, so that `timm.create_model` builds and loads
them as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mergekit_perm import lazy
from mergekit_perm.networks.names import (
    BUILTINS,
    VERSION,
    is_function,
    without_weight_options,
)

if TYPE_CHECKING:
    from mergekit_perm.networks.building import build, code_of, is_timms, skeleton
    from mergekit_perm.networks.builtin import permutation_spec_text
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
    "is_timms",
    "least_edge",
    "model_config",
    "permutation_spec_text",
    "preprocessing",
    "skeleton",
    "without_weight_options",
]

# Public name -> the module that defines it, loaded on first use (PEP 562).
_HOMES = {
    "build": "building",
    "is_timms": "building",
    "code_of": "building",
    "example_inputs": "describing",
    "input_shape": "describing",
    "least_edge": "describing",
    "model_config": "describing",
    "permutation_spec_text": "builtin",
    "preprocessing": "describing",
    "skeleton": "building",
}


__getattr__, __dir__ = lazy.names(
    __name__, _HOMES, "BUILTINS", "VERSION", "is_function", "without_weight_options"
)
