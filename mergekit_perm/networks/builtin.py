"""The built-in families; importing this registers them in timm, for `timm.create_model`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mergekit_perm.errors import NetworkError
from mergekit_perm.networks import mlp, resnet_cifar, vgg
from mergekit_perm.networks.building import refusal

_SPEC_TEXTS: Mapping[str, Callable[..., str]] = {
    "mlp": mlp.permutation_spec_text,
    "vgg": vgg.permutation_spec_text,
    "resnet_cifar": resnet_cifar.permutation_spec_text,
}


def permutation_spec_text(architecture: str, options: Mapping[str, Any] = {}) -> str:
    """Return the permutation spec of a built-in architecture as YAML text.

    Raises:
        NetworkError: for options that the architecture does not have or values it cannot take, or
            an architecture that is not built in.
    """
    write = _SPEC_TEXTS.get(architecture)
    if write is None:
        raise NetworkError(f"{architecture} is none of {', '.join(_SPEC_TEXTS)}")
    try:
        return write(**options)
    except TypeError as cause:
        raise refusal(architecture, options, cause, [write]) from cause
