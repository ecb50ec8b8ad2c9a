"""From the results of the stages to the report: barriers by their definition, and gates."""

from __future__ import annotations

import importlib.metadata
import itertools
import math
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from mergekit_perm import __version__, evaluate
from mergekit_perm.checkpoints.hashes import content_sha256
from mergekit_perm.evaluate import Barrier, Metrics
from mergekit_perm.pipeline import missing
from mergekit_perm.pipeline.checkpoint_pairs import checkpoint_barriers
from mergekit_perm.pipeline.composition import compositions
from mergekit_perm.pipeline.controls import controls
from mergekit_perm.pipeline.folder import SPEC, RunFolder
from mergekit_perm.pipeline.inputs import Inputs, alignments, calibration_of, calibrations
from mergekit_perm.pipeline.keys import Weights, found_at
from mergekit_perm.pipeline.matrix import checkpoints, matrices
from mergekit_perm.pipeline.merging import merged_words
from mergekit_perm.pipeline.points import paths, point_sets
from mergekit_perm.pipeline.stages import evaluation_name
from mergekit_perm.pipeline.transport import transported
from mergekit_perm.report import Report
from mergekit_perm.spec import without_seeds

Results = Mapping[str, Mapping[str, Any]]
Plain = dict[str, Any]


def report(inputs: Inputs, results: Results, folder: RunFolder) -> Report:
    """Return the report of a run whose stages gave `results`, by stage name."""
    barriers = [*_barriers(inputs, results), *checkpoint_barriers(inputs, results)]
    return Report.from_json(
        {
            "format": "perm-merge/report@1",
            "name": inputs.spec.name,
            "networks": _networks(inputs, results),
            "alignment": _alignment(inputs, results),
            "barriers": [asdict(barrier) for barrier in barriers],
            "matrices": matrices(inputs, results),
            "checkpoints": checkpoints(inputs, results),
            "compositions": compositions(inputs, results),
            "controls": controls(inputs, results),
            "transported": transported(inputs, results),
            "merged": _merged(inputs, results, folder),
            "gates": _gates(inputs, barriers),
            "provenance": _provenance(inputs, results, folder),
            "notes": _notes(inputs, results),
        }
    )


def _networks(inputs: Inputs, results: Results) -> Plain:
    """Return loss and error of every network as it is, by split; empty when none is evaluated."""
    if inputs.spec.evaluate is None:
        return {name: {} for name in inputs.spec.networks}
    first = calibrations(inputs)[0]
    measured = results[evaluation_name("naive", first, "networks")]["points"]
    return {
        name: point["metrics"] for name, point in zip(inputs.spec.networks, measured, strict=True)
    }


def _alignment(inputs: Inputs, results: Results) -> Plain | None:
    settings = inputs.spec.align
    if settings is None:
        return None
    proof, found = results["permutations"], results["align"]
    return {
        "reference": settings.reference,
        "method": settings.method,
        "saw": found["saw"],
        "at": list(found_at(inputs)),
        "cut_off": found["cut_off"],
        "objective": found["objective"],
        "permutations": {
            "source": proof["source"],
            "verified": proof["verified"],
            "trusted": not proof["verified"],
            "coverage": proof["coverage"],
        },
        "groups": found["groups"],
        "seconds": found["seconds"],
    }


# ------------------------------------------------------------------------------------- barriers


def _barriers(inputs: Inputs, results: Results) -> list[Barrier]:
    names = list(inputs.spec.networks)
    found = []
    for alignment, calibration in itertools.product(alignments(inputs), calibrations(inputs)):
        values = _values(inputs, results, alignment, calibration)
        for path, split, metric in itertools.product(
            paths(inputs), inputs.splits, evaluate.METRICS
        ):
            wide = path.with_all(values)
            found.append(wide.barrier(names, values, calibration, split, metric, alignment))
    return found


def _values(
    inputs: Inputs, results: Results, alignment: str, calibration: str
) -> dict[Weights, dict[str, Metrics]]:
    """Return the metrics of every mixture that was measured, by its weights and split."""
    return {
        tuple(point["weights"]): {
            split: Metrics(**metrics) for split, metrics in point["metrics"].items()
        }
        for label in [*(label for label, wanted in point_sets(inputs).items() if wanted), "search"]
        for point in results.get(evaluation_name(alignment, calibration, label), {"points": ()})[
            "points"
        ]
    }


# --------------------------------------------------------------------------- merged, gates, notes


def _merged(inputs: Inputs, results: Results, folder: RunFolder) -> Plain:
    merged = {}
    for recipe in inputs.spec.merge:
        done = results[f"merge/{recipe.name}"]
        file = done["file"]
        merged[recipe.name] = {
            "file": file,
            "calibrated": done.get("calibrated"),
            "sha256": content_sha256(folder.path / file),
            "calibration": {
                calibration: results[evaluation_name("merged", calibration, recipe.name)]["metrics"]
                for calibration in calibrations(inputs)
            },
        }
    return merged


def _gates(inputs: Inputs, barriers: Sequence[Barrier]) -> list[Plain]:
    """Return every gate with the highest barrier that it is about."""
    gates = []
    for gate in inputs.spec.gates:
        calibration = calibration_of(inputs, gate.calibration)
        value = max(
            barrier.barrier
            for barrier in barriers
            if (barrier.kind, barrier.metric, barrier.split)
            == (gate.barrier, gate.metric, gate.split)
            and (barrier.alignment, barrier.calibration) == (gate.alignment, calibration)
        )
        gates.append({**gate.model_dump(), "value": value, "passed": value <= gate.at_most})
    return gates


def _notes(inputs: Inputs, results: Results) -> list[str]:
    """Return what a reader should know and no figure says."""
    notes = []
    asked = inputs.spec.evaluate.calibration if inputs.spec.evaluate else ()
    for calibration in asked:
        same = calibration_of(inputs, calibration)
        if same != calibration:
            notes.append(
                f"Calibration {calibration} changes nothing here: the networks have no BatchNorm. "
                "It was not measured apart from none."
                if same == "none"
                else f"Calibration {calibration} does what {same} does, and was measured as that: "
                "the networks have no BatchNorm."
            )
    notes += _calibrated(inputs, results)
    if inputs.spec.align is not None and not results["permutations"]["verified"]:
        notes.append(
            "The permutation spec was trusted, not proven (--trust-permspec): if it is wrong, the "
            "aligned networks are not the networks that were given."
        )
    notes += missing.notes(inputs.spec, results)
    for recipe in inputs.spec.merge:
        if words := merged_words(results[f"merge/{recipe.name}"]):
            notes.append(f"Merged network {recipe.name}: {words}.")
    for stage, result in results.items():
        notes += [f"{stage}: {note}." for note in result.get("notes", ())]
    return [*notes, *_not_finite(inputs, results)]


def _calibrated(inputs: Inputs, results: Results) -> Iterator[str]:
    """Yield what figures of merged networks depend on: where their temperatures come from."""
    for recipe in inputs.spec.merge:
        done = results[f"merge/{recipe.name}"].get("calibrated", {"name": "none", "split": None})
        if done["name"] != recipe.calibrate:
            yield (
                f"Merged network {recipe.name} has no BatchNorm, so that calibration "
                f"{recipe.calibrate} did what {done['name']} does."
            )
        if done["split"] is None:
            continue
        if done["scale"] == 1.0:
            yield (
                f"No temperature is best for merged network {recipe.name} on {done['split']}: it "
                "is right on every example there, or no better than chance. Its logits were left."
            )
        else:
            yield (
                f"The temperature of merged network {recipe.name} was found on {done['split']}: "
                "of n examples, its loss there is lower for that by about 1/(2n) nats."
            )


def _not_finite(inputs: Inputs, results: Results) -> Iterator[str]:
    """Yield where losses are infinite or no numbers, by alignment, calibration and split."""
    if inputs.spec.evaluate is None:
        return
    names = list(inputs.spec.networks)
    for alignment, calibration in itertools.product(alignments(inputs), calibrations(inputs)):
        values = _values(inputs, results, alignment, calibration)
        for split in inputs.splits:
            bad = [w for w, measured in values.items() if not math.isfinite(measured[split].loss)]
            if bad:
                shares = zip(bad[0], names, strict=True)
                first = " + ".join(f"{weight:.4g} {name}" for weight, name in shares if weight)
                where = alignment if calibration == "none" else f"{alignment}, {calibration}"
                yield (
                    f"The loss on {split} is {values[bad[0]][split].loss} at {first} ({where}), "
                    f"one of {len(bad)} mixtures where it is no finite number; barriers that have "
                    "such a point are infinite."
                )


def _provenance(inputs: Inputs, results: Results, folder: RunFolder) -> Plain:
    packages = ("torch", "timm", "numpy", "scipy", "safetensors")
    seeds = {
        f"networks/{name}": network.train.seed
        for name, network in inputs.spec.networks.items()
        if network.train is not None
    }
    if inputs.spec.align is not None and "seed" in inputs.spec.align.options:
        seeds["align"] = inputs.spec.align.options["seed"]
    return {
        "spec_sha256": content_sha256(folder.path / SPEC),
        "versions": {
            "perm-merge": __version__,
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in packages},
        },
        "device": ", ".join(map(_device_name, inputs.devices)),
        "dtype": inputs.spec.evaluate.precision if inputs.spec.evaluate else "float32",
        "seeds": seeds,
        "repeats": without_seeds(inputs.spec),
        "seconds": {name: result["seconds"] for name, result in results.items()},
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"cpu ({threads} thread{'s' * (threads > 1)})"
    return str(device)
