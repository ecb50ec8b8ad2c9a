"""The temperature with the lowest loss, and the loss at it."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import nn

from mergekit_perm.data.batches import Batches
from mergekit_perm.evaluate import Engine, effective_calibration
from mergekit_perm.evaluate.metrics import measure_batches
from mergekit_perm.evaluate.temperature import best_scale


def examples(count: int = 40, classes: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (count,), generator=generator)
    logits[torch.arange(count), labels] += 1.0
    return logits, labels


@pytest.mark.parametrize("factor", [1e-3, 0.1, 1.0, 7.0, 300.0])
@pytest.mark.parametrize("seed", range(4))
def test_it_is_where_an_independent_minimiser_finds_it(seed: int, factor: float) -> None:
    logits, labels = examples(seed=seed)
    wanted = minimize_scalar(
        lambda scale: float(F.cross_entropy(logits * scale, labels)),
        bounds=(0, 100 * factor),
        method="bounded",
        options={"xatol": 1e-10},
    ).x

    assert best_scale(logits * factor, labels) == pytest.approx(
        min(wanted / factor, 100.0), rel=1e-4
    )


def test_a_network_that_is_right_everywhere_has_the_highest_and_one_that_is_wrong_none() -> None:
    labels = torch.arange(3)
    right = torch.eye(3, dtype=torch.float64)

    assert best_scale(right, labels) == 100.0
    assert best_scale(-right, labels) == pytest.approx(0.0, abs=1e-6)
    assert best_scale(torch.zeros(3, 3), labels) == 100.0  # all temperatures are the same


def test_logits_that_are_not_finite_stay_as_they_are() -> None:
    logits, labels = examples()
    logits[3, 1] = math.nan

    assert best_scale(logits, labels) == 1.0


def test_the_loss_at_it_forgets_how_sure_a_network_is_and_errors_stay(split) -> None:
    torch.manual_seed(0)
    x = torch.randn(50, 6)
    y = torch.randint(3, (50,))
    surer = nn.Linear(6, 3)
    module = nn.Linear(6, 3)
    with torch.no_grad():
        surer.weight.copy_(5 * module.weight)
        surer.bias.copy_(5 * module.bias)
    batches = Batches(split(x, y), device=torch.device("cpu"), batch_size=16)

    plain = measure_batches(module, batches)
    best = measure_batches(module, batches, best_temperature=True)
    surely = measure_batches(surer, batches, best_temperature=True)

    assert best.loss < plain.loss
    assert best.loss == pytest.approx(surely.loss, rel=1e-5)
    assert (best.error, best.n) == (plain.error, plain.n) == (surely.error, surely.n)


def test_an_engine_takes_it_at_every_point_the_networks_among_them(split) -> None:
    torch.manual_seed(1)
    module = nn.Linear(6, 3)
    states = [dict(nn.Linear(6, 3).state_dict()) for _ in range(2)]
    given = {"train": split(torch.randn(30, 6), torch.randint(3, (30,)))}

    def engine(calibration: str) -> Engine:
        return Engine(module, states, given, calibration=calibration, device=torch.device("cpu"))

    for point in ((1.0, 0.0), (0.5, 0.5)):
        plain = engine("none").measure(point)["train"]
        best = engine("temperature").measure(point)["train"]
        assert best.loss < plain.loss
        assert best.error == plain.error


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("none", "none"),
        ("batch_norm", "none"),
        ("temperature", "temperature"),
        ("batch_norm+temperature", "temperature"),
    ],
)
def test_without_batch_norm_there_is_nothing_to_re_estimate(name: str, same: str) -> None:
    assert effective_calibration(name, batch_norm=False) == same
    assert effective_calibration(name, batch_norm=True) == name
