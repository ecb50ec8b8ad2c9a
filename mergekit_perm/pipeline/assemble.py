"""From the results of the stages to the report: barriers by their definition, and gates."""

from __future__ import annotations

import importlib.metadata
import itertools
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from mergekit_perm import __version__, evaluate
from mergekit_perm.align import JOINT
from mergekit_perm.evaluate import Barrier, Point
from mergekit_perm.files import file_sha256
from mergekit_perm.pipeline.folder import SPEC, RunFolder
from mergekit_perm.pipeline.inputs import Inputs
from mergekit_perm.pipeline.plan import (
    Weights,
    alignments,
    calibrations,
    evaluation_name,
    path_points,
    point_sets,
)
from mergekit_perm.report import Report

Results = Mapping[str, Mapping[str, Any]]
Plain = dict[str, Any]


def report(inputs: Inputs, results: Results, folder: RunFolder) -> Report:
    """Return the report of a run whose stages gave `results`, by stage name."""
    barriers = _barriers(inputs, results)
    return Report.from_json(
        {
            "format": "perm-merge/report@1",
            "name": inputs.spec.name,
            "networks": _networks(inputs, results),
            "alignment": _alignment(inputs, results),
            "barriers": [asdict(barrier) for barrier in barriers],
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
    found = []
    for alignment, calibration in itertools.product(alignments(inputs), calibrations(inputs)):
        measured = _points(inputs, results, alignment, calibration)
        for path, split, metric in itertools.product(
            _paths(inputs, measured), inputs.splits, evaluate.METRICS
        ):
            points = [
                Point(path.own(weights), measured[weights][split][metric])
                for weights in path.weights
            ]
            found.append(
                evaluate.from_points(
                    points,
                    kind=path.kind,
                    networks=path.networks,
                    alignment=alignment,
                    calibration=calibration,
                    split=split,
                    metric=metric,
                    spoke=path.spoke,
                )
            )
    return found


def _points(
    inputs: Inputs, results: Results, alignment: str, calibration: str
) -> dict[Weights, Plain]:
    """Return the metrics of every mixture that was measured, by its weights."""
    return {
        tuple(point["weights"]): point["metrics"]
        for label, wanted in point_sets(inputs).items()
        if wanted
        for point in results[evaluation_name(alignment, calibration, label)]["points"]
    }


@dataclass(frozen=True, slots=True)
class _Path:
    """A pair or the simplex, and its points as weights of all networks of the run."""

    kind: Literal["pair", "simplex"]
    networks: tuple[str, ...]
    places: tuple[int, ...]
    spoke: bool | None
    weights: tuple[Weights, ...]

    def own(self, weights: Weights) -> Weights:
        return tuple(weights[place] for place in self.places)


def _paths(inputs: Inputs, measured: Mapping[Weights, Plain]) -> Iterator[_Path]:
    settings, names = inputs.spec.evaluate, tuple(inputs.spec.networks)
    if settings is None:
        return
    for a, b in inputs.spec.pairs:
        places = names.index(a), names.index(b)
        weights = tuple(path_points(list(names), a, b, settings.points))
        yield _Path("pair", (a, b), places, _is_spoke(inputs, a, b), weights)
    if settings.simplex is not None:
        # All that was measured: the grid, the barycentre, and every path, so that the barrier of
        # the simplex is at least that of each pair.
        yield _Path("simplex", names, tuple(range(len(names))), None, tuple(measured))


def _is_spoke(inputs: Inputs, a: str, b: str) -> bool | None:
    """Tell whether a pair contains the reference; None where no network is the reference."""
    settings = inputs.spec.align
    if settings is None or settings.reference == JOINT:
        return None
    return settings.reference in (a, b)


# --------------------------------------------------------------------------- merged, gates, notes


def _merged(inputs: Inputs, results: Results, folder: RunFolder) -> Plain:
    merged = {}
    for recipe in inputs.spec.merge:
        file = results[f"merge/{recipe.name}"]["file"]
        merged[recipe.name] = {
            "file": file,
            "sha256": file_sha256(folder.path / file),
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
        calibration = gate.calibration if inputs.has_batch_norm else "none"
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
        if calibration not in calibrations(inputs):
            notes.append(
                f"Calibration {calibration} changes nothing here: the networks have no BatchNorm. "
                "It was not measured apart from none."
            )
    if inputs.spec.align is not None and not results["permutations"]["verified"]:
        notes.append(
            "The permutation spec was trusted, not proven (--trust-permspec): if it is wrong, the "
            "aligned networks are not the networks that were given."
        )
    return notes


def _provenance(inputs: Inputs, results: Results, folder: RunFolder) -> Plain:
    packages = ("torch", "timm", "numpy", "scipy", "safetensors")
    seeds = {
        f"networks/{name}": network.train.seed
        for name, network in inputs.spec.networks.items()
        if network.train is not None
    }
    if inputs.spec.align is not None:
        seeds["align"] = inputs.spec.align.seed
    return {
        "spec_sha256": file_sha256(folder.path / SPEC),
        "versions": {
            "perm-merge": __version__,
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in packages},
        },
        "device": _device_name(inputs.device),
        "dtype": "float32",
        "seeds": seeds,
        "seconds": {name: result["seconds"] for name, result in results.items()},
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    if device.type == "cpu":
        return f"cpu ({torch.get_num_threads()} threads)"
    return str(device)
