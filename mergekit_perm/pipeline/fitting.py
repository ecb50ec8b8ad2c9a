"""Whether a checkpoint fits the network of a run, and what to write where its head does not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mergekit_perm import checkpoints, networks
from mergekit_perm.errors import CheckpointError, NetworkError
from mergekit_perm.pipeline.inputs import Inputs
from mergekit_perm.pipeline.outline import outline

State = dict[str, torch.Tensor]


def fitted(
    state: Mapping[str, torch.Tensor], inputs: Inputs, *, source: str
) -> tuple[State, list[str]]:
    """Return a network with zeros for tensors that it may lack, and the names of those.

    Args:
        state: the weights.
        inputs: of the run.
        source: what to call the weights in the message.

    Raises:
        CheckpointError: as `checkpoints.adapted`, with what to write where the head is too much or
            missing.
    """
    whole = checkpoints.completed(state, inputs.outline.ties)
    try:
        return checkpoints.adapted(
            whole,
            inputs.outline.shapes,
            lambda tensor: inputs.spec.about_missing(tensor) is not None,
            source=source,
        )
    except CheckpointError as error:
        advice = _advice(whole, inputs)
        raise CheckpointError(f"{error}\n  {advice}" if advice else str(error)) from error


def _advice(state: Mapping[str, torch.Tensor], inputs: Inputs) -> str:
    """Return what to write where the network is asked for without a head, or to be asked for so."""
    options, found = inputs.options, checkpoints.shapes(state)
    if options.get("features_only"):
        return (
            "features_only: true leaves out the head and may call tensors otherwise: is the file "
            "of a whole network? Then leave features_only out, and write it where the merged "
            "network is loaded: timm.create_model('local-dir:...', pretrained=True, "
            "features_only=True)"
        )
    extra = [name for name in found if name not in inputs.outline.shapes]
    if options.get("num_classes") == 0 and extra and inputs.outline.shapes.items() <= found.items():
        parts = dict.fromkeys(name.rpartition(".")[0] for name in extra)
        rules = ", ".join(f"{{filter: 'glob:{part}.*', policy: intersection}}" for part in parts)
        return (
            f"num_classes: 0 builds a network without a head: write missing: [{rules}] to leave "
            "that of the file out, or the number of classes to merge it"
        )
    if found.items() < inputs.outline.shapes.items() and found == _headless(inputs):
        return "is it a network without a head? Then write options: {num_classes: 0}"
    return ""


def _headless(inputs: Inputs) -> Mapping[str, Any] | None:
    """Return the shapes of the tensors without a head; None for networks that need one."""
    options = {**networks.without_weight_options(inputs.options), "num_classes": 0}
    try:
        return outline(inputs.architecture, options).shapes
    except NetworkError:
        return None
