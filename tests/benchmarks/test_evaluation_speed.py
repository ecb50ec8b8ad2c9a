"""Pairs at 25 points on two splits: against bare passes, and against the usual loop.

pytest -m bench tests/benchmarks/test_evaluation_speed.py
pytest -m gpu tests/benchmarks/test_evaluation_speed.py
"""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from mergekit_perm import data, evaluate, networks
from mergekit_perm.data import Split
from mergekit_perm.evaluate.pace import ALONE, COMPILED, Pace
from mergekit_perm.evaluate.precision import arithmetic
from tests.benchmarks import results

POINTS = 25
ROUNDS = 3
USUAL_BATCH = 128

State = dict[str, torch.Tensor]
Pair = tuple[nn.Module, list[State]]


def digits() -> dict[str, Split]:
    return dict(data.load("digits").splits)


def images(edge: int = 32, train: int = 400, test: int = 200) -> dict[str, Split]:
    """Return two splits of random images, of CIFAR-10's size unless told otherwise."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name, count in (("train", train), ("test", test)):
        inputs = torch.randn(count, 3, edge, edge, generator=generator)
        labels = torch.randint(10, (count,), generator=generator)
        found[name] = Split(name, TensorDataset(inputs, labels))
    return found


def resnet20(splits: Mapping[str, Split]) -> Pair:
    channels, edge, _ = splits["train"].input_shape
    options = {
        "depth": 20, "width": 16, "norm": "batch_norm", "num_classes": 10, "in_chans": channels,
        "img_size": edge,
    }  # fmt: skip
    return pair("resnet_cifar", options, splits)


def pair(architecture: str, options: Mapping[str, Any], splits: Mapping[str, Split]) -> Pair:
    """Return a module, and two networks of it with the statistics of the data."""
    states = []
    for seed in (0, 1):
        module = networks.build(architecture, options, seed=seed)
        evaluate.calibrate(module, "batch_norm", splits["train"])
        states.append({k: v.detach().clone() for k, v in module.state_dict().items()})
    return module.eval(), states


def engine_run(
    module: nn.Module,
    states: list[State],
    splits: Mapping[str, Split],
    device: torch.device,
    room: evaluate.Room,
) -> list[dict[str, evaluate.Metrics]]:
    """Measure a pair as a run does that has measured others: it knows which way is quickest."""
    engine = evaluate.Engine(module, states, splits, device=device, room=room)
    return evaluate.measure_points(engine, evaluate.edge(POINTS))


def bare_run(
    module: nn.Module,
    splits: Mapping[str, Split],
    device: torch.device,
    layout: torch.memory_format,
    batch_size: int,
) -> None:
    """Run as many batches of the same size through one network that stays as it is."""
    fixed = copy.deepcopy(module).to(device, memory_format=layout)
    batches = [
        inputs.to(memory_format=layout) if inputs.ndim == 4 else inputs
        for split in splits.values()
        for inputs, _ in split.batches(batch_size, device=device)
    ]
    with torch.inference_mode(), arithmetic("float32", device):
        for _ in range(POINTS):
            for inputs in batches:
                last = fixed(inputs)
        last.sum().item()  # an accelerator is done by then


def usual_run(
    module: nn.Module, states: list[State], splits: Mapping[str, Split], device: torch.device
) -> list[float]:
    """Load every mix into the network, and the data anew each time: what scripts do."""
    losses = []
    with arithmetic("float32", device):
        for first, second in evaluate.edge(POINTS):
            mixed = {k: first * states[0][k] + second * states[1][k] for k in states[0]}
            module.load_state_dict(mixed)
            for split in splits.values():
                total = 0.0
                with torch.no_grad():
                    for inputs, labels in DataLoader(split.dataset, USUAL_BATCH):
                        logits = module(inputs.to(device))
                        loss = F.cross_entropy(logits, labels.to(device), reduction="sum")
                        total += float(loss)
                losses.append(total / len(split))
    return losses


def timed(network: Pair, splits: Mapping[str, Split], device: torch.device) -> dict[str, Any]:
    """Return the seconds of every way, the best of some rounds; figures have to agree.

    Beside them, what the engine has found out about ways to measure, in words.
    """
    module, states = network
    room = evaluate.Room()
    size = evaluate.Engine(module, states, splits, device=device).batch_size
    bare = partial(bare_run, module, splits, device)
    theirs = copy.deepcopy(module).to(device)
    there = [{k: v.to(device) for k, v in state.items()} for state in states]
    works: dict[str, Callable[[], object]] = {
        "engine": partial(engine_run, module, states, splits, device, room),
        "plain": partial(bare, torch.contiguous_format, size),
        "channels last": partial(bare, torch.channels_last, size),
        "usual": partial(usual_run, theirs, there, splits, device),
    }
    found = [m.loss for point in works["engine"]() for m in point.values()]
    np.testing.assert_allclose(found, works["usual"](), rtol=1e-4)
    # Round by round, so that a machine that gets slower does so for all of them.
    rounds = [{key: seconds(work) for key, work in works.items()} for _ in range(ROUNDS)]
    best = {key: min(each[key] for each in rounds) for key in works}
    return best | {"way": "; ".join(room.notes) or "points are measured one by one"}


def compiled(network: Pair, splits: Mapping[str, Split], device: torch.device) -> dict[str, float]:
    """Return the seconds of an engine that compiles passes, and what that took at first."""
    module, states = network
    known = {ALONE: 1.0, COMPILED: 0.1}
    room = evaluate.Room(paces={"none": Pace((ALONE, COMPILED), known)})
    engine = evaluate.Engine(module, states, splits, device=device, room=room)
    work = partial(evaluate.measure_points, engine, evaluate.edge(POINTS))
    first, then = seconds(work), min(seconds(work) for _ in range(ROUNDS))
    assert not room.notes, room.notes  # of what went wrong
    return {"compiled": then, "compiling": first - then}


def products(module: nn.Module, splits: Mapping[str, Split]) -> float:
    """Return the seconds that plain matrix products of as many operations take: about the least."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        module(torch.randn(1, *next(iter(splits.values())).input_shape))
    operations = counter.get_total_flops() * POINTS * sum(map(len, splits.values()))
    one, other = torch.randn(2048, 2048), torch.randn(2048, 2048)
    return min(seconds(lambda: one @ other) for _ in range(8)) * operations / (2 * 2048**3)


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


@pytest.mark.bench
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("threads", [1, 2])
def test_points_cost_little_more_than_their_passes(threads: int) -> None:
    torch.set_num_threads(threads)
    rows = [row for row in results.kept("evaluation") if row["threads"] != threads]
    fresh = []
    for name, splits in (("digits", digits()), ("32 x 32", images())):
        network = resnet20(splits)
        row = {"network": "ResNet-20", "data": name, "threads": threads}
        row |= timed(network, splits, torch.device("cpu"))
        fresh.append(row | {"products": products(network[0], splits)})
    results.keep("evaluation", [*rows, *fresh])
    for row in fresh:
        assert row["engine"] <= 1.10 * min(row["plain"], row["channels last"])
        assert row["engine"] <= row["usual"] / 2


def on_an_accelerator() -> Iterator[tuple[str, str, Mapping[str, Split], Pair]]:
    """Yield networks from ones too small to fill a device to ones that do, and their data."""
    small, mid, large = digits(), images(32, 8000, 2000), images(224, 384, 128)
    mlp = {"in_features": 64, "hidden": [128] * 4, "num_classes": 10}
    yield "MLP, depth 4, width 128", "digits", small, pair("mlp", mlp, small)
    yield "ResNet-20", "digits", small, resnet20(small)
    yield "ResNet-20", "32 x 32", mid, resnet20(mid)
    yield "ResNet-50", "224 x 224", large, pair("resnet50", {"num_classes": 10}, large)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores")
@pytest.mark.timeout(3600)
def test_points_on_an_accelerator() -> None:
    torch.set_num_threads(1)
    rows = []
    for name, data_name, splits, network in on_an_accelerator():
        row: dict[str, Any] = {"network": name, "data": data_name, "threads": 1}
        cuda = torch.device("cuda")
        rows.append(row | timed(network, splits, cuda) | compiled(network, splits, cuda))
        results.keep("evaluation_gpu", rows, "cuda")
    for row in rows:
        assert row["engine"] <= 1.10 * min(row["plain"], row["channels last"])
        assert row["engine"] <= row["usual"] / 2
        if row["data"] == "digits":  # too little to fill a device
            assert row["engine"] <= row["usual"] / 10


ONE = """
import json, pathlib, torch
from torch.utils.data import TensorDataset
from mergekit_perm import evaluate, networks
from mergekit_perm.data import Split
from mergekit_perm.evaluate.precision import arithmetic
torch.set_num_threads(1)

def peak():
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024

inputs, labels = torch.randn(2, 3, 224, 224), torch.tensor([0, 1])
splits = {"test": Split("test", TensorDataset(inputs, labels))}
small = networks.build("vit_tiny_patch16_224", {}, seed=0)
states = [dict(small.state_dict())] * 2
evaluate.Engine(small, states, splits, device=torch.device("cpu")).measure((0.5, 0.5))
before = peak()
module = networks.build("vit_large_patch16_224", {}, seed=0)
states = [{k: v.clone() for k, v in module.state_dict().items()} for _ in range(2)]
weights = sum(tensor.numel() * 4 for tensor in states[0].values())
engine = evaluate.Engine(module, states, splits, device=torch.device("cpu"), in_place=True)
for point in evaluate.edge(3):
    engine.measure(point)
print(json.dumps({"parameters": weights // 4, "copies": (peak() - before) / weights}))
"""


@pytest.mark.bench
@pytest.mark.timeout(1800)
def test_a_large_pair_takes_three_copies_of_its_weights() -> None:
    done = subprocess.run([sys.executable, "-c", ONE], capture_output=True, text=True, check=True)
    row = json.loads(done.stdout.splitlines()[-1])
    results.keep("evaluation_memory", [row])
    # Activations of two examples are on top: a hundredth of the weights.
    assert row["copies"] <= 3.1
