"""What a built module expects of its inputs, and how to build it again."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from mergekit_perm.errors import NetworkError
from mergekit_perm.networks.names import is_function
from mergekit_perm.preprocessing import Preprocessing

# Options that say where weights come from rather than what the network is.
_LOADING = frozenset(
    {
        "cache_dir",
        "checkpoint_path",
        "pretrained",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "pretrained_model_args",
        "pretrained_strict",
    }
)
# What timm's own config.json leaves out: where the weights of its registry come from.
_SOURCE = frozenset({"file", "hf_hub_filename", "hf_hub_id", "source", "state_dict", "url"})
# What prepares images.
_IMAGE = frozenset({"crop_mode", "crop_pct", "interpolation", "mean", "std"})


def example_inputs(module: nn.Module) -> Any:
    """Return the batch in the attribute ``example_inputs`` of `module`: what forward is given.

    A tensor, a sequence of arguments, or arguments by name; None if the module does not say. For
    networks of the user's own that take tokens, or more than one tensor.
    """
    return getattr(module, "example_inputs", None)


def input_shape(module: nn.Module, options: Mapping[str, Any] = {}) -> tuple[int, ...]:
    """Return the shape of one example, without the batch axis.

    Args:
        module: a network; one from a Python path says it in an attribute ``input_shape``, unless
            it is one of torchvision's classifiers.
        options: what it was built with; timm's ``in_chans`` and ``img_size`` override its default.

    Raises:
        NetworkError: when the module does not say, with how to say it.
    """
    declared = getattr(module, "input_shape", None)
    if isinstance(declared, Sequence) and not isinstance(declared, str):
        return tuple(int(length) for length in declared)
    size = _pretrained_cfg(module).get("input_size") or _torchvision_size(module)
    if size is None:
        raise NetworkError(
            f"{type(module).__name__} does not say what input it takes: set an attribute on the "
            "module, such as `module.input_shape = (3, 32, 32)`, without the batch axis, or "
            "`module.example_inputs`, a batch, where one float tensor will not do"
        )
    channels, height, width = size
    edges = options.get("img_size") or (height, width)
    height, width = (edges, edges) if isinstance(edges, int) else edges
    return (int(options.get("in_chans") or channels), int(height), int(width))


def preprocessing(module: nn.Module, options: Mapping[str, Any] = {}) -> Preprocessing | None:
    """Return how timm prepares images for `module`; None for networks that are not timm's.

    A network with another number of channels than its mean and standard deviation have uses
    their averages for every channel.

    Args:
        module: a network.
        options: what it was built with.
    """
    cfg = _pretrained_cfg(module)
    if not cfg.get("mean") or not cfg.get("input_size") or hasattr(module, "input_shape"):
        return None
    channels, height, width = input_shape(module, options)
    return Preprocessing(
        mean=_per_channel(cfg["mean"], channels),
        std=_per_channel(cfg["std"], channels),
        input_size=(channels, height, width),
        crop_pct=float(cfg.get("crop_pct") or 0.875),
        interpolation=str(cfg.get("interpolation") or "bicubic"),
        crop_mode=str(cfg.get("crop_mode") or "center"),
        fixed_size=_has_fixed_size(cfg, options),
    )


def least_edge(module: nn.Module, options: Mapping[str, Any] = {}) -> int | None:
    """Return how long the edge of an image must at least be; None where only one size is taken.

    It leaves a map of 2x2 after the network's last reduction, as far as that is known.

    Args:
        module: a network.
        options: what it was built with.
    """
    preparation = preprocessing(module, options)
    if preparation is None or preparation.fixed_size or "img_size" in options:
        return None
    stages = getattr(module, "feature_info", None)
    stages = getattr(stages, "info", stages) or ()
    reductions = [int(stage.get("reduction", 1)) for stage in stages if isinstance(stage, Mapping)]
    least = _pretrained_cfg(module).get("min_input_size") or (0,)
    return max(2 * max(reductions, default=1), *map(int, least[1:]), 0)


def model_config(
    architecture: str, options: Mapping[str, Any], module: nn.Module
) -> dict[str, Any]:
    """Return what belongs into `config.json` beside the weights of `module`.

    timm builds and loads such a folder as ``local-dir:FOLDER``: anything in its registry, and the
    built-ins once `mergekit_perm.networks.builtin` is imported. An architecture from a Python path
    is recorded for people; timm cannot build it.

    Args:
        architecture: what built the module.
        options: with which options.
        module: the network.

    Raises:
        NetworkError: for an option that JSON cannot hold.
    """
    function = is_function(architecture)
    # timm keeps what a folder or the hub added to the options that were given.
    given = {**({} if function else getattr(module, "_model_args", {})), **options}
    arguments = {
        name: _jsonable(architecture, name, value)
        for name, value in sorted(given.items())
        if name not in _LOADING and value is not None
    }
    cfg = {name: value for name, value in _pretrained_cfg(module).items() if name not in _SOURCE}
    name = architecture if function else cfg.pop("architecture", architecture)
    config: dict[str, Any] = {"architecture": name}
    for attribute in ("num_classes", "num_features"):
        if isinstance(getattr(module, attribute, None), int):
            config[attribute] = getattr(module, attribute)
    config["model_args"] = arguments
    if not function:
        config["pretrained_cfg"] = _current(cfg, module, options)
    return config


def _current(cfg: dict[str, Any], module: nn.Module, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return `cfg` as it holds for the tensors of `module` rather than for timm's own weights."""
    shape = input_shape(module, options)
    cfg["custom_load"] = False
    # Tensors of a module already have any background class of the original weights removed.
    cfg.pop("label_offset", None)
    classes = getattr(module, "num_classes", None)
    if classes != cfg.get("num_classes"):
        for name in ("label_names", "label_descriptions"):
            cfg.pop(name, None)
    if isinstance(classes, int):
        cfg["num_classes"] = classes
    if "fixed_input_size" in cfg:
        cfg["fixed_input_size"] = _has_fixed_size(cfg, options)
    cfg.update(_current_input(cfg, module, options))
    if len(shape) != 3:
        cfg.pop("input_size")
    if preprocessing(module, options) is None:
        # timm filled these in for a network that has no preprocessing of its own.
        cfg = {name: value for name, value in cfg.items() if name not in _IMAGE}
    plain: dict[str, Any] = json.loads(json.dumps(cfg))
    return plain


def _current_input(
    cfg: Mapping[str, Any], module: nn.Module, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the sizes and per-channel values of `cfg` for the module's own channels."""
    shape = input_shape(module, options)
    current: dict[str, Any] = {"input_size": shape}
    for name in ("test_input_size", "min_input_size"):
        if cfg.get(name):
            current[name] = (shape[0], *cfg[name][1:])
    for name in ("mean", "std"):
        if cfg.get(name):
            current[name] = _per_channel(cfg[name], shape[0])
    return current


def _pretrained_cfg(module: nn.Module) -> dict[str, Any]:
    cfg = getattr(module, "pretrained_cfg", None)
    return dict(cfg) if isinstance(cfg, Mapping) else {}


def _torchvision_size(module: nn.Module) -> tuple[int, int, int] | None:
    """Return what a classifier of torchvision takes; None for every other module.

    Those that take one size alone keep it in an attribute, all but MaxViT.
    """
    kind = type(module)
    if not re.fullmatch(r"torchvision\.models\.\w+", kind.__module__):
        return None
    edge = 299 if kind.__name__ == "Inception3" else getattr(module, "image_size", 224)
    return (3, edge, edge)


def _has_fixed_size(cfg: Mapping[str, Any], options: Mapping[str, Any]) -> bool:
    flexible = options.get("dynamic_img_size") or options.get("strict_img_size") is False
    return bool(cfg.get("fixed_input_size")) and not flexible


def _per_channel(values: Sequence[float], channels: int) -> tuple[float, ...]:
    if len(values) == channels:
        return tuple(float(value) for value in values)
    return (sum(values) / len(values),) * channels


def _jsonable(architecture: str, name: str, value: Any) -> Any:
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError) as cause:
        raise NetworkError(
            f"{architecture}: option '{name}' is {value!r}, which config.json cannot hold"
        ) from cause
