"""Everything that computes does so on the device it is given, and gives what the CPU gives.

The device is a simulated one, since no accelerator is at hand everywhere; see `another_device`.
`test_another_device` runs this.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import Dataset, TensorDataset

import mergekit_perm as pm
from mergekit_perm import align, checkpoints, derive, devices, evaluate, merge, networks, train
from mergekit_perm.data import Data, Split
from mergekit_perm.permspec import PermutationSpec
from tests import another_device

State = dict[str, torch.Tensor]

CPU = torch.device("cpu")

RESNET = {
    "depth": 8, "width": 4, "norm": "batch_norm", "num_classes": 3, "in_chans": 1, "img_size": 8,
}  # fmt: skip
VIT = {"img_size": 8, "patch_size": 4, "in_chans": 1, "num_classes": 3, "depth": 1}
NETWORKS = {"resnet_cifar": RESNET, "vit_tiny_patch16_224": {**VIT, "embed_dim": 24}}

QUICK: dict[str, dict[str, Any]] = {
    "weight_matching": {"restarts": 2, "cooling": 2, "max_sweeps": 2},
    "merge_many": {"max_sweeps": 2},
    "activation_matching": {"count": 20, "cooling": 2, "max_sweeps": 2},
    "mixed": {"steps": 2, "exchanges": 4, "restarts": 1, "count": 20, "max_sweeps": 2},
    "frank_wolfe": {"max_iterations": 3},
    "sinkhorn": {"steps": 2},
    "straight_through": {"steps": 2},
}


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """Return the other device, which is there for the test."""
    torch.set_num_threads(1)
    found = another_device.device()
    monkeypatch.setattr(devices, "_available", lambda: [str(found), "cpu"])
    # It computes on the CPU, and so draws there.
    monkeypatch.setattr(torch, "Generator", _GeneratorOnCpu)
    # Its tensors know no inference mode.
    monkeypatch.setattr(torch, "inference_mode", lambda mode=True: torch.set_grad_enabled(not mode))
    return found


class _GeneratorOnCpu(torch.Generator):
    def __new__(cls, _device: Any = "cpu") -> torch.Generator:
        return torch._C.Generator("cpu")


def blobs() -> Data:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(60, 1, 8, 8, generator=generator)
    y = torch.arange(60) % 3
    x[:, 0, :3] += y[:, None, None]
    parts = {"train": slice(40), "test": slice(40, 60)}
    splits = {name: Split(name, TensorDataset(x[part], y[part])) for name, part in parts.items()}
    return Data("blobs", splits, 3, (1, 8, 8), "")


def build(architecture: str, seed: int = 0) -> nn.Module:
    return networks.build(architecture, NETWORKS[architecture], seed=seed)


def family(architecture: str = "resnet_cifar") -> dict[str, State]:
    return {name: dict(build(architecture, seed).state_dict()) for seed, name in enumerate("abc")}


def spec_of(architecture: str) -> PermutationSpec:
    shapes = checkpoints.shapes(build(architecture))
    return derive.find(architecture, NETWORKS[architecture], shapes).spec


def placed(states: dict[str, State], where: torch.device) -> dict[str, State]:
    return {n: {t: value.to(where) for t, value in state.items()} for n, state in states.items()}


def test_the_device_refuses_tensors_that_are_not_on_it(elsewhere: torch.device) -> None:
    here, there = torch.ones(3), torch.ones(3).to(elsewhere)
    assert there.device == elsewhere and torch.equal((there + there).cpu(), here + here)
    with pytest.raises(RuntimeError, match="is not on this device"):
        there + here
    with pytest.raises(RuntimeError, match="numpy"):
        np.asarray(there)


@pytest.mark.parametrize("method", align.METHODS)
@pytest.mark.parametrize("architecture", NETWORKS)
def test_alignments(elsewhere: torch.device, architecture: str, method: str) -> None:
    states, spec, module = family(architecture), spec_of(architecture), build(architecture)

    def run(states: dict[str, State], device: torch.device) -> align.Family:
        return align.align(
            states, spec, method=method, model=module, data=blobs(), device=device, **QUICK[method]
        )

    expected = run(states, CPU)
    for given, where in ((states, CPU), (placed(states, elsewhere), elsewhere)):
        found = run(given, elsewhere)
        assert found.permutations == expected.permutations
        assert found.objective == expected.objective
        assert {t.device for state in found.states.values() for t in state.values()} == {where}


@pytest.mark.parametrize("calibration", evaluate.CALIBRATIONS)
@pytest.mark.parametrize("architecture", NETWORKS)
def test_barriers(elsewhere: torch.device, architecture: str, calibration: str) -> None:
    states, module = family(architecture), build(architecture)

    def run(device: str) -> list[float]:
        found = evaluate.barrier(
            states, module, blobs(), points=5, simplex=3, calibration=calibration, device=device
        )
        return [point.value for barrier in found for point in barrier.points]

    assert run(str(elsewhere)) == pytest.approx(run("cpu"), rel=1e-6, abs=1e-9)
    assert next(module.parameters()).device == CPU


class Waits(TorchDispatchMode):
    """Counts how often the CPU asks for numbers that the device has."""

    count = 0

    def __torch_dispatch__(self, op: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        asks = op is torch.ops.aten._local_scalar_dense.default
        copies = op is torch.ops.aten._to_copy.default and (kwargs or {}).get("device") == CPU
        if asks or copies:
            self.count += args[0].device != CPU
        return op(*args, **(kwargs or {}))


class OneByOne(Dataset[Any]):
    """Examples that are not in memory."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        x, y = blobs().splits["test"].dataset[index]
        return x, y


@pytest.mark.parametrize("calibration", ["none", "temperature", "batch_norm"])
def test_no_batch_makes_the_cpu_wait(elsewhere: torch.device, calibration: str) -> None:
    split = Split("test", OneByOne())
    waits = []
    for batch_size in (10, 5):
        states = list(family().values())
        engine = evaluate.Engine(
            build("resnet_cifar"), states, {"test": split}, train_split=split,
            calibration=calibration, device=elsewhere, batch_size=batch_size,
        )  # fmt: skip
        with Waits() as seen:
            engine.measure((0.5, 0.5, 0.0))
        waits.append(seen.count)
    assert waits[0] == waits[1] > 0


@pytest.mark.parametrize("method", pm.RECIPES)
def test_merges(elsewhere: torch.device, method: str) -> None:
    table = merge.find(method).table
    names = "abc"[: int(min(3, table.most + (table.base == "required")))]
    states = {name: state for name, state in family().items() if name in names}
    options: dict[str, Any] = {"t": 0.5} if "t" in table.options else {}
    if table.base == "required":
        options["base_model"] = "a"

    one = pm.merge(states, method=method, **options)
    other = pm.merge(placed(states, elsewhere), method=method, **options)

    assert {value.device for value in other.values()} == {elsewhere}
    for tensor, value in one.items():
        assert torch.equal(other[tensor].cpu(), value), tensor


def test_training(elsewhere: torch.device) -> None:
    recipe = train.Recipe(epochs=2, batch_size=16, noise=0.1)
    one, other = build("resnet_cifar"), build("resnet_cifar")
    losses = train.fit(one, blobs().splits["train"], recipe, seed=0).losses

    assert (
        losses == train.fit(other, blobs().splits["train"], recipe, seed=0, device=elsewhere).losses
    )
    for ours, theirs in zip(one.parameters(), other.parameters(), strict=True):
        assert theirs.device == elsewhere and torch.equal(theirs.cpu(), ours)


def test_a_run(elsewhere: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = textwrap.dedent("""
        format: perm-merge/run@1
        name: NAME
        architecture: resnet_cifar
        options: {depth: 8, width: 4, num_classes: 10, in_chans: 1, img_size: 8}
        data: digits
        networks: {a: {A}, b: {B}}
        train: {epochs: 1}
        align: {steps: 1, exchanges: 1, restarts: 1, count: 32, rows: 32}
        merge:
          - {name: mean, method: linear}
          - {name: fisher, method: fisher, parameters: {count: 16}}
          - {name: regmean, method: regmean}
          - {name: soup, method: greedy_soup}
        evaluate: {points: 3, splits: [test], calibration: [none, repair]}
    """)
    Path("train.yaml").write_text(
        spec.replace("A}", "train: {seed: 0}}").replace("B}", "train: {seed: 1}}")
    )
    pm.run("train.yaml", out="trained", device="cpu")
    files = spec
    for name in "ab":
        files = files.replace(
            f"{name.upper()}}}", f"checkpoint: trained/networks/{name}.safetensors}}"
        )
    Path("read.yaml").write_text(files)

    one = pm.run("read.yaml", out="here", device="cpu")
    other = pm.run("read.yaml", out="there", device=str(elsewhere))

    assert other.provenance.device == str(elsewhere)
    assert [m.sha256 for m in other.merged.values()] == [m.sha256 for m in one.merged.values()]
    for here, there in zip(one.barriers, other.barriers, strict=True):
        assert there.barrier == pytest.approx(here.barrier, abs=1e-12)
