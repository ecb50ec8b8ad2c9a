"""The same numbers on an accelerator as on the CPU."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from mergekit_perm.data import Data, Split
from mergekit_perm.evaluate import barrier, measure
from mergekit_perm.train import Recipe, fit

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


def data() -> Data:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(300, 3, 8, 8, generator=generator)
    y = x[:, :, 2:4].mean((2, 3)).argmax(1)
    splits = {"train": (x[:200], y[:200]), "test": (x[200:], y[200:])}
    made = {name: Split(name, TensorDataset(*tensors)) for name, tensors in splits.items()}
    return Data("blobs", made, 3, (3, 8, 8), "")


def network(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Flatten(),
            nn.Linear(288, 3),
        )


RECIPE = Recipe(epochs=3, batch_size=32, noise=0.1, flip=True, crop=1)


def test_barriers_agree_with_the_cpu() -> None:
    modules = [network(seed) for seed in (0, 1, 2)]
    for seed, module in enumerate(modules):
        fit(module, data().splits["train"], RECIPE, seed=seed)
    states = {name: module.state_dict() for name, module in zip("abc", modules, strict=True)}
    options = {"points": 5, "simplex": 3, "calibration": ["none", "batch_norm"]}

    here = barrier(states, modules[0], data(), device="cpu", **options)
    there = barrier(states, modules[0], data(), device="cuda", **options)

    assert len(here) == len(there) == 4 * 2 * 2 * 2
    for one, other in zip(here, there, strict=True):
        if one.metric == "loss":
            values = [point.value for point in other.points]
            assert values == pytest.approx([point.value for point in one.points], rel=2e-3)
            assert other.barrier == pytest.approx(one.barrier, abs=2e-3)


def test_training_there_learns_and_leaves_the_generators() -> None:
    module, split = network(0), data().splits["train"]
    before = torch.cuda.get_rng_state(), torch.get_rng_state()

    fit(module, split, Recipe(epochs=20, batch_size=32, learning_rate=0.05), seed=0, device="cuda")

    assert measure(module, split, device="cuda").error < 0.1
    assert torch.equal(torch.cuda.get_rng_state(), before[0])
    assert torch.equal(torch.get_rng_state(), before[1])


def test_a_seed_decides_augmentation_and_dropout_there() -> None:
    found = []
    for _ in range(2):
        module = network(0)
        found.append(fit(module, data().splits["train"], RECIPE, seed=4, device="cuda").losses)
        torch.rand(3, device="cuda")

    assert found[0] == pytest.approx(found[1], rel=1e-3)
