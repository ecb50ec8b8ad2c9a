"""A pair of ResNet-20 at 25 points on two splits: against bare passes, and against the usual loop.

pytest -m bench tests/benchmarks/test_evaluation_speed.py
"""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from mergekit_perm import data, evaluate, networks
from mergekit_perm.data import Split
from tests.benchmarks import results

POINTS = 25
ROUNDS = 3
USUAL_BATCH = 128

State = dict[str, torch.Tensor]


def digits() -> dict[str, Split]:
    return dict(data.load("digits").splits)


def images() -> dict[str, Split]:
    """Return two splits of random images of the size of CIFAR-10's: 600 in all."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name, count in (("train", 400), ("test", 200)):
        inputs = torch.randn(count, 3, 32, 32, generator=generator)
        labels = torch.randint(10, (count,), generator=generator)
        found[name] = Split(name, TensorDataset(inputs, labels))
    return found


def pair(splits: Mapping[str, Split]) -> tuple[nn.Module, list[State]]:
    """Return a ResNet-20, and two networks of it with the statistics of the data."""
    channels, edge, _ = splits["train"].input_shape
    options = {
        "depth": 20, "width": 16, "norm": "batch_norm", "num_classes": 10, "in_chans": channels,
        "img_size": edge,
    }  # fmt: skip
    states = []
    for seed in (0, 1):
        module = networks.build("resnet_cifar", options, seed=seed)
        evaluate.calibrate(module, "batch_norm", splits["train"])
        states.append({k: v.detach().clone() for k, v in module.state_dict().items()})
    return module.eval(), states


def engine_run(
    module: nn.Module, states: list[State], splits: Mapping[str, Split]
) -> list[dict[str, evaluate.Metrics]]:
    return evaluate.evaluate_points(module, states, evaluate.edge(POINTS), splits)


def bare_run(
    module: nn.Module, splits: Mapping[str, Split], layout: torch.memory_format, batch_size: int
) -> None:
    """Run as many batches of the same size through one network that stays as it is."""
    fixed = copy.deepcopy(module).to(memory_format=layout)
    batches = [
        inputs.to(memory_format=layout)
        for split in splits.values()
        for inputs, _ in split.batches(batch_size)
    ]
    with torch.inference_mode():
        for _ in range(POINTS):
            for inputs in batches:
                fixed(inputs)


def usual_run(module: nn.Module, states: list[State], splits: Mapping[str, Split]) -> list[float]:
    """Load every mix into the network, and the data anew each time: what scripts do."""
    losses = []
    for first, second in evaluate.edge(POINTS):
        module.load_state_dict({k: first * states[0][k] + second * states[1][k] for k in states[0]})
        for split in splits.values():
            total = 0.0
            with torch.no_grad():
                for inputs, labels in DataLoader(split.dataset, USUAL_BATCH):
                    total += float(F.cross_entropy(module(inputs), labels, reduction="sum"))
            losses.append(total / len(split))
    return losses


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
        module, states = pair(splits)
        size = evaluate.Engine(module, states, splits, device=torch.device("cpu")).batch_size
        works: dict[str, Callable[[], object]] = {
            "engine": partial(engine_run, module, states, splits),
            "plain": partial(bare_run, module, splits, torch.contiguous_format, size),
            "channels last": partial(bare_run, module, splits, torch.channels_last, size),
            "usual": partial(usual_run, copy.deepcopy(module), states, splits),
        }
        timed = {key: [seconds(work) for _ in range(ROUNDS)] for key, work in works.items()}
        best = {key: min(values) for key, values in timed.items()}
        found = [m.loss for point in engine_run(module, states, splits) for m in point.values()]
        np.testing.assert_allclose(
            found, usual_run(copy.deepcopy(module), states, splits), rtol=1e-4
        )
        least = products(module, splits)
        fresh.append({"data": name, "threads": threads, "products": least, **best})
    results.keep("evaluation", [*rows, *fresh])
    for row in fresh:
        assert row["engine"] <= 1.10 * min(row["plain"], row["channels last"])
        assert row["engine"] <= row["usual"] / 2


ONE = """
import json, pathlib, torch
from torch.utils.data import TensorDataset
from mergekit_perm import evaluate, networks
from mergekit_perm.data import Split
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
