"""Names of architectures, and their options, as far as no network has to be built."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from mergekit_perm.python_path import is_python_path

# Of timm, whose networks may change from one version to the next.
VERSION: str = version("timm")

BUILTINS = ("mlp", "vgg", "resnet_cifar")

# timm reads these prefixes itself; anything else with a colon is a Python path.
SOURCES = ("hf-hub:", "hf_hub:", "local-dir:")
# Options that say where weights come from.
_WEIGHT_OPTIONS = frozenset(
    {"cache_dir", "checkpoint_path", "pretrained", "pretrained_cfg_overlay", "pretrained_strict"}
)


def is_function(architecture: str) -> bool:
    """Return whether `architecture` is ``package.module:function`` rather than a name of timm."""
    return is_python_path(architecture) and not architecture.startswith(SOURCES)


def without_weight_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return `options` without those that only say where weights come from."""
    return {name: value for name, value in options.items() if name not in _WEIGHT_OPTIONS}
