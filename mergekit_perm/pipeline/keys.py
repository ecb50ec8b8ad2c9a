"""Content keys: what decides whether a stage of a run is done. Equal keys give equal results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from mergekit_perm import merge
from mergekit_perm.pipeline.inputs import (
    Inputs,
    calibration_batch_size,
    digest,
    other_calibration,
)
from mergekit_perm.spec.fields import PRUNED
from mergekit_perm.spec.recipes import DATA_RECIPES, RECIPES

Weights = tuple[float, ...]

# Raise when a stage computes something else from the same inputs, so that old results are redone.
VERSION = 1
_ALIGNMENT = 7  # that of alignment alone


def network_key(inputs: Inputs, name: str, step: str | None = None) -> str:
    """Return the content key of network `name`: all that its weights depend on.

    Args:
        inputs: of the run.
        name: of the network.
        step: which checkpoint of its sequence; None is the end.
    """
    spec = inputs.spec
    network = spec.networks[name]
    built = [spec.architecture_of(name), spec.options_of(name), inputs.outline.code]
    if network.train is None:
        hashes = inputs.checkpoint_hashes[name]
        content = hashes[step if step is not None and step in hashes else list(hashes)[-1]]
        rules = [rule.model_dump(mode="json") for rule in spec.missing]
        return digest(VERSION, "checkpoint", built, content, network.ema, *rules)
    fingerprint = inputs.data.splits["train"].fingerprint if inputs.data else None
    # Which checkpoints are kept along the way changes none of them.
    training = spec.training(name).model_dump(mode="json", exclude={"checkpoints"})
    # Training repeats to the bit on one kind of device with one torch and number of threads.
    threads = torch.get_num_threads() if inputs.device.type == "cpu" else 0
    where = [inputs.device.type, threads, torch.__version__]
    key = digest(VERSION, "train", built, training, network.train.seed, fingerprint, where)
    pruning = spec.pruning(name)
    if step is None or step == str(spec.training(name).epochs):
        return key
    if step.startswith(PRUNED) and pruning is not None:
        # More levels change none of the first.
        return digest(key, step, pruning.model_dump(mode="json", exclude={"levels"}))
    return digest(key, step)


def networks_key(inputs: Inputs, step: str | None = None) -> str:
    """Return the key of all networks, at one checkpoint of their sequences; None is the end."""
    family = [network_key(inputs, name, step) for name in inputs.spec.networks]
    return digest(VERSION, "naive", list(inputs.spec.networks), family)


def permutations_key(inputs: Inputs, steps: Sequence[str]) -> str:
    """Return the key of the permutations that are found at `steps`; none is the end."""
    found, settings = inputs.permutations, inputs.spec.align
    if found is None or settings is None:
        raise ValueError("nothing is aligned")
    options = settings.model_dump(mode="json", exclude={"permutations", "at", "apply_to"})
    where = [networks_key(inputs, step) for step in steps] or [networks_key(inputs)]
    parts = [where, found.spec.sha256, options]
    return digest(VERSION, _ALIGNMENT, "aligned", *parts, looked_at(inputs))


def matching_key(inputs: Inputs, one: str, other: str) -> str:
    """Return the key of the permutations that match network `one` to network `other`."""
    found, settings = inputs.permutations, inputs.spec.align
    if found is None or settings is None:
        raise ValueError("nothing is aligned")
    left_out = {"permutations", "at", "apply_to", "reference"}
    options = settings.model_dump(mode="json", exclude=left_out)
    pair = [network_key(inputs, name) for name in (one, other)]
    parts = [pair, found.spec.sha256, options, looked_at(inputs)]
    return digest(VERSION, _ALIGNMENT, "matched", *parts)


def found_at(inputs: Inputs) -> tuple[str, ...]:
    """Return the checkpoints at which the run finds its permutations; none is the end."""
    settings = inputs.spec.align
    return () if settings is None or settings.at == "end" else inputs.spec.chosen_steps(settings.at)


def family_key(inputs: Inputs, alignment: str) -> str:
    """Return the key of all networks in the end, as they are ("naive") or "aligned"."""
    if alignment == "naive" or inputs.permutations is None or inputs.spec.align is None:
        return networks_key(inputs)
    return digest(permutations_key(inputs, found_at(inputs)), networks_key(inputs))


def looked_at(inputs: Inputs) -> str | None:
    """Return the fingerprint of the data that alignment looks at; None if at weights alone."""
    if inputs.spec.looks_at == "weights" or inputs.data is None:
        return None
    return inputs.data.splits["train"].fingerprint


def merge_key(inputs: Inputs, recipe: str) -> str:
    """Return the key of the network that `recipe` merges."""
    alignment = "aligned" if inputs.spec.align else "naive"
    settings = next(r for r in inputs.spec.merge if r.name == recipe)
    family = family_key(inputs, alignment)
    options = settings.model_dump(mode="json", exclude={"calibrate", "calibrate_on"})
    checkpoints = [
        network_key(inputs, *inputs.spec.checkpoint_named(name))
        for name in inputs.spec.merged_networks(settings)
        if name not in inputs.spec.networks
    ]
    key = digest(VERSION, "merge", family, options, inputs.options, *checkpoints)
    if _has_gradient(options["parameters"]):  # which goes by where tensors are in the network
        key = digest(key, merge.depths(inputs.outline.shapes))
    if settings.method not in (*RECIPES, *DATA_RECIPES):
        key = digest(key, merge.plugins.identity(settings.method))
    if settings.method in DATA_RECIPES and inputs.data is not None:
        key = digest(key, inputs.data.fingerprint, inputs.splits, inputs.device.type)
    if settings.calibrate == "none" or inputs.data is None:
        return key
    split = inputs.spec.temperature_split(settings)
    there = inputs.data.splits
    looked = {name: part.fingerprint for name, part in there.items() if name in ("train", split)}
    # Statistics depend on the batches they are estimated on, to the bit on the number of threads.
    threads = torch.get_num_threads() if inputs.device.type == "cpu" else 0
    where = [calibration_batch_size(inputs), inputs.device.type, threads, torch.__version__]
    return digest(key, settings.calibrate, split, looked, where)


def _has_gradient(value: Any) -> bool:
    """Tell whether a gradient over depth is somewhere in parameters: a list of numbers."""
    if isinstance(value, dict):
        return any(map(_has_gradient, value.values()))
    several = value if isinstance(value, list) else ()
    return any(not isinstance(each, dict) or _has_gradient(each) for each in several)


def evaluation_key(inputs: Inputs, key: str, calibration: str, points: Sequence[Weights]) -> str:
    """Return the key of what is measured at `points` of the networks that have `key`."""
    fingerprint = inputs.data.fingerprint if inputs.data else None
    # Statistics that are estimated again depend on the batches they are estimated on.
    settings = inputs.spec.evaluate
    batch_size = settings.batch_size if settings and calibration != "none" else None
    precision = settings.precision if settings else None
    measured = [calibration, points, inputs.splits, batch_size, precision]
    where = "+".join(sorted({device.type for device in inputs.devices}))
    return digest(VERSION, key, measured, fingerprint, where)


def measuring(
    inputs: Inputs,
    key: str,
    calibration: str,
    points: Sequence[Weights],
    named: Callable[[str], str],
) -> tuple[tuple[str, str], tuple[str, str] | None]:
    """Return name and key of the stage that measures networks, and of the one beside it, if any.

    That measures the same with the temperature, or without it: both are done in one pass.

    Args:
        inputs: of the run.
        key: of the networks.
        calibration: of mixtures.
        points: which mixtures.
        named: what a stage is called, by its calibration.
    """
    other = other_calibration(inputs, calibration)
    own, *beside = (
        (named(name), evaluation_key(inputs, key, name, points))
        for name in (calibration, other)
        if name is not None
    )
    return own, beside[0] if beside else None
