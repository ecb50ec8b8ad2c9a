"""What a run needs before it starts: the architecture's tensors, the data, the permutation spec.

Everything that can be wrong with a run's inputs is found here, before the first epoch of training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mergekit_perm import checkpoints, data, derive, evaluate, merge, networks, train
from mergekit_perm.checkpoints.hashes import content_sha256s
from mergekit_perm.data import Data
from mergekit_perm.derive import Found
from mergekit_perm.errors import RunError
from mergekit_perm.pipeline.outline import Outline, Shape, outline
from mergekit_perm.spec import RunSpec
from mergekit_perm.spec.recipes import DATA_RECIPES

# Statistics depend on how many examples there are at a time: one number for all devices.
_CALIBRATING = 512


@dataclass(frozen=True, slots=True)
class Inputs:
    """The inputs of a run.

    Attributes:
        spec: the run spec.
        architecture: what builds the network that is evaluated: that of the first network.
        options: with which options.
        outline: what is known of its tensors, and of every network of the run.
        data: the data set, when something is trained or evaluated, or alignment looks at it.
        permutations: the permutation spec, when something is aligned.
        devices: where mixtures are measured, one or more.
        checkpoint_hashes: by network that is read, and by the steps of its sequence ("" for a
            single checkpoint), the last one its end, the SHA-256 of the file, or its hub name.
    """

    spec: RunSpec
    architecture: str
    options: Mapping[str, Any]
    outline: Outline
    data: Data | None
    permutations: Found | None
    devices: tuple[torch.device, ...]
    checkpoint_hashes: Mapping[str, Mapping[str, str]]

    @property
    def device(self) -> torch.device:
        """Where networks are trained and aligned: the first device."""
        return self.devices[0]

    @property
    def splits(self) -> list[str]:
        """The splits that are evaluated."""
        return [] if self.spec.evaluate is None else list(self.spec.evaluate.splits)


def gather(spec: RunSpec, *, device: str | None = None, use_cache: bool = True) -> Inputs:
    """Return the inputs of the run that `spec` describes.

    Args:
        spec: the run spec.
        device: used instead of the one in the spec.
        use_cache: take what is known of architectures from before.

    Raises:
        PermMergeError: an architecture that cannot be built, data or files that are missing, a
            permutation spec that is missing or does not fit.
    """
    first = next(iter(spec.networks))
    architecture, options = spec.architecture_of(first), spec.options_of(first)
    module = networks.build(architecture, options, seed=0) if _looks_at_data(spec) else None
    known = outline(architecture, options, module, use_cache=use_cache)
    _check_architectures(spec, known.shapes)
    _check_missing(spec, known.ties)
    if module is not None:
        _check_pruning(spec, module)
    _check_recipes(spec, [name for name in known.shapes if name not in known.ties])
    chosen = device or (spec.evaluate.device if spec.evaluate else "auto")
    return Inputs(
        spec=spec,
        architecture=architecture,
        options=options,
        outline=known,
        data=None if module is None else _data(spec, architecture, options, module),
        permutations=_permutations(spec, known),
        devices=tuple(map(evaluate.device, chosen.split(","))),
        checkpoint_hashes=_checkpoint_hashes(spec),
    )


def _check_pruning(spec: RunSpec, module: torch.nn.Module) -> None:
    for name in spec.networks:
        if (pruning := spec.pruning(name)) is not None:
            train.prunable(module, pruning.exclude)


def _check_recipes(spec: RunSpec, tensors: Sequence[str]) -> None:
    """Find what is wrong with recipes for these tensors, such as a filter that matches none."""
    for recipe in spec.merge:
        if recipe.method not in DATA_RECIPES:
            merge.explain(
                spec.merged_networks(recipe),
                tensors,
                method=recipe.method,
                base_model=recipe.base_model,
                **recipe.parameters.model_dump(),
            )


def _check_missing(spec: RunSpec, ties: Mapping[str, str]) -> None:
    """What networks may lack cannot be one name of a tensor and not the other."""
    for name, kept in ties.items():
        if spec.about_missing(name) != spec.about_missing(kept):
            raise RunError(
                f"missing: {name} and {kept} are one tensor in the network, and a filter is about "
                "one of these names only; write one that is about both"
            )


def _check_architectures(spec: RunSpec, shapes: Mapping[str, Shape]) -> None:
    """Networks may name different architectures, but their tensors must be the same."""
    first, *others = spec.networks
    for name in others:
        same = spec.architecture_of(name) == spec.architecture_of(first)
        if same and spec.options_of(name) == spec.options_of(first):
            continue
        plain = networks.without_weight_options(spec.options_of(name))
        other = outline(spec.architecture_of(name), plain).shapes
        trained = spec.networks[name].train is not None
        different = [
            tensor
            for tensor in [*shapes, *other]
            if shapes.get(tensor) != other.get(tensor)
            and (trained or spec.about_missing(tensor) is None)
        ]
        if different:
            raise RunError(
                f"networks '{first}' and '{name}' have different tensors, so they cannot be "
                f"aligned or merged; the first is {different[0]}: {shapes.get(different[0])} and "
                f"{other.get(different[0])}; for a head of other classes, write, for example, "
                f"missing: {{filter: {different[0].partition('.')[0]}, policy: keep, "
                f"network: {first}}}"
            )


def _looks_at_data(spec: RunSpec) -> bool:
    return spec.data is not None and bool(_splits(spec))


def _data(
    spec: RunSpec, architecture: str, options: Mapping[str, Any], module: torch.nn.Module
) -> Data:
    """Return the data, once it is known that the network runs on them and can be trained so."""
    assert spec.data is not None
    # A relative folder:PATH starts from the spec's folder, as every path of a spec does.
    beside = spec.folder if spec.data.source.startswith("folder:") else None
    found = data.load(
        spec.data.source,
        root=beside if spec.data.root is None else spec.path(spec.data.root),
        options=spec.data.options,
        preprocessing=networks.preprocessing(module, options),
        splits=_splits(spec),
    )
    outputs = _check_runs(architecture, module, found)
    _check_classifies(spec, architecture, module, outputs)
    return found


def _check_runs(architecture: str, module: torch.nn.Module, found: Data) -> Any:
    """Return the outputs for two examples: it may be built for other channels or another size."""
    split = next(iter(found.splits.values()))
    inputs, _ = next(split.batches(2, order=torch.arange(min(2, len(split)))))
    try:
        with torch.inference_mode():
            return module.eval()(inputs)
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise RunError(
            f"{architecture} cannot run on {found.name}, whose inputs have the shape "
            f"{list(inputs.shape[1:])}: {reason}; options such as in_chans, img_size or "
            "in_features build it for them"
        ) from error


def _check_classifies(
    spec: RunSpec, architecture: str, module: torch.nn.Module, outputs: Any
) -> None:
    """Networks that are trained or measured have logits for outputs, of one class or more."""
    logits = isinstance(outputs, torch.Tensor) and getattr(module, "num_classes", None) != 0
    trained = any(network.train is not None for network in spec.networks.values())
    if not logits and (trained or spec.evaluate is not None):
        raise RunError(
            f"{architecture} with {dict(spec.options)} has features for outputs, not logits, so "
            "that there is nothing to train or measure; give it classes, or leave 'evaluate' out"
        )


def _splits(spec: RunSpec) -> list[str]:
    """Return the splits of the data that the run looks at."""
    needed = ["train"] * _needs_train(spec) + _evaluated(spec) + _temperature_splits(spec)
    return list(dict.fromkeys(needed))


def _needs_train(spec: RunSpec) -> bool:
    trains = any(network.train is not None for network in spec.networks.values())
    asked = [] if spec.evaluate is None else list(spec.evaluate.calibration)
    asked += [recipe.calibrate for recipe in spec.merge]
    calibrates = any("batch_norm" in name or "repair" in name for name in asked)
    merges = any(recipe.method in ("fisher", "regmean") for recipe in spec.merge)
    return trains or calibrates or merges or spec.looks_at != "weights"


def _temperature_splits(spec: RunSpec) -> list[str]:
    found = (spec.temperature_split(recipe) for recipe in spec.merge)
    return [split for split in found if split is not None]


def _evaluated(spec: RunSpec) -> list[str]:
    return [] if spec.evaluate is None else list(spec.evaluate.splits)


def _permutations(spec: RunSpec, known: Outline) -> Found | None:
    if spec.align is None:
        return None
    if spec.align.permutations == "auto":
        first = next(iter(spec.networks))
        architecture, options = spec.architecture_of(first), spec.options_of(first)
        return derive.find(architecture, options, known.shapes, code=known.code)
    return derive.from_file(spec.path(spec.align.permutations), known.shapes)


def _checkpoint_hashes(spec: RunSpec) -> dict[str, dict[str, str]]:
    """Hash the checkpoint files; one on a hub goes by its name and revision."""
    hashes: dict[str, dict[str, str]] = {}
    files: dict[tuple[str, str], Path] = {}
    for name, network in spec.networks.items():
        if network.checkpoint is not None:
            file = checkpoints.local_file(network.checkpoint, folder=spec.folder)
            hashes[name] = {"": network.checkpoint}
            files |= {} if file is None else {(name, ""): file}
        elif network.checkpoints is not None:
            hashes[name] = {}
            files |= {(name, s): spec.checkpoint_file(name, s) for s in spec.steps_of(name)}
    for (name, step), sha256 in zip(files, content_sha256s(list(files.values())), strict=True):
        hashes[name][step] = sha256
    return hashes


def digest(*parts: Any) -> str:
    """Return the hex SHA-256 of plain data: the content key of what was made from it."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def other_calibration(inputs: Inputs, calibration: str) -> str | None:
    """Return the calibration that is measured in one pass with `calibration`, if there is one."""
    other = evaluate.other_temperature(calibration)
    return other if other in calibrations(inputs) else None


def calibrations(inputs: Inputs) -> list[str]:
    """Return the calibrations that are measured; one that changes nothing is left out."""
    if inputs.spec.evaluate is None:
        return []
    asked = inputs.spec.evaluate.calibration
    return list(dict.fromkeys(calibration_of(inputs, name) for name in asked))


def calibration_of(inputs: Inputs, asked: str) -> str:
    """Return the calibration that is measured where `asked` is asked for."""
    return evaluate.effective_calibration(asked, batch_norm=inputs.outline.has_batch_norm)


def calibration_batch_size(inputs: Inputs) -> int:
    """Return how many examples at a time merged networks are calibrated with."""
    asked = "auto" if inputs.spec.evaluate is None else inputs.spec.evaluate.batch_size
    return _CALIBRATING if asked == "auto" else asked


def alignments(inputs: Inputs) -> list[str]:
    """Return how networks are placed when they are mixed: as they are, and aligned."""
    return ["naive", "aligned"] if inputs.spec.align else ["naive"]
