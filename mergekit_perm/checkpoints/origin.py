"""What a checkpoint says about the architecture it belongs to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergekit_perm.checkpoints import reading
from mergekit_perm.checkpoints.references import local_file
from mergekit_perm.errors import CheckpointError

CONFIG = "config.json"

# Arguments of timm's train.py that its networks are built with, and what the networks call them.
_ARGUMENTS = {"num_classes": "num_classes", "in_chans": "in_chans", "gp": "global_pool"}


@dataclass(frozen=True, slots=True)
class Origin:
    """An architecture, as a checkpoint names it.

    Attributes:
        architecture: a name, which nobody has looked up yet.
        options: what it was built with, as far as the checkpoint says.
        source: the file that says so.
        folder: ``local-dir:PATH`` or ``hf-hub:org/id`` where timm can build from it as well.
    """

    architecture: str
    options: Mapping[str, Any]
    source: str
    folder: str | None = None


def origin(reference: str, *, folder: Path) -> Origin | None:
    """Return what the checkpoint at `reference` says about its architecture; None for nothing.

    That is a ``config.json`` of timm's beside the weights, or ``arch`` and ``args`` in a file of
    its train.py.

    Args:
        reference: as for `load`.
        folder: what relative paths are relative to.

    Raises:
        CheckpointError: there is no such checkpoint, or it cannot be read.
    """
    file = local_file(reference, folder=folder)
    if file is None:
        config = _from_hub(reference)
        return None if config is None else _in_config(config, reference)
    if file.with_name(CONFIG).is_file() and _is_the_one(file, reference):
        return _in_config(file.with_name(CONFIG), f"local-dir:{file.parent}")
    return None if file.suffix == ".safetensors" else _in_training(file)


def _is_the_one(file: Path, reference: str) -> bool:
    """Return whether `config.json` beside `file` is about it: about the weights timm would take."""
    if reference.startswith("local-dir:"):
        return True
    try:
        return local_file(f"local-dir:{file.parent}", folder=Path()) == file
    except CheckpointError:  # several files of weights
        return False


def _from_hub(reference: str) -> Path | None:
    from huggingface_hub import hf_hub_download

    repository, _, revision = reference.partition(":")[2].partition("@")
    try:
        return Path(hf_hub_download(repository, CONFIG, revision=revision or None))
    except Exception:  # whatever is wrong with the hub is told when weights are read from it
        return None


def _in_config(path: Path, folder: str) -> Origin | None:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as cause:
        raise CheckpointError(f"{path}: cannot be read as JSON: {cause}") from cause
    name = config.get("architecture") if isinstance(config, dict) else None
    if not isinstance(name, str):  # that of another library
        return None
    options = dict(config.get("model_args") or {})
    if isinstance(config.get("num_classes"), int):
        options.setdefault("num_classes", config["num_classes"])
    built = folder if "pretrained_cfg" in config else None
    return Origin(name, options, str(path), built)


def _in_training(file: Path) -> Origin | None:
    content = reading.read(file)
    name = content.get("arch") if isinstance(content, Mapping) else None
    if not isinstance(name, str):
        return None
    arguments = vars(content["args"]) if hasattr(content.get("args"), "__dict__") else {}
    options = {
        option: arguments[argument]
        for argument, option in _ARGUMENTS.items()
        if arguments.get(argument) is not None
    }
    extra = arguments.get("model_kwargs")
    return Origin(name, {**options, **(extra if isinstance(extra, dict) else {})}, str(file))
