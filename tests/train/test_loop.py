from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import Dataset, TensorDataset

from mergekit_perm.data import Split
from mergekit_perm.errors import EvaluationError
from mergekit_perm.train import Recipe, fit, learning_rate
from mergekit_perm.train.streams import stream


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def examples(n: int = 50) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(n, 6, generator=generator)
    return x, x[:, :3].argmax(dim=1)


def split(n: int = 50) -> Split:
    return Split("train", TensorDataset(*examples(n)))


def network(*, dropout: float = 0.0, norm: bool = False) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        middle: list[nn.Module] = [nn.BatchNorm1d(16)] if norm else []
        return nn.Sequential(
            nn.Linear(6, 16), *middle, nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 3)
        ).eval()


def weights(module: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def trained(recipe: Recipe, *, seed: int = 0, **options: Any) -> torch.Tensor:
    module = network(**options)
    fit(module, split(), recipe, seed=seed)
    return weights(module)


OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8, weight_decay=1e-2, foreach=False),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.8, 0.999), weight_decay=1e-2),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, betas=(0.8, 0.999), weight_decay=1e-2),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_is_the_plain_loop(optimizer: str) -> None:
    recipe = Recipe(
        epochs=4,
        batch_size=16,
        optimizer=optimizer,
        momentum=0.8,
        weight_decay=1e-2,
        label_smoothing=0.1,
    )
    module, plain = network(), network()
    (x, y), orders = examples(), torch.Generator().manual_seed(stream(7, "order"))
    step = OPTIMIZERS[optimizer](plain.parameters())
    schedule = OneCycleLR(step, max_lr=0.1, total_steps=16, cycle_momentum=False)
    losses, rates = [], []
    for _ in range(4):
        total = 0.0
        rates.append(step.param_groups[0]["lr"])
        for chosen in torch.randperm(50, generator=orders).split(16):
            loss = F.cross_entropy(plain(x[chosen]), y[chosen], label_smoothing=0.1)
            step.zero_grad()
            loss.backward()
            step.step()
            if schedule.last_epoch < 15:
                schedule.step()
            total += loss.item() * len(chosen)
        losses.append(total / 50)

    history = fit(module, split(), recipe, seed=7)

    torch.testing.assert_close(weights(module), weights(plain), rtol=1e-4, atol=1e-5)
    assert history.losses == pytest.approx(losses, rel=1e-4)
    assert history.learning_rates == pytest.approx(rates, rel=1e-12)


def test_it_learns() -> None:
    module = network()
    history = fit(module, split(), Recipe(epochs=40, batch_size=16), seed=0)

    x, y = examples()
    assert (module(x).argmax(1) == y).double().mean() > 0.98
    assert len(history.losses) == 40
    assert history.losses[-1] < 0.1 < 0.8 < history.losses[0]


NOISY = Recipe(epochs=3, batch_size=16, noise=0.2)


def test_a_seed_decides_everything_to_the_bit() -> None:
    one = trained(NOISY, seed=3, dropout=0.3, norm=True)
    torch.rand(5)

    assert torch.equal(one, trained(NOISY, seed=3, dropout=0.3, norm=True))


def test_order_noise_and_dropout_each_follow_the_seed() -> None:
    whole = dataclasses.replace(NOISY, batch_size=50, noise=0.0)

    order_only = trained(dataclasses.replace(NOISY, noise=0.0), seed=1)
    assert not torch.equal(order_only, trained(dataclasses.replace(NOISY, noise=0.0), seed=2))
    # In one batch of everything the order is only a matter of rounding.
    torch.testing.assert_close(trained(whole, seed=1), trained(whole, seed=2))
    noise = dataclasses.replace(whole, noise=0.2)
    assert not torch.allclose(trained(noise, seed=1), trained(noise, seed=2))
    assert not torch.allclose(
        trained(whole, seed=1, dropout=0.3), trained(whole, seed=2, dropout=0.3)
    )


def test_the_global_generator_is_left_as_it_was() -> None:
    before = torch.get_rng_state()

    trained(NOISY, dropout=0.5)

    assert torch.equal(torch.get_rng_state(), before)


def test_streams_differ_by_purpose_and_seed() -> None:
    seeds = {stream(seed, purpose) for seed in range(50) for purpose in ("order", "dropout")}

    assert len(seeds) == 100
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_every_layers_flag_is_put_back() -> None:
    module = network(dropout=0.5, norm=True)
    module[3].train()
    modes = []
    module[3].register_forward_hook(lambda layer, *_: modes.append(layer.training))

    fit(module, split(), Recipe(epochs=1), seed=0)

    assert modes == [True]
    assert [layer.training for layer in module] == [False, False, False, True, False]


def batch_sizes(module: nn.Module, examples: int, batch_size: int) -> list[int]:
    seen: list[int] = []
    module.register_forward_hook(lambda _m, _a, out: seen.append(len(out)))
    fit(module, split(examples), Recipe(epochs=1, batch_size=batch_size), seed=0)
    return seen


def test_the_last_batch_is_kept_unless_batch_norm_could_not_use_it() -> None:
    assert batch_sizes(network(), 33, 16) == [16, 16, 1]
    assert batch_sizes(network(norm=True), 33, 16) == [16, 16]
    assert batch_sizes(network(norm=True), 34, 16) == [16, 16, 2]
    assert batch_sizes(network(norm=True), 32, 16) == [16, 16]


@pytest.mark.parametrize(("examples", "batch_size"), [(1, 8), (3, 1)])
def test_batch_norm_needs_two_examples(examples: int, batch_size: int) -> None:
    with pytest.raises(EvaluationError) as error:
        batch_sizes(network(norm=True), examples, batch_size)

    assert str(error.value) == (
        f"nothing to train on: {examples} examples in batches of {batch_size} leave no batch "
        "(with BatchNorm a batch needs at least 2 examples)"
    )


def test_all_examples_are_seen_once_an_epoch() -> None:
    x = torch.arange(20.0)[:, None].repeat(1, 6)
    seen: list[float] = []
    module = network()
    module.register_forward_pre_hook(lambda _m, args: seen.extend(args[0][:, 0].tolist()))

    fit(
        module,
        Split("train", TensorDataset(x, torch.zeros(20, dtype=torch.int64))),
        Recipe(epochs=2, batch_size=6, learning_rate=0.0),
        seed=0,
    )

    assert sorted(seen[:20]) == sorted(seen[20:]) == x[:, 0].tolist()
    assert seen[:20] != seen[20:] != x[:, 0].tolist()


def test_examples_read_one_by_one_train_the_same_network() -> None:
    x, y = examples()

    class Lazy(Dataset[tuple[torch.Tensor, int]]):
        def __len__(self) -> int:
            return len(y)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            return x[index], int(y[index])

    module = network()
    fit(module, Split("train", Lazy()), NOISY, seed=5)

    assert torch.equal(weights(module), trained(NOISY, seed=5))


def test_a_loss_that_blows_up_is_an_error_with_its_place() -> None:
    x, y = examples()
    x[:, 0] = 1e30
    recipe = Recipe(epochs=2, batch_size=25, learning_rate=5.0, schedule="constant")

    with pytest.raises(EvaluationError) as error:
        fit(network(), Split("train", TensorDataset(x, y)), recipe, seed=0, task="training b")

    assert str(error.value) == (
        "training b: the loss is nan at epoch 1 of 2, step 2 of 2; a lower learning_rate (now 5) "
        "or a longer warmup_epochs usually helps"
    )


def test_frozen_parameters_stay_and_some_must_be_free() -> None:
    module = network()
    module[0].requires_grad_(False)
    before = module[0].weight.clone()

    fit(module, split(), NOISY, seed=0)
    assert torch.equal(module[0].weight, before)

    with pytest.raises(EvaluationError) as error:
        fit(module.requires_grad_(False), split(), NOISY, seed=0)
    assert str(error.value) == "nothing to train: the network has no trainable parameters"


def test_progress_is_told_per_epoch() -> None:
    calls: list[tuple[str, int, int]] = []

    history = fit(
        network(),
        split(),
        NOISY,
        seed=0,
        progress=lambda *call: calls.append(call),
        task="training a",
    )

    assert calls == [("training a", 1, 3), ("training a", 2, 3), ("training a", 3, 3)]
    assert history.learning_rates == tuple(learning_rate(NOISY, 4 * e, 4) for e in range(3))
