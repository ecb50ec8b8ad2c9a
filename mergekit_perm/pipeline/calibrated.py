"""Calibrating merged networks: what is written is the calibrated network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from mergekit_perm import evaluate, networks
from mergekit_perm.errors import RunError
from mergekit_perm.pipeline.inputs import calibration_batch_size, calibration_of
from mergekit_perm.pipeline.workshop import Engine, Result, State, Workshop, merged_file
from mergekit_perm.spec.merge_models import MergeSpec


def calibrated(
    recipe: MergeSpec,
    merged: State,
    family: Mapping[str, Mapping[str, torch.Tensor]],
    shop: Workshop,
) -> tuple[State, Result]:
    """Return a merged network after what its recipe says under `calibrate`, and what that was.

    Args:
        recipe: of the merged network.
        merged: its weights, which stay as they are.
        family: the networks as they were merged, by name.
        shop: where to work.
    """
    name = calibration_of(shop.inputs, recipe.calibrate)
    if name == "none":
        return merged, {}
    split = shop.inputs.spec.temperature_split(recipe)
    state, factor = _calibrate(recipe, name, merged, family, split, shop)
    found = {"name": name, "split": split, "scale": factor}
    return state, {"calibrated": found}


def engine_of_merged(
    recipe: MergeSpec, alignment: str, calibration: str, shop: Workshop, *, both: bool = False
) -> Engine:
    """Return what measures the network that `recipe` has merged, with `calibration`.

    Networks that were merged are what ``repair`` takes its targets from, so it is done first.
    """
    file = merged_file(recipe.name)
    of_layers, _, others = calibration.partition("+")
    if of_layers != "repair":
        return shop.engine_of(shop.read(file), calibration, both=both)
    family = shop.merged_from(recipe, alignment)
    state, _ = _calibrate(recipe, of_layers, shop.read(file), family, None, shop)
    return shop.engine_of(state, others or "none", both=both)


def target_weights(recipe: MergeSpec, names: Sequence[str]) -> list[float]:
    """Return with which weights the statistics of `names` make the targets of ``repair``.

    Those of a recipe ``linear`` that has one number per network, and equal ones otherwise. They
    count by their share of their sum, whether the recipe normalises them or not.
    """
    given = getattr(recipe.parameters, "weight", None)
    if recipe.method == "linear" and isinstance(given, Mapping):
        numbers = [given.get(name) for name in names]
        weights = [float(number) for number in numbers if isinstance(number, int | float)]
        if len(weights) == len(names):
            return weights
    return [1.0] * len(names)


def _calibrate(
    recipe: MergeSpec,
    name: str,
    merged: State,
    family: Mapping[str, Mapping[str, torch.Tensor]],
    split: str | None,
    shop: Workshop,
) -> tuple[State, float]:
    """Return `merged` after calibration `name`, and what its logits were multiplied by."""
    inputs = shop.inputs
    if inputs.data is None or (split is not None and split not in inputs.data.splits):
        raise RunError(f"merged network '{recipe.name}' cannot be calibrated: there are no data")
    names = inputs.spec.merged_networks(recipe)
    # One of its own: the layout of the one that is shared depends on what was measured before.
    module = networks.build(inputs.architecture, inputs.options, seed=0)
    module.load_state_dict(merged)
    factor = evaluate.calibrate(
        module,
        name,
        inputs.data.splits.get("train"),
        states=[dict(family[each]) for each in names] if "repair" in name else (),
        weights=target_weights(recipe, names) if "repair" in name else None,
        temperature_split=None if split is None else inputs.data.splits[split],
        device=inputs.device,
        batch_size=calibration_batch_size(inputs),
        room=shop.room(inputs.device),
    )
    found = module.state_dict()
    state = {key: found[key].to("cpu", tensor.dtype).clone() for key, tensor in merged.items()}
    return state, factor
