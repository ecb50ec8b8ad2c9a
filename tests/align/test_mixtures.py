"""Mixtures of networks, their losses, and the gradients of the highest."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from mergekit_perm import data, networks
from mergekit_perm.align.examples import Examples
from mergekit_perm.align.mixtures import Excess, loss, mixture, points
from mergekit_perm.data import Split

torch.set_num_threads(1)

State = dict[str, torch.Tensor]

RESNET = {
    "depth": 8, "width": 4, "norm": "batch_norm", "num_classes": 10, "in_chans": 1, "img_size": 8,
}  # fmt: skip


def test_points_stand_for_all_mixtures() -> None:
    assert points(2) == [(0.5, 0.5), (0.75, 0.25), (0.25, 0.75)]
    three = points(3)
    assert len(three) == 7
    assert {tuple(sorted(point)) for point in three[1:4]} == {(0.0, 0.5, 0.5)}
    assert len(set(three)) == 7
    assert all(sum(point) == pytest.approx(1) for count in (2, 3, 7) for point in points(count))


def test_mixtures_are_weighted_sums_and_counters_those_of_the_first() -> None:
    one = {"w": torch.tensor([1.0, 2.0]), "n": torch.tensor(3)}
    other = {"w": torch.tensor([5.0, 0.0]), "n": torch.tensor(7)}
    found = mixture([one, other], (0.25, 0.75))
    assert found["w"].tolist() == [4.0, 0.5]
    assert found["n"].item() == 3


def test_the_loss_of_a_batch_norm_network_writes_into_nothing() -> None:
    module = networks.build("resnet_cifar", RESNET, seed=0).eval()
    examples = Examples(module, data.load("digits").splits["train"], torch.device("cpu"))
    state = {k: v.clone() for k, v in module.state_dict().items()}
    inputs, labels = next(examples.batches(64, 64))
    with torch.no_grad():
        value = float(loss(examples, state, inputs, labels))
        logits = module.train()(inputs)
        expected = float(torch.nn.functional.cross_entropy(logits, labels))
    assert value == pytest.approx(expected, 1e-5)
    assert int(state["norm1.num_batches_tracked"]) == 0


def two_layers() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 6, bias=False), nn.Tanh(), nn.Linear(6, 3, bias=False))


def measured(count: int) -> tuple[Excess, dict[str, State]]:
    """Return the excess of permuted copies of a network in float64, and the copies."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(40, 5, generator=generator, dtype=torch.float64)
    first = 2 * torch.randn(6, 5, generator=generator, dtype=torch.float64)
    second = 2 * torch.randn(3, 6, generator=generator, dtype=torch.float64)
    labels = (torch.tanh(inputs @ first.T) @ second.T).argmax(1)
    orders = [torch.randperm(6, generator=generator) for _ in range(count)]
    states = {
        f"n{i}": {"0.weight": first[order], "2.weight": second[:, order]}
        for i, order in enumerate(orders)
    }
    split = Split("train", TensorDataset(inputs, labels))
    examples = Examples(two_layers().double(), split, torch.device("cpu"))
    return Excess(examples, list(states.values()), count=40, batch_size=40, seed=0), states


@pytest.mark.parametrize("count", [2, 3, 7])
def test_a_known_barycentre_leaves_mixtures_as_they_are(count: int) -> None:
    states = list(measured(count)[1].values())
    barycentre = mixture(states, points(count)[0])
    for point in points(count):
        direct, short = mixture(states, point), mixture(states, point, barycentre)
        torch.testing.assert_close(short, direct, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_gradients_are_those_of_the_smooth_maximum(count: int) -> None:
    excess, states = measured(count)
    assert excess(list(states.values())) > 0
    last = torch.tensor(excess.last, dtype=torch.float64)
    shares = torch.softmax(last / (0.1 * float(last.max())), 0)
    shares = torch.where(shares < 0.02, 0.0, shares)
    leaves = {n: {t: v.clone().requires_grad_() for t, v in s.items()} for n, s in states.items()}
    inputs, labels = excess.batches[0]
    total = torch.zeros((), dtype=torch.float64)
    for share, point in zip(shares, excess.points, strict=True):
        first, second = (
            sum((w * s[t] for w, s in zip(point, leaves.values(), strict=True)), torch.zeros(()))
            for t in ("0.weight", "2.weight")
        )
        logits = torch.tanh(inputs @ first.T) @ second.T
        total = total + share * nn.functional.cross_entropy(logits, labels)
    torch.autograd.backward(total)
    found = excess.gradients(states, ["0.weight", "2.weight"])
    for name, leaf in leaves.items():
        for tensor, value in leaf.items():
            assert value.grad is not None
            own = found.get(name, {}).get(tensor, torch.zeros_like(value))
            torch.testing.assert_close(own, value.grad, rtol=1e-9, atol=1e-12)
