"""The plan of a run: its stages in order, each with the content key that decides if it is done."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mergekit_perm.cache import cache_folder
from mergekit_perm.derive import is_proven
from mergekit_perm.pipeline import (
    aligning,
    card,
    checkpoint_pairs,
    composition,
    controls,
    matrix,
    stages,
)
from mergekit_perm.pipeline.checkpoint_alignments import checkpoint_alignment_stages
from mergekit_perm.pipeline.checkpoint_pairs import checkpoint_pair_stages
from mergekit_perm.pipeline.composition import composition_stages
from mergekit_perm.pipeline.controls import control_stages
from mergekit_perm.pipeline.folder import RunFolder
from mergekit_perm.pipeline.inputs import (
    Inputs,
    alignments,
    calibrations,
    digest,
    gather,
)
from mergekit_perm.pipeline.keys import (
    VERSION,
    Weights,
    evaluation_key,
    family_key,
    found_at,
    measuring,
    merge_key,
    network_key,
    networks_key,
)
from mergekit_perm.pipeline.matrix import matrix_stages
from mergekit_perm.pipeline.memory import peak_memory
from mergekit_perm.pipeline.merging import merge_networks
from mergekit_perm.pipeline.points import point_sets
from mergekit_perm.pipeline.pruning import prune_network
from mergekit_perm.pipeline.stage import Stage
from mergekit_perm.pipeline.transport import transport_stages
from mergekit_perm.pipeline.workshop import (
    aligned_file,
    checkpoint_file,
    mask_file,
    network_file,
    permutation_file,
)
from mergekit_perm.report.model import LOOKED_AT
from mergekit_perm.spec import RunSpec
from mergekit_perm.spec.fields import PRUNED
from mergekit_perm.spec.sequences import end_of

# What measures mixtures of its own, besides those of the run's networks.
_COUNTED = (matrix, composition, controls, checkpoint_pairs)


@dataclass(frozen=True, slots=True)
class Step:
    """A stage of a plan that is looked at, not run: done, from the cache, or to do."""

    stage: Stage
    status: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run would do, and the most memory it is expected to need, in bytes."""

    steps: tuple[Step, ...]
    peak_memory: int
    points: int

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        return {
            "stages": [
                {
                    "name": step.stage.name,
                    "title": step.stage.title,
                    "status": step.status,
                    "files": list(step.stage.files),
                    "key": step.stage.key,
                }
                for step in self.steps
            ],
            "points": self.points,
            "peak_memory_bytes": self.peak_memory,
        }


def make_plan(spec: RunSpec, *, out: str | Path | None = None, device: str | None = None) -> Plan:
    """Return what running `spec` would do, without doing any of it.

    Args:
        spec: the run spec.
        out: the run's folder; ``out/NAME`` by default.
        device: used instead of the one in the spec.

    Raises:
        PermMergeError: an input is missing, so that the run could not start either.
    """
    inputs = gather(spec, device=device)
    folder = RunFolder(default_folder(spec) if out is None else Path(out))
    steps = tuple(Step(stage, _status(stage, inputs, folder)) for stage in list_stages(inputs))
    points = len(list(_all_points(inputs))) + _searched(inputs)
    points += sum(each.count_points(inputs) for each in _COUNTED)
    return Plan(steps, peak_memory(inputs), points)


def default_folder(spec: RunSpec) -> Path:
    """Return where a run is kept unless it is told otherwise."""
    return Path("out") / spec.name


def _status(stage: Stage, inputs: Inputs, folder: RunFolder) -> str:
    if folder.result(stage.name, stage.key) is not None:
        return "done"
    cached = cache_folder("networks")
    if stage.networks and all((cached / f"{k}.safetensors").is_file() for k in stage.networks):
        return "cached"
    found = inputs.permutations
    if stage.name == "permutations" and found is not None:
        proven = is_proven(
            found.spec, inputs.architecture, inputs.options, code=inputs.outline.code
        )
        return "cached" if proven else "to do"
    return "to do"


def list_stages(inputs: Inputs) -> list[Stage]:
    """Return the stages of a run, in the order in which they run."""
    stages = [
        *_network_stages(inputs),
        *_alignment_stages(inputs),
        *_merge_stages(inputs),
        *_evaluation_stages(inputs),
        *checkpoint_pair_stages(inputs),
        *checkpoint_alignment_stages(inputs),
        *matrix_stages(inputs),
        *composition_stages(inputs),
        *control_stages(inputs),
        *transport_stages(inputs),
    ]
    return [*stages, *_card_stages(inputs, stages)]


def _card_stages(inputs: Inputs, before: Sequence[Stage]) -> Iterator[Stage]:
    """Yield the stages that write model cards, which tell of everything before them."""
    for recipe in inputs.spec.merge:
        yield Stage(
            f"card/{recipe.name}",
            f"write the model card of {recipe.name}",
            digest(VERSION, "card", [stage.key for stage in before]),
            (card.card_file(recipe),),
            partial(card.write_card, recipe),
        )


# ------------------------------------------------------------------------------------ networks


def _network_stages(inputs: Inputs) -> Iterator[Stage]:
    spec = inputs.spec
    for name, network in spec.networks.items():
        if network.train is not None:
            yield from _training_stages(inputs, name)
            continue
        steps = spec.steps_of(name)
        files = [checkpoint_file(spec, name, step) for step in steps] or [network_file(name)]
        title = f"read {name} from {network.checkpoint or network.checkpoints}"
        keys = [network_key(inputs, name, step) for step in steps]
        key = digest(*keys) if keys else network_key(inputs, name)
        yield Stage(
            f"networks/{name}", title, key, tuple(files), partial(stages.read_network, name)
        )


def _training_stages(inputs: Inputs, name: str) -> Iterator[Stage]:
    """Yield the stage that trains network `name`, and the one that prunes it."""
    spec = inputs.spec
    epochs, pruning = spec.kept_epochs(name), spec.pruning(name)
    keys = {epoch: network_key(inputs, name, str(epoch)) for epoch in epochs}
    early = tuple(network_file(f"{name}@{epoch}") for epoch in epochs[:-1])
    yield Stage(
        f"networks/{name}",
        f"train {name}" + (f", kept at epochs {', '.join(map(str, epochs))}" if early else ""),
        digest(*keys.values()) if early else keys[epochs[-1]],
        (*early, network_file(name)),
        partial(stages.train_network, name, keys),
        tuple(keys.values()),
    )
    if pruning is None:
        return
    levels = [step for step in spec.steps_of(name) if step.startswith(PRUNED)]
    pruned = {step: network_key(inputs, name, step) for step in levels}
    files = [place for s in levels for place in (network_file(f"{name}@{s}"), mask_file(name, s))]
    yield Stage(
        f"prune/{name}",
        f"prune {name} by {100 * pruning.fraction:g} %, {len(levels)} times, "
        f"rewound to epoch {pruning.rewind}",
        digest(*pruned.values()),
        tuple(files),
        partial(prune_network, name, pruned),
        tuple(pruned.values()),
    )


# ----------------------------------------------------------------------------------- alignment


def _alignment_stages(inputs: Inputs) -> Iterator[Stage]:
    found, settings = inputs.permutations, inputs.spec.align
    if found is None or settings is None:
        return
    yield Stage(
        "permutations",
        f"prove the permutation spec ({found.source})",
        digest(
            VERSION,
            "permutations",
            found.spec.sha256,
            [inputs.architecture, inputs.options, inputs.outline.code],
        ),
        ("permspec.yaml",),
        aligning.prove_permutations,
    )
    names, steps = list(inputs.spec.networks), found_at(inputs)
    where = f" at {', '.join(steps)}" if steps else ""
    key = family_key(inputs, "aligned")
    if settings.apply_to == "sequence":
        key = digest(key, [networks_key(inputs, step) for step in inputs.spec.steps])
    yield Stage(
        "align",
        f"align {', '.join(names)} to {settings.reference}{where} by {settings.method}, "
        f"which looks at {LOOKED_AT[inputs.spec.looks_at]}",
        key,
        tuple(_aligned_files(inputs)),
        partial(aligning.align_networks, steps),
    )


def _aligned_files(inputs: Inputs) -> Iterator[str]:
    """Yield the files that alignment writes, network by network."""
    spec = inputs.spec
    for name in spec.networks:
        yield permutation_file(name)
        yield aligned_file(name)
        if spec.align is not None and spec.align.apply_to == "sequence":
            steps = spec.steps_of(name)
            yield from (aligned_file(f"{name}@{s}") for s in steps if s != end_of(steps))


# -------------------------------------------------------------------------------------- merging


def _merge_stages(inputs: Inputs) -> Iterator[Stage]:
    for recipe in inputs.spec.merge:
        calibrating = "" if recipe.calibrate == "none" else f", calibrated by {recipe.calibrate}"
        folder = f"merged/{recipe.name}"
        files = ("model.safetensors", "config.json", "perm_merge_config.yml")
        yield Stage(
            f"merge/{recipe.name}",
            f"merge {', '.join(inputs.spec.merged_networks(recipe))} by {recipe.method}"
            f"{calibrating}",
            # The spec beside the weights follow every field of the run.
            digest(merge_key(inputs, recipe.name), inputs.spec.model_dump(mode="json")),
            tuple(f"{folder}/{file}" for file in files),
            partial(merge_networks, recipe, _merged_from(inputs)),
        )


def _merged_from(inputs: Inputs) -> str:
    """Return how the networks are placed that are merged."""
    return alignments(inputs)[-1]


# ----------------------------------------------------------------------------------- evaluation


def _all_points(inputs: Inputs) -> Iterator[tuple[str, str, Weights]]:
    for alignment, calibration in itertools.product(alignments(inputs), calibrations(inputs)):
        for points in point_sets(inputs).values():
            for point in points:
                yield alignment, calibration, point


def _searched(inputs: Inputs) -> int:
    simplex = inputs.spec.evaluate.simplex if inputs.spec.evaluate else None
    times = len(alignments(inputs)) * len(calibrations(inputs))
    return 0 if simplex is None else simplex.search * times


def _evaluation_stages(inputs: Inputs) -> Iterator[Stage]:
    sets = point_sets(inputs)
    for alignment, calibration in itertools.product(alignments(inputs), calibrations(inputs)):
        for label, points in sets.items():
            if points:
                task = f"evaluating {label}, {alignment}"
                task += "" if calibration == "none" else f", {calibration}"
                family = family_key(inputs, alignment)
                named = partial(stages.evaluation_name, alignment, label=label)
                (name, key), beside = measuring(inputs, family, calibration, points, named)
                work = partial(
                    stages.measure_points, name, key, alignment, calibration, points, task, beside
                )
                title = f"{task}: {len(points)} point{'s' * (len(points) > 1)}"
                yield Stage(name, title, key, (), work)
        yield from _search_stage(inputs, alignment, calibration, sets)
    for recipe, calibration in itertools.product(inputs.spec.merge, calibrations(inputs)):
        merged = merge_key(inputs, recipe.name)
        named = partial(stages.evaluation_name, "merged", label=recipe.name)
        (name, key), beside = measuring(inputs, merged, calibration, [], named)
        place = _merged_from(inputs)
        work = partial(stages.measure_merged, name, key, recipe, place, calibration, beside)
        title = f"evaluating merged network {recipe.name}"
        title += "" if calibration == "none" else f", {calibration}"
        yield Stage(name, title, key, (), work)


def _search_stage(
    inputs: Inputs, alignment: str, calibration: str, sets: dict[str, list[Weights]]
) -> Iterator[Stage]:
    """Yield the stage that looks for the highest point of the simplex, from all that are known."""
    simplex = inputs.spec.evaluate.simplex if inputs.spec.evaluate else None
    if simplex is None or not simplex.search or "simplex" not in sets:
        return
    name = stages.evaluation_name(alignment, calibration, "search")
    points = list(itertools.chain.from_iterable(sets.values()))
    family = family_key(inputs, alignment)
    key = digest(evaluation_key(inputs, family, calibration, points), simplex.grid, simplex.search)
    task = f"searching simplex, {alignment}"
    task += "" if calibration == "none" else f", {calibration}"
    work = partial(
        stages.search_simplex, name, key, alignment, calibration, simplex.grid, simplex.search, task
    )
    yield Stage(name, f"{task}: {simplex.search} points at most", key, (), work)
