from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.optim import lr_scheduler

from mergekit_perm.train import Recipe, learning_rate

Scheduler = Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]


def torchs(rate: float, steps: int, make: Scheduler) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=rate)
    scheduler = make(optimizer)
    rates = []
    for step in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step < steps - 1:
            scheduler.step()
    return rates


def ours(recipe: Recipe, steps_per_epoch: int) -> list[float]:
    return [
        learning_rate(recipe, step, steps_per_epoch)
        for step in range(recipe.epochs * steps_per_epoch)
    ]


@pytest.mark.parametrize(("epochs", "per_epoch"), [(1, 1), (1, 3), (2, 5), (7, 11), (60, 22)])
def test_one_cycle_is_torchs(epochs: int, per_epoch: int) -> None:
    steps = epochs * per_epoch
    expected = torchs(
        0.3,
        steps,
        lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.3, total_steps=steps, cycle_momentum=False),
    )

    assert ours(Recipe(epochs=epochs, learning_rate=0.3), per_epoch) == pytest.approx(
        expected, rel=1e-12
    )


def test_cosine_is_torchs() -> None:
    expected = torchs(0.3, 35, lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=35))

    found = ours(Recipe(epochs=5, learning_rate=0.3, schedule="cosine"), 7)

    assert found == pytest.approx(expected, rel=1e-9)


def test_step_is_torchs_and_counts_epochs() -> None:
    expected = torchs(
        0.3, 35, lambda o: lr_scheduler.MultiStepLR(o, milestones=[2 * 7, 4 * 7], gamma=0.2)
    )
    recipe = Recipe(epochs=5, learning_rate=0.3, schedule="step", milestones=(2, 4), gamma=0.2)

    assert ours(recipe, 7) == pytest.approx(expected, rel=1e-12)
    assert ours(recipe, 7)[13:15] == [0.3, pytest.approx(0.06)]


def test_constant_is_constant() -> None:
    assert set(ours(Recipe(epochs=2, schedule="constant"), 3)) == {0.1}


@pytest.mark.parametrize("schedule", ["one_cycle", "step", "constant"])
def test_warmup_multiplies_by_a_rising_line(schedule: str) -> None:
    plain = Recipe(epochs=4, schedule=schedule)
    warm = Recipe(epochs=4, schedule=schedule, warmup_epochs=1.5)

    factors = [a / b for a, b in zip(ours(warm, 4), ours(plain, 4), strict=True)]

    assert factors == pytest.approx([(step + 1) / 6 for step in range(6)] + [1.0] * 10)


def test_cosine_falls_from_the_end_of_the_warmup() -> None:
    warm = ours(Recipe(epochs=3, learning_rate=1.0, schedule="cosine", warmup_epochs=1), 4)
    falling = ours(Recipe(epochs=2, learning_rate=1.0, schedule="cosine"), 4)

    assert warm == pytest.approx([0.25, 0.5, 0.75, 1.0, *falling])


def test_a_warmup_longer_than_the_training_only_rises() -> None:
    rates = ours(Recipe(epochs=2, learning_rate=1.0, schedule="cosine", warmup_epochs=4), 4)

    assert rates == pytest.approx([(step + 1) / 16 for step in range(8)])
