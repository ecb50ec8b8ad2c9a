"""The lines of Python that load a merged network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mergekit_perm.networks import BUILTINS


def loading(config: Mapping[str, Any], folder: str = ".") -> list[str]:
    """Return lines of Python after which `model` is the merged network in `folder`.

    Args:
        config: of the network, as its `config.json` has it.
        folder: where the lines find it.
    """
    name, options, place = config["architecture"], config["model_args"], f"local-dir:{folder}"
    weights = f"{folder}/model.safetensors"
    if "pretrained_cfg" not in config:  # timm cannot build an architecture of the user's own
        module, _, function = name.partition(":")
        given = f"**{dict(options)!r}" if options else ""
        return [
            f"from {module} import {function}",
            "from safetensors.torch import load_model",
            f"model = {function}({given})",
            f"load_model(model, {weights!r})",
        ]
    lines = ["import timm"]
    if name in BUILTINS:
        lines.append("import mergekit_perm.networks.builtin")  # which registers them
    # Pretrained weights are loaded before a network is cut down to its features and renamed.
    how = f"checkpoint_path={weights!r}" if options.get("features_only") else "pretrained=True"
    return [*lines, f"model = timm.create_model({place!r}, {how})"]
