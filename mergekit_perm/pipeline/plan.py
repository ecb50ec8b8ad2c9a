"""The plan of a run: its stages in order, each with the content key that decides if it is done."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mergekit_perm import evaluate
from mergekit_perm.cache import cache_folder
from mergekit_perm.data import InMemory
from mergekit_perm.derive import is_proven
from mergekit_perm.pipeline import stages
from mergekit_perm.pipeline.folder import RunFolder
from mergekit_perm.pipeline.inputs import Inputs, digest, gather
from mergekit_perm.pipeline.stages import Result, Workshop
from mergekit_perm.report.model import LOOKED_AT
from mergekit_perm.spec import RunSpec

# Raise when a stage computes something else from the same inputs, so that old results are redone.
_VERSION = 1
_ALIGNMENT = 5  # that of alignment alone

# What Python, torch and timm take before any network is built, in bytes; measured on Linux.
_INTERPRETER = 900 * 2**20


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a run.

    Attributes:
        name: unique in the run, such as ``networks/a``.
        title: what it does, for people.
        key: the content key; equal keys give equal results.
        files: what it writes, relative to the run's folder.
        work: does it.
    """

    name: str
    title: str
    key: str
    files: tuple[str, ...]
    work: Callable[[Workshop], Result]


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
    return Plan(steps, peak_memory(inputs), len(list(_all_points(inputs))) + _searched(inputs))


def default_folder(spec: RunSpec) -> Path:
    """Return where a run is kept unless it is told otherwise."""
    return Path("out") / spec.name


def _status(stage: Stage, inputs: Inputs, folder: RunFolder) -> str:
    if folder.result(stage.name, stage.key) is not None:
        return "done"
    if (cache_folder("networks") / f"{stage.key}.safetensors").is_file():
        return "cached"
    found = inputs.permutations
    if stage.name == "permutations" and found is not None:
        proven = is_proven(found.spec, inputs.architecture, inputs.options, code=inputs.code)
        return "cached" if proven else "to do"
    return "to do"


def list_stages(inputs: Inputs) -> list[Stage]:
    """Return the stages of a run, in the order in which they run."""
    return [
        *_network_stages(inputs),
        *_alignment_stages(inputs),
        *_merge_stages(inputs),
        *_evaluation_stages(inputs),
    ]


# ------------------------------------------------------------------------------------ networks


def _network_stages(inputs: Inputs) -> Iterator[Stage]:
    spec = inputs.spec
    for name, network in spec.networks.items():
        key = network_key(inputs, name)
        trained = network.train is not None
        title = f"train {name}" if trained else f"read {name} from {network.checkpoint}"
        work = (
            partial(stages.train_network, name, key)
            if trained
            else partial(stages.read_network, name)
        )
        yield Stage(f"networks/{name}", title, key, (stages.network_file(name),), work)


def network_key(inputs: Inputs, name: str) -> str:
    """Return the content key of network `name`: all that its weights depend on."""
    spec = inputs.spec
    network = spec.networks[name]
    built = [spec.architecture_of(name), spec.options_of(name), inputs.code]
    if network.train is None:
        return digest(_VERSION, "checkpoint", built, inputs.checkpoint_hashes[name], network.ema)
    fingerprint = inputs.data.splits["train"].fingerprint if inputs.data else None
    training = spec.training(name).model_dump(mode="json")
    # Training repeats to the bit on one kind of device with one torch and number of threads.
    threads = torch.get_num_threads() if inputs.device.type == "cpu" else 0
    where = [inputs.device.type, threads, torch.__version__]
    return digest(_VERSION, "train", built, training, network.train.seed, fingerprint, where)


# ----------------------------------------------------------------------------------- alignment


def _alignment_stages(inputs: Inputs) -> Iterator[Stage]:
    found, settings = inputs.permutations, inputs.spec.align
    if found is None or settings is None:
        return
    yield Stage(
        "permutations",
        f"prove the permutation spec ({found.source})",
        digest(
            _VERSION,
            "permutations",
            found.spec.sha256,
            [inputs.architecture, inputs.options, inputs.code],
        ),
        ("permspec.yaml",),
        stages.prove_permutations,
    )
    names = list(inputs.spec.networks)
    files = [place(n) for n in names for place in (stages.permutation_file, stages.aligned_file)]
    yield Stage(
        "align",
        f"align {', '.join(names)} to {settings.reference} by {settings.method}, "
        f"which looks at {LOOKED_AT[inputs.spec.looks_at]}",
        _family_key(inputs, "aligned"),
        tuple(files),
        stages.align_networks,
    )


def _family_key(inputs: Inputs, alignment: str) -> str:
    family = [network_key(inputs, name) for name in inputs.spec.networks]
    found, settings = inputs.permutations, inputs.spec.align
    if alignment == "naive" or found is None or settings is None:
        return digest(_VERSION, "naive", list(inputs.spec.networks), family)
    options = settings.model_dump(mode="json", exclude={"permutations"})
    parts = [list(inputs.spec.networks), family, found.spec.sha256, options]
    return digest(_VERSION, _ALIGNMENT, "aligned", *parts, _looked_at(inputs))


def _looked_at(inputs: Inputs) -> str | None:
    """Return the fingerprint of the data that alignment looks at; None if at weights alone."""
    if inputs.spec.looks_at == "weights" or inputs.data is None:
        return None
    return inputs.data.splits["train"].fingerprint


# -------------------------------------------------------------------------------------- merging


def _merge_stages(inputs: Inputs) -> Iterator[Stage]:
    alignment = "aligned" if inputs.spec.align else "naive"
    for recipe in inputs.spec.merge:
        folder = f"merged/{recipe.name}"
        files = ("model.safetensors", "config.json", "README.md", "perm_merge_config.yml")
        yield Stage(
            f"merge/{recipe.name}",
            f"merge {', '.join(inputs.spec.merged_networks(recipe))} by {recipe.method}",
            # The card and the spec beside the weights follow every field of the run.
            digest(_merge_key(inputs, recipe.name), inputs.spec.model_dump(mode="json")),
            tuple(f"{folder}/{file}" for file in files),
            partial(stages.merge_networks, recipe, alignment),
        )


def _merge_key(inputs: Inputs, recipe: str) -> str:
    alignment = "aligned" if inputs.spec.align else "naive"
    settings = next(r for r in inputs.spec.merge if r.name == recipe)
    family = _family_key(inputs, alignment)
    return digest(_VERSION, "merge", family, settings.model_dump(mode="json"), inputs.options)


# ----------------------------------------------------------------------------------- evaluation

Weights = tuple[float, ...]


def calibrations(inputs: Inputs) -> list[str]:
    """Return the calibrations that are measured; one that changes nothing is left out."""
    if inputs.spec.evaluate is None:
        return []
    asked = inputs.spec.evaluate.calibration
    return [c for c in asked if c == "none" or inputs.has_batch_norm] or ["none"]


def alignments(inputs: Inputs) -> list[str]:
    """Return how networks are placed when they are mixed: as they are, and aligned."""
    return ["naive", "aligned"] if inputs.spec.align else ["naive"]


def paths(inputs: Inputs) -> list[evaluate.Path]:
    """Return what barriers are measured on: every pair asked for, then the simplex."""
    spec, settings = inputs.spec, inputs.spec.evaluate
    if settings is None or len(spec.networks) < 2:
        return []
    return evaluate.paths_between(
        tuple(spec.networks),
        spec.pairs,
        reference=spec.align.reference if spec.align else None,
        points=settings.points,
        simplex=settings.simplex.grid if settings.simplex else None,
        samples=settings.simplex.samples if settings.simplex else 0,
        seed=settings.simplex.seed if settings.simplex else 0,
    )


def point_sets(inputs: Inputs) -> dict[str, list[Weights]]:
    """Return the mixtures to measure by what they belong to, each mixture once.

    "networks" are the networks themselves, "a+b" the inside of a path, "simplex" what the grid
    has besides those. Weights are one number per network of the run.
    """
    names = list(inputs.spec.networks)
    if inputs.spec.evaluate is None:
        return {}
    sets = {"networks": [evaluate.vertex(len(names), place) for place in range(len(names))]}
    for path in paths(inputs):
        label = "+".join(path.networks) if path.kind == "pair" else path.kind
        sets[label] = _new(path.points(names), sets)
    return sets


def _new(points: Iterable[Weights], sets: dict[str, list[Weights]]) -> list[Weights]:
    known = set(itertools.chain.from_iterable(sets.values()))
    return [point for point in points if point not in known]


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
                name = stages.evaluation_name(alignment, calibration, label)
                family = _family_key(inputs, alignment)
                key = _evaluation_key(inputs, family, calibration, points)
                work = partial(
                    stages.measure_points, name, key, alignment, calibration, points, task
                )
                title = f"{task}: {len(points)} point{'s' * (len(points) > 1)}"
                yield Stage(name, title, key, (), work)
        yield from _search_stage(inputs, alignment, calibration, sets)
    for recipe, calibration in itertools.product(inputs.spec.merge, calibrations(inputs)):
        yield Stage(
            stages.evaluation_name("merged", calibration, recipe.name),
            f"evaluating merged network {recipe.name}"
            + ("" if calibration == "none" else f", {calibration}"),
            _evaluation_key(inputs, _merge_key(inputs, recipe.name), calibration, []),
            (),
            partial(stages.measure_merged, recipe.name, calibration),
        )


def _search_stage(
    inputs: Inputs, alignment: str, calibration: str, sets: dict[str, list[Weights]]
) -> Iterator[Stage]:
    """Yield the stage that looks for the highest point of the simplex, from all that are known."""
    simplex = inputs.spec.evaluate.simplex if inputs.spec.evaluate else None
    if simplex is None or not simplex.search or "simplex" not in sets:
        return
    name = stages.evaluation_name(alignment, calibration, "search")
    points = list(itertools.chain.from_iterable(sets.values()))
    family = _family_key(inputs, alignment)
    key = digest(_evaluation_key(inputs, family, calibration, points), simplex.grid, simplex.search)
    task = f"searching simplex, {alignment}"
    task += "" if calibration == "none" else f", {calibration}"
    work = partial(
        stages.search_simplex, name, key, alignment, calibration, simplex.grid, simplex.search, task
    )
    yield Stage(name, f"{task}: {simplex.search} points at most", key, (), work)


def _evaluation_key(inputs: Inputs, key: str, calibration: str, points: list[Weights]) -> str:
    fingerprint = inputs.data.fingerprint if inputs.data else None
    # Statistics that are estimated again depend on the batches they are estimated on.
    settings = inputs.spec.evaluate
    batch_size = settings.batch_size if settings and calibration != "none" else None
    precision = settings.precision if settings else None
    measured = [calibration, points, inputs.splits, batch_size, precision]
    where = "+".join(sorted({device.type for device in inputs.devices}))
    return digest(_VERSION, key, measured, fingerprint, where)


# --------------------------------------------------------------------------------------- memory


def peak_memory(inputs: Inputs) -> int:
    """Return an estimate, in bytes, of the most memory the run holds at once.

    Alignment is taken to hold eight copies of every network. That is about what `mixed` holds of
    ResNets; weight matching holds half of it, and methods with soft members hold more of networks
    of few wide layers. Evaluation holds one family, and the module that it is mixed into.
    """
    entries = sum(_count(shape) for shape in inputs.shapes.values())
    count, single = len(inputs.spec.networks), 4 * entries
    aligning = count * single * (8 if inputs.spec.align else 1)
    aligning += _data_bytes(inputs) if inputs.spec.looks_at != "weights" else 0
    evaluating = (count + 1) * single + _data_bytes(inputs)
    return _INTERPRETER + max(aligning, evaluating)


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for length in shape:
        total *= length
    return total


def _data_bytes(inputs: Inputs) -> int:
    splits = inputs.data.splits.values() if inputs.data else ()
    return sum(
        4 * len(split) * _count(split.input_shape)
        for split in splits
        if isinstance(split.dataset, InMemory)
    )
