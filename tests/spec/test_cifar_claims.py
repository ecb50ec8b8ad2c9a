"""The claims for CIFAR-10: the paper's hyperparameters, and what they cost."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mergekit_perm import networks, pipeline
from mergekit_perm.spec import RunSpec, load_sweep
from tests.cifar10 import write_cifar10

CLAIMS = sorted((Path(__file__).parents[2] / "specs/claims").glob("*_cifar10.yaml"))
EXAMPLES = 50_000
RATE = 20e12  # operations per second


@cache
def operations(architecture: str, width: int, depth: int) -> int:
    """Return the operations of one example forward."""
    module = networks.build(architecture, {"width": width, "depth": depth, "norm": "none"}, seed=0)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.zeros(1, 3, 32, 32))
    return counter.get_total_flops()


def trainings(spec: RunSpec) -> dict[Any, int]:
    """Return the epochs of everything that a run trains, by what tells it from others."""
    width, depth = spec.options["width"], spec.options["depth"]
    found: dict[Any, int] = {}
    for name, network in spec.networks.items():
        assert network.train is not None
        built = (spec.architecture_of(name), width, depth, network.train.seed)
        found[built] = spec.training(name).epochs
        pruning = spec.pruning(name)
        if pruning is not None:
            again = spec.training(name).epochs - pruning.rewind
            found |= {(*built, level): again for level in range(pruning.levels)}
            masks = spec.evaluate.mask_transport if spec.evaluate else None
            if masks is not None:
                # Permuted twice, raw, random, and one-shot; its own mask is trained already.
                count = 5 * len(spec.chosen_levels(masks.levels)) * masks.trainings
                found |= {(*built, "mask", place): again for place in range(count)}
    return found


def gpu_hours(specs: list[RunSpec]) -> float:
    """Return the hours of all trainings, each once: forward, and twice that backward."""
    every: dict[Any, int] = {}
    for spec in specs:
        every |= trainings(spec)
    total = sum(
        3 * operations(architecture, width, depth) * EXAMPLES * epochs
        for (architecture, width, depth, *_), epochs in every.items()
    )
    return total / RATE / 3600


@cache
def specs_of(path: Path) -> list[RunSpec]:
    """Return the specs of all runs of a claim."""
    sweep = load_sweep(path)
    return [sweep.spec_of(variation) for variation in sweep.variations]


@pytest.mark.parametrize("path", CLAIMS, ids=lambda path: path.stem)
def test_what_is_said_of_hours_is_what_it_takes(path: Path) -> None:
    said = re.search(r"About ([0-9.]+) GPU hours of training, at 20 TFLOP/s", path.read_text())
    assert said is not None
    assert float(said[1]) == pytest.approx(gpu_hours(specs_of(path)), rel=0.06)


@pytest.mark.parametrize("path", CLAIMS, ids=lambda path: path.stem)
def test_they_are_of_the_networks_and_the_training_of_the_paper(path: Path) -> None:
    specs = specs_of(path)
    assert {(s.architecture, s.options["depth"]) for s in specs} == {
        ("vgg", 16), ("resnet_cifar", 20),
    }  # fmt: skip
    for spec in specs:
        recipe = spec.training("a")
        assert (recipe.epochs, recipe.batch_size, recipe.optimizer) == (160, 128, "sgd")
        assert (recipe.learning_rate, recipe.momentum, recipe.weight_decay) == (0.1, 0.9, 1e-4)
        assert (recipe.schedule, recipe.milestones, recipe.gamma) == ("step", (80, 120), 0.1)
        assert (recipe.warmup_epochs, recipe.augment.flip, recipe.augment.crop) == (1, True, 4)
        assert spec.options["norm"] == "layer_norm" and spec.options["init"] == "he_normal"
        assert spec.data is not None and spec.data.source == "torchvision:CIFAR10"
        pruning = spec.pruning("a")
        assert pruning is None or (pruning.levels, pruning.fraction, pruning.rewind) == (20, 0.2, 5)


def test_there_is_one_for_every_claim() -> None:
    names = {path.stem for path in CLAIMS[0].parent.glob("*.yaml")}
    own = {name for name in names if not name.endswith("_cifar10")}
    assert names - own == {f"{name}_cifar10" for name in own}
    assert len(own) == 6


@pytest.mark.parametrize("path", CLAIMS, ids=lambda path: path.stem)
def test_they_are_planned(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar10(tmp_path, monkeypatch)
    # Narrow, which changes no stage: what is planned is a run of the width that is written.
    narrow = (
        "{depth: 16, width: 2, norm: layer_norm, init: he_normal, in_chans: 3, num_classes: 10}"
    )
    sweep = load_sweep(path, overrides=[f"data.root={tmp_path}", f"options={narrow}"])
    by_architecture = {
        spec.architecture: variation
        for spec, variation in zip(specs_of(path), sweep.variations, strict=True)
    }
    assert set(by_architecture) == {"vgg", "resnet_cifar"}
    for architecture, variation in by_architecture.items():
        spec = sweep.spec_of(variation)
        assert spec.architecture == architecture
        plan = pipeline.make_plan(spec, out=tmp_path / "out", device="cpu")
        names = [step.stage.name for step in plan.steps]
        assert len(names) == len(set(names))
        assert {f"networks/{name}" for name in spec.networks} | {"align"} <= set(names)
        assert {step.status for step in plan.steps} == {"to do"}
        assert spec.evaluate is not None
        assert any(n.startswith("matrix/") for n in names) == (spec.evaluate.matrix is not None)
        assert any(n.startswith("masks/") for n in names) == (
            spec.evaluate.mask_transport is not None
        )
