"""Fisher merging against derivatives worked out by hand, and its laws."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from mergekit_perm import networks
from mergekit_perm.data import Split
from mergekit_perm.errors import MergeError
from mergekit_perm.merge.fisher import diagonal_fisher, fisher

torch.set_num_threads(1)


def split(inputs: torch.Tensor, classes: int = 3) -> Split:
    return Split("train", TensorDataset(inputs, torch.arange(len(inputs)) % classes))


def linears(
    count: int = 2, inputs: int = 4, classes: int = 3
) -> dict[str, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    return {n: dict(nn.Linear(inputs, classes).state_dict()) for n in "abcd"[:count]}


def test_the_information_of_a_linear_layer_is_what_it_is_by_hand() -> None:
    torch.manual_seed(3)
    model = nn.Linear(2, 2)
    inputs = torch.randn(4000, 2)
    found = diagonal_fisher(model, split(inputs, 2), count=4000, seed=1)
    # The derivative of log p(y) by z_k is [y = k] - p_k, of variance p_k (1 - p_k).
    shares = model(inputs).softmax(1).detach()
    variance = shares * (1 - shares)
    expected = (variance[:, :, None] * inputs[:, None, :].square()).mean(0)
    assert torch.allclose(found["weight"], expected.double(), rtol=0.1)
    assert torch.allclose(found["bias"], variance.mean(0).double(), rtol=0.05)


def test_merging_is_the_mean_weighted_by_information() -> None:
    states, given = linears(), split(torch.randn(60, 4))
    model = nn.Linear(4, 3)
    merged = fisher(states, model=model, split=given, weight={"a": 2.0}, count=50, seed=7)
    top, bottom = 0.0, 0.0
    for name, factor in (("a", 2.0), ("b", 1.0)):
        model.load_state_dict(states[name])
        share = factor * (diagonal_fisher(model, given, count=50, seed=7)["weight"] + 1e-6)
        top, bottom = top + share * states[name]["weight"], bottom + share
    assert torch.allclose(merged["weight"], (top / bottom).float(), rtol=1e-6)
    assert merged["weight"].dtype == torch.float32


def test_laws() -> None:
    states, given = linears(3), split(torch.randn(30, 4))
    model = nn.Linear(4, 3)
    same = fisher(dict.fromkeys("xyz", states["a"]), model=model, split=given)
    assert all(torch.allclose(same[t], states["a"][t], rtol=1e-6) for t in same)
    one = fisher(states, model=model, split=given, weight={"a": 0.0, "c": 0.0})
    assert all(torch.allclose(one[t], states["b"][t], rtol=1e-6) for t in one)
    merged = fisher(states, model=model, split=given)
    turned = fisher(dict(reversed(states.items())), model=model, split=given)
    assert all(torch.allclose(merged[t], turned[t], rtol=1e-5) for t in merged)
    low = torch.stack([s["weight"] for s in states.values()]).amin(0)
    assert bool((merged["weight"] >= low - 1e-6).all())
    # Inputs that never occur give no information: there it is the mean.
    blind = fisher(
        states, model=model, split=split(torch.randn(20, 4) * torch.tensor([1, 0, 1, 1]))
    )
    mean = torch.stack([s["weight"] for s in states.values()]).mean(0)
    assert torch.allclose(blind["weight"][:, 1], mean[:, 1], rtol=1e-5)
    assert not torch.allclose(blind["weight"], mean, rtol=1e-2)


def test_what_is_no_parameter_is_the_mean_and_counters_are_copied() -> None:
    options = {"depth": 8, "width": 2, "in_chans": 1, "num_classes": 3}
    states = {
        n: dict(networks.build("resnet_cifar", options, seed=s).state_dict())
        for s, n in enumerate("ab")
    }
    states["b"]["norm1.running_mean"] += 2.0
    states["a"]["norm1.num_batches_tracked"] += 5
    model = networks.build("resnet_cifar", options, seed=0).train()
    model.requires_grad_(False)
    merged = fisher(states, model=model, split=split(torch.randn(6, 1, 8, 8)), count=4)
    assert torch.equal(merged["norm1.running_mean"], torch.ones(2))
    assert int(merged["norm1.num_batches_tracked"]) == 5
    assert list(merged) == list(states["a"])
    assert model.training and not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": {"a": -1.0}}, "the weight of 'a' is -1.0; give a number that is not negative"),
        ({"weight": {"a": math.inf}}, "the weight of 'a' is inf"),
        ({"weight": {"aa": 1.0}}, "weight for 'aa' (did you mean 'a'?), but the networks to merge"),
        ({"weight": {"a": 0.0, "b": 0.0}}, "all weights are 0"),
        ({"count": 0}, "count is 0"),
        ({"floor": 0.0}, "floor 0"),
    ],
)
def test_what_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(MergeError) as error:
        fisher(linears(), model=nn.Linear(4, 3), split=split(torch.randn(3, 4)), **options)
    assert message in str(error.value)


def test_networks_that_differ_and_none() -> None:
    states = linears()
    given = {"model": nn.Linear(4, 3), "split": split(torch.randn(3, 4))}
    with pytest.raises(MergeError, match="only networks of one architecture"):
        fisher({**states, "c": linears(1, 5)["a"]}, **given)
    with pytest.raises(MergeError, match="there are no networks"):
        fisher({}, **given)
