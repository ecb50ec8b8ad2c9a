"""RegMean against least squares, layer by layer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

from mergekit_perm.data import Split
from mergekit_perm.errors import MergeError
from mergekit_perm.merge.regmean import input_grams, regmean

torch.set_num_threads(1)


def split(inputs: torch.Tensor) -> Split:
    return Split("train", TensorDataset(inputs, torch.zeros(len(inputs), dtype=torch.int64)))


def copies(model: nn.Module, count: int = 2) -> dict[str, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(5)
    return {
        name: {
            key: torch.randn(value.shape, generator=generator)
            for key, value in model.state_dict().items()
        }
        for name in "abc"[:count]
    }


def test_one_layer_is_the_least_squares_solution() -> None:
    torch.manual_seed(0)
    model, inputs = nn.Linear(5, 3), torch.randn(200, 5) * torch.tensor([1.0, 2, 3, 0.5, 1])
    states = copies(model)
    merged = regmean(states, model=model, split=split(inputs), alpha=1.0)
    # All networks see the same inputs, so that the least squares solution is the mean.
    mean = torch.stack([s["weight"] for s in states.values()]).mean(0)
    assert torch.allclose(merged["weight"], mean, atol=1e-4)
    weighted = regmean(states, model=model, split=split(inputs), weight={"a": 3.0}, alpha=0.5)
    expected = 0.75 * states["a"]["weight"] + 0.25 * states["b"]["weight"]
    assert torch.allclose(weighted["weight"], expected, atol=1e-4)
    assert torch.allclose(weighted["bias"], 0.75 * states["a"]["bias"] + 0.25 * states["b"]["bias"])


def test_a_second_layer_is_solved_for_the_inputs_that_each_network_has() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    inputs, states = (
        torch.randn(300, 4),
        copies(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))),
    )
    merged = regmean(states, model=model, split=split(inputs), alpha=0.8, count=300)
    left, right = np.zeros((6, 6)), np.zeros((6, 2))
    for state in states.values():
        hidden = torch.tanh(F.linear(inputs, state["0.weight"], state["0.bias"])).double().numpy()
        gram = hidden.T @ hidden
        gram = 0.8 * gram + 0.2 * np.diag(np.diag(gram))
        left += gram
        right += gram @ state["2.weight"].double().numpy().T
    expected = np.linalg.solve(left, right).T
    assert np.allclose(merged["2.weight"].numpy(), expected, atol=1e-3)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, padding=1),
        nn.Conv2d(4, 6, (3, 2), stride=2, dilation=(1, 2)),
        nn.Conv2d(4, 8, 3, groups=2, bias=False),
        nn.Conv2d(4, 4, 3, groups=4, padding="same"),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(4, 4, 1),
    ],
    ids=["plain", "strided", "grouped", "depthwise", "reflected", "1x1"],
)
def test_a_convolution_is_a_linear_layer_of_its_patches(layer: nn.Conv2d) -> None:
    torch.manual_seed(2)
    model, inputs = nn.Sequential(layer), torch.randn(12, 4, 7, 8)
    ((name, gram),) = input_grams(model, split(inputs), count=12, batch_size=5, seed=0).items()
    assert name == "0.weight"
    # The sum of squares of the outputs without bias is what the Gram matrix says it is.
    weight = layer.weight.detach().double().reshape(layer.groups, -1, gram.shape[1])
    outputs = nn.Conv2d.forward(layer, inputs).detach()
    if layer.bias is not None:
        outputs = outputs - layer.bias.detach().reshape(-1, 1, 1)
    expected = outputs.double().square().sum((0, 2, 3)).reshape(layer.groups, -1)
    assert torch.allclose(
        torch.einsum("gof,gfh,goh->go", weight, gram, weight), expected, rtol=1e-4
    )
    states = {n: dict(model.state_dict()) for n in "ab"}
    merged = regmean(states, model=model, split=split(inputs))
    assert torch.allclose(merged["0.weight"], states["a"]["0.weight"], atol=1e-4)


def test_outputs_are_closer_to_the_networks_own_than_those_of_the_mean() -> None:
    torch.manual_seed(4)
    first, second = nn.Linear(6, 6), nn.Linear(6, 4)
    model = nn.Sequential(first, nn.ReLU(), second)
    inputs, states = torch.randn(400, 6), copies(model)
    merged = regmean(states, model=model, split=split(inputs), alpha=1.0, count=400)
    mean = {k: torch.stack([s[k] for s in states.values()]).mean(0) for k in merged}

    def distance(head: torch.Tensor) -> float:
        total = 0.0
        for state in states.values():
            hidden = torch.relu(F.linear(inputs, state["0.weight"], state["0.bias"]))
            total += float((hidden @ (head - state["2.weight"]).T).square().sum())
        return total

    assert distance(merged["2.weight"]) < 0.9 * distance(mean["2.weight"])


def test_inputs_that_never_occur_leave_the_mean() -> None:
    model = nn.Linear(3, 2)
    states = copies(model)
    merged = regmean(states, model=model, split=split(torch.zeros(5, 3)))
    mean = torch.stack([s["weight"] for s in states.values()]).mean(0)
    assert torch.allclose(merged["weight"], mean, atol=1e-6)


@pytest.mark.parametrize("options", [{"alpha": 1.5}, {"alpha": -0.1}, {"count": 0}])
def test_what_is_refused(options: dict[str, float]) -> None:
    model = nn.Linear(3, 2)
    with pytest.raises(MergeError, match="regmean: alpha is"):
        regmean(copies(model), model=model, split=split(torch.zeros(5, 3)), **options)
