from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mergekit_perm.errors import EvaluationError
from mergekit_perm.evaluate import calibrate, has_batch_norm
from mergekit_perm.evaluate.calibration import _without_single


def inputs(n: int = 129, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    # Drifting along the split, so that batches differ and their variances do not average.
    return torch.randn(n, *shape, generator=generator) + torch.linspace(-3, 3, n).reshape(
        n, *[1] * len(shape)
    )


def labelled(split: Any, x: torch.Tensor) -> Any:
    return split(x, torch.zeros(len(x), dtype=torch.int64))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randomised(module: nn.Module) -> nn.Module:
    """Fill every tensor, running statistics too, so that a fresh layer hides nothing."""
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5, generator=seeded(tensor.numel()))
        else:
            tensor.fill_(77)
    return module


@contextmanager
def batches_seen(layer: nn.Module) -> Iterator[list[tuple[int, bool]]]:
    seen: list[tuple[int, bool]] = []
    hook = layer.register_forward_hook(lambda m, _, out: seen.append((len(out), m.training)))
    yield seen
    hook.remove()


@pytest.mark.parametrize("batch_size", [1, 2, 7, 32, 64, 128, 129, 500])
def test_statistics_are_those_of_the_split_for_every_batch_size(split, batch_size: int) -> None:
    x = inputs(129, 6)
    module = randomised(nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)))
    weight, bias = (p.detach().numpy().astype(np.float64) for p in module[0].parameters())
    seen = x.numpy().astype(np.float64) @ weight.T + bias

    calibrate(module, "batch_norm", labelled(split, x), batch_size=batch_size)

    norm = module[1]
    np.testing.assert_allclose(norm.running_mean.numpy(), seen.mean(axis=0), atol=2e-6)
    np.testing.assert_allclose(norm.running_var.numpy(), seen.var(axis=0, ddof=1), rtol=2e-6)


def test_positions_of_images_count_as_examples(split) -> None:
    x = inputs(50, 3, 4, 5)
    module = randomised(nn.BatchNorm2d(3))

    calibrate(module, "batch_norm", labelled(split, x), batch_size=16)

    pixels = x.numpy().astype(np.float64).transpose(0, 2, 3, 1).reshape(-1, 3)
    np.testing.assert_allclose(module.running_mean.numpy(), pixels.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(module.running_var.numpy(), pixels.var(axis=0, ddof=1), rtol=1e-6)
    assert module.num_batches_tracked.item() == 4


def deep() -> nn.Module:
    return randomised(
        nn.Sequential(
            nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 4), nn.BatchNorm1d(4)
        )
    )


def test_one_batch_of_everything_is_torchs_own_cumulative_average(split) -> None:
    x, module, expected = inputs(64, 6), deep(), deep()
    for norm in (expected[1], expected[4]):
        norm.reset_running_stats()
        norm.momentum = None
    with torch.no_grad():
        expected.train()(x)

    calibrate(module, "batch_norm", labelled(split, x), batch_size=64)

    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(module.state_dict()[name], tensor, rtol=1e-6, atol=1e-6)


def test_behind_another_layer_batches_are_normalised_by_themselves(split) -> None:
    x, module = inputs(90, 6), deep()
    first, norm, second = module[0], module[1], module[3]
    behind = []
    with torch.no_grad():
        for batch in x.split(30):
            z = first(batch)
            z = (z - z.mean(0)) / (z.var(0, unbiased=False) + norm.eps).sqrt()
            behind.append(second(torch.relu(z * norm.weight + norm.bias)).numpy())
    seen = np.concatenate(behind).astype(np.float64)

    calibrate(module, "batch_norm", labelled(split, x), batch_size=30)

    np.testing.assert_allclose(module[4].running_mean.numpy(), seen.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(module[4].running_var.numpy(), seen.var(axis=0, ddof=1), rtol=1e-5)


def test_what_was_in_the_buffers_does_not_matter(split) -> None:
    x, module, broken = inputs(40, 6), deep(), deep()
    broken[1].running_mean.fill_(math.nan)
    broken[1].running_var.fill_(math.inf)

    for network in (module, broken):
        calibrate(network, "batch_norm", labelled(split, x), batch_size=16)

    assert broken[1].running_var.isfinite().all()
    for name, tensor in module.state_dict().items():
        assert torch.equal(broken.state_dict()[name], tensor)


def test_only_buffers_change_and_flags_and_momentum_come_back(split) -> None:
    module = nn.Sequential(nn.Dropout(0.5), deep())
    norms = module[1][1], module[1][4]
    norms[0].momentum, norms[1].momentum = None, 0.37
    module.train()
    norms[1].eval()
    before = {name: p.detach().clone() for name, p in module.named_parameters()}

    with batches_seen(module[0]) as dropout, batches_seen(norms[1]) as normed:
        calibrate(module, "batch_norm", labelled(split, inputs(40, 6)), batch_size=20)

    assert dropout == [(20, False), (20, False)]
    assert normed == [(20, True), (20, True)]
    assert (norms[0].momentum, norms[1].momentum) == (None, 0.37)
    assert module.training and norms[0].training and not norms[1].training
    assert all(torch.equal(before[name], p) for name, p in module.named_parameters())
    assert not any(layer._forward_hooks for layer in norms)
    assert all(p.grad is None and p.requires_grad for p in module.parameters())


def test_everything_comes_back_after_a_failure_too(split) -> None:
    module = deep().train()

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        calibrate(module, "batch_norm", labelled(split, inputs(40, 7)))

    assert module[1].momentum == module[4].momentum == 0.1
    assert all(layer.training for layer in module.modules())
    assert not module[1]._forward_hooks


def test_timms_layers_are_found_and_the_dropout_inside_them_stays_off(split) -> None:
    norm_act = pytest.importorskip("timm.layers").BatchNormAct2d
    drop = nn.Dropout(0.5)
    module = nn.Sequential(norm_act(3, drop_layer=lambda: drop), nn.BatchNorm2d(3))
    x = inputs(32, 3, 2, 2)
    assert has_batch_norm(module)

    with batches_seen(module[0].drop) as seen:
        calibrate(module.train(), "batch_norm", labelled(split, x), batch_size=16)

    assert seen == [(16, False), (16, False)]
    np.testing.assert_allclose(
        module[0].running_mean.numpy(), x.numpy().mean(axis=(0, 2, 3)), atol=1e-6
    )


def test_a_layer_used_twice_pools_both_uses(split) -> None:
    norm = nn.BatchNorm1d(2)
    x = inputs(20, 2)

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = norm

        def forward(self, z: torch.Tensor) -> torch.Tensor:
            self.norm(z)
            return self.norm(z + 10)

    calibrate(Twice(), "batch_norm", labelled(split, x), batch_size=8)

    both = torch.cat([x, x + 10]).numpy()
    np.testing.assert_allclose(norm.running_mean.numpy(), both.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(norm.running_var.numpy(), both.var(axis=0, ddof=1), rtol=1e-5)


def test_layers_unused_or_without_statistics_are_left_out(split) -> None:
    class Partly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.BatchNorm1d(2)
            self.bare = nn.BatchNorm1d(2, track_running_stats=False)
            self.norm = nn.BatchNorm1d(2)

        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return self.norm(self.bare(z))

    module = Partly()
    calibrate(module, "batch_norm", labelled(split, inputs(20, 2)))

    assert torch.equal(module.unused.running_var, torch.ones(2))
    assert module.bare.running_mean is None
    assert module.norm.running_var.tolist() == pytest.approx([20 / 19] * 2, rel=1e-4)
    assert not has_batch_norm(nn.BatchNorm1d(2, track_running_stats=False))


def test_no_batch_has_a_single_example(split) -> None:
    module = deep()
    with batches_seen(module[1]) as seen:
        calibrate(module, "batch_norm", labelled(split, inputs(9, 6)), batch_size=4)
    assert seen == [(5, True), (4, True)]


@pytest.mark.parametrize("examples", range(2, 40))
def test_the_batch_size_is_raised_by_as_little_as_it_takes(examples: int) -> None:
    for wanted in range(1, 45):
        size = _without_single(examples, wanted)
        assert size >= wanted and size >= 2
        assert examples <= size or examples % size != 1
        assert all(s == 1 or examples % s == 1 for s in range(wanted, size))


def test_none_changes_nothing_and_needs_no_split() -> None:
    module, expected = deep(), deep()

    calibrate(module, "none", None)

    for name, tensor in expected.state_dict().items():
        assert torch.equal(module.state_dict()[name], tensor)


def test_without_batch_norm_there_is_nothing_to_do(split) -> None:
    module = nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4))
    assert not has_batch_norm(module) and has_batch_norm(deep())

    with batches_seen(module) as seen:
        calibrate(module, "batch_norm", labelled(split, inputs(9, 6)))

    assert seen == []


def test_gradients_work_after_calibration(split) -> None:
    module = deep().train()
    calibrate(module, "batch_norm", labelled(split, inputs(9, 6)))

    module(inputs(9, 6)).square().sum().backward()

    assert module[0].weight.grad is not None


@pytest.mark.parametrize(
    ("name", "examples", "message"),
    [
        (
            "batchnorm",
            4,
            "no calibration 'batchnorm' (did you mean 'batch_norm'?); "
            "choose one of none, batch_norm, repair, temperature, batch_norm+temperature, "
            "repair+temperature",
        ),
        (
            "batch_norm",
            1,
            "calibration 'batch_norm' needs a split of at least 2 training examples; 'train' has 1",
        ),
        (
            "batch_norm",
            None,
            "calibration 'batch_norm' needs a split of at least 2 training examples; there is none",
        ),
    ],
)
def test_what_is_refused(split, name: str, examples: int | None, message: str) -> None:
    given = None if examples is None else labelled(split, inputs(examples, 6))

    with pytest.raises(EvaluationError) as error:
        calibrate(deep(), name, given)

    assert str(error.value) == message
