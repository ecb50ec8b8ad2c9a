"""Iterative magnitude pruning: what is removed, and training that keeps it away."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from mergekit_perm import networks
from mergekit_perm.data import Split
from mergekit_perm.errors import EvaluationError
from mergekit_perm.train import (
    Recipe,
    copied,
    fit,
    kept_share,
    next_mask,
    prunable,
    whole_mask,
)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def split() -> Split:
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
    return Split("train", TensorDataset(x, x[:, :3].argmax(dim=1)))


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def test_weights_of_layers_are_pruned_and_nothing_else() -> None:
    assert prunable(network()) == ["0.weight", "3.weight"]
    assert prunable(network(), ["3.*"]) == ["0.weight"]
    assert prunable(nn.Linear(2, 2)) == ["weight"]
    vit = prunable(networks.build("vit_tiny_patch16_224", {}, seed=0), ["head.weight"])
    assert "patch_embed.proj.weight" in vit and "blocks.0.attn.qkv.weight" in vit
    assert not {"pos_embed", "cls_token", "head.weight", "norm.weight"} & set(vit)


def test_an_exclusion_that_matches_nothing() -> None:
    with pytest.raises(EvaluationError, match=r"no weight is called '3.wieght' \(did you mean"):
        prunable(network(), ["3.wieght"])
    with pytest.raises(EvaluationError, match="nothing to prune"):
        prunable(network(), ["*"])


def test_the_lowest_of_all_tensors_go() -> None:
    state = {
        "a": torch.tensor([[0.1, -5.0], [0.3, 4.0]]),
        "b": torch.tensor([0.2, -0.05, 2.0, 1.0, 3.0, -6.0]),
        "c": torch.zeros(3),
    }
    first = next_mask(state, whole_mask(state, ["a", "b"]), 0.3)
    assert first["a"].tolist() == [[False, True], [True, True]]
    assert first["b"].tolist() == [False, False, True, True, True, True]
    assert kept_share(first) == 0.7
    # Of those that are left: 0.3 of 7 is 2.
    second = next_mask(state, first, 0.3)
    assert second["a"].tolist() == [[False, True], [False, True]]
    assert second["b"].tolist() == [False, False, True, False, True, True]
    with pytest.raises(EvaluationError, match=r"0\.1 of the 5 that are left is less than one"):
        next_mask(state, second, 0.1)


def test_of_equal_weights_just_as_many_go() -> None:
    state = {"a": torch.ones(10)}
    mask = next_mask(state, whole_mask(state, ["a"]), 0.25)
    assert mask["a"].tolist() == [False, False] + [True] * 8


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_what_is_pruned_stays_zero(optimizer: str) -> None:
    module = network()
    state = copied(module)
    mask = next_mask(state, whole_mask(state, prunable(module)), 0.5)
    recipe = Recipe(epochs=3, optimizer=optimizer, learning_rate=0.01, batch_size=16)
    fit(module, split(), recipe, seed=0, mask=mask)
    for name, kept in mask.items():
        value = module.state_dict()[name]
        assert not value[~kept].any()
        assert (value[kept] != state[name][kept]).all()
    assert (module.state_dict()["0.bias"] != state["0.bias"]).any()


def test_a_mask_that_keeps_all_changes_nothing() -> None:
    plain, masked = network(), network()
    mask = whole_mask(copied(masked), prunable(masked))
    recipe = Recipe(epochs=2, batch_size=16)
    fit(plain, split(), recipe, seed=0)
    fit(masked, split(), recipe, seed=0, mask=mask)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, masked.state_dict()[name])


def test_training_goes_on_from_an_epoch_with_its_order_and_rates() -> None:
    # Without momentum nothing but weights, order and rate is carried over, so that it is the same.
    recipe = Recipe(epochs=4, batch_size=16, momentum=0.0)
    whole, rest = network(), network()
    kept: dict[int, dict[str, torch.Tensor]] = {}
    history = fit(
        whole,
        split(),
        recipe,
        seed=3,
        checkpoints=[2],
        keep=lambda e, state: kept.update({e: state}),
    )
    rest.load_state_dict(kept[2])
    later = fit(rest, split(), recipe, seed=3, start=2)
    assert later.losses == history.losses[2:]
    assert later.learning_rates == history.learning_rates[2:]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, rest.state_dict()[name])
