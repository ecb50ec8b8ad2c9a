"""What is known of a network without its weights, kept from one run to the next.

Building a network of timm takes seconds, most of them for importing timm. Merging what lies in
files needs the names and shapes of its tensors, and little else.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mergekit_perm import __version__, checkpoints, evaluate, networks
from mergekit_perm.cache import cache_folder
from mergekit_perm.files import file_sha256, write_text
from mergekit_perm.merge.buffers import is_counter

Shape = tuple[int, ...]

# Raise when an outline says something else.
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Outline:
    """What is known of a network without its weights.

    Attributes:
        shapes: of its tensors, in the order of the module.
        ties: names of tensors that have another name as well, which stands for them.
        counters: names of tensors that are no floating-point numbers.
        parameters: names of tensors that are trained; one with several names has one of them here.
        has_batch_norm: whether re-estimating BatchNorm statistics changes anything.
        config: what timm reads beside its weights.
        looks: a hash of what tells two networks apart: parts, tensors, settings, and how images
            are prepared.
        code: a hash of the user's own code behind the architecture; "" for timm and built-ins.
    """

    shapes: Mapping[str, Shape]
    ties: Mapping[str, str]
    counters: tuple[str, ...]
    parameters: tuple[str, ...]
    has_batch_norm: bool
    config: Mapping[str, Any]
    looks: str
    code: str

    @property
    def classifier(self) -> str | None:
        """The name of the weight that has a row for every class, as timm tells it."""
        name = self.config.get("pretrained_cfg", {}).get("classifier")
        weight = f"{name}.weight"
        return weight if isinstance(name, str) and weight in self.shapes else None


def outline(
    architecture: str,
    options: Mapping[str, Any],
    module: nn.Module | None = None,
    *,
    use_cache: bool = True,
) -> Outline:
    """Return the outline of what `networks.build` builds; nothing is built if it is known.

    Args:
        architecture, options: as for `networks.build`.
        module: the network, if there is one anyway.
        use_cache: take what is known from before.

    Raises:
        NetworkError: as `networks.build`.
    """
    if module is not None:
        return _outline_of(architecture, options, module)
    file = _file(architecture, options)
    known = None if file is None or not use_cache else _read(file)
    if known is not None:
        return known
    # Options about weights may say as well how images are prepared.
    plain = networks.without_weight_options(options) == dict(options)
    build = networks.skeleton if plain else networks.build
    made = _outline_of(architecture, options, build(architecture, options))
    if file is not None and networks.is_timms(made.config["architecture"]):
        with suppress(OSError):  # a cache that cannot be written costs time, not the outline
            write_text(file, json.dumps(asdict(made)))
    return made


def is_kept(architecture: str, options: Mapping[str, Any]) -> bool:
    """Tell whether the outline is known from before."""
    file = _file(architecture, options)
    return file is not None and file.is_file()


def _outline_of(architecture: str, options: Mapping[str, Any], module: nn.Module) -> Outline:
    state = module.state_dict()
    return Outline(
        shapes=checkpoints.shapes(state),
        ties=checkpoints.ties(state),
        counters=tuple(name for name, tensor in state.items() if is_counter(tensor)),
        parameters=tuple(name for name, _ in module.named_parameters() if name in state),
        has_batch_norm=evaluate.has_batch_norm(module),
        config=networks.model_config(architecture, options, module),
        looks=_looks(module, options),
        code=networks.code_of(architecture, module),
    )


def _looks(module: nn.Module, options: Mapping[str, Any]) -> str:
    plain = (bool, int, float, str, tuple)
    settings = [
        (part, key, _number(value))
        for part, child in module.named_modules()
        for key, value in sorted(vars(child).items())
        if isinstance(value, plain) and key != "training"
    ]
    prepared = networks.preprocessing(module, options)
    content = repr((str(module), checkpoints.shapes(module), settings, prepared))
    return hashlib.sha256(re.sub(r"0x[0-9a-f]{6,}", "", content).encode()).hexdigest()


def _number(value: Any) -> Any:
    """Return numbers that are equal as one: True, 1 and 1.0."""
    if isinstance(value, tuple):
        return tuple(map(_number, value))
    return float(value) if isinstance(value, bool | int | float) else value


def _file(architecture: str, options: Mapping[str, Any]) -> Path | None:
    """Return where the outline is kept; None where nothing at hand stands for the network."""
    content = _content(architecture)
    if content is None or networks.without_weight_options(options) != dict(options):
        return None
    versions = [_VERSION, __version__, networks.VERSION, torch.__version__]
    try:
        key = json.dumps([*versions, content, options], sort_keys=True)
    except TypeError:  # an option that JSON cannot hold
        return None
    return cache_folder("outlines") / f"{hashlib.sha256(key.encode()).hexdigest()}.json"


def _content(architecture: str) -> list[str] | None:
    """Return what stands for the network: a name of timm, or what a folder of timm's says of it.

    The code of a Python function, and what a hub has under a name, may change.
    """
    if architecture in networks.BUILTINS:
        return [architecture, file_sha256(Path(networks.__file__).with_name(f"{architecture}.py"))]
    if ":" not in architecture:
        return [architecture]
    scheme, _, folder = architecture.partition(":")
    if scheme != "local-dir":
        return None
    try:
        return [scheme, (Path(folder) / "config.json").read_text(encoding="utf-8")]
    except (OSError, ValueError):
        return None


def _read(file: Path) -> Outline | None:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        shapes = {name: tuple(shape) for name, shape in found.pop("shapes").items()}
        counters, parameters = tuple(found.pop("counters")), tuple(found.pop("parameters"))
        return Outline(shapes=shapes, counters=counters, parameters=parameters, **found)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None  # none, or one that cannot be read: build it again
