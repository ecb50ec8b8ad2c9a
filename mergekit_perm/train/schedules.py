"""The learning rate at a step: a pure function, so that a resumed or printed run agrees with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

from mergekit_perm.train.recipe import Recipe

# The constants of torch.optim.lr_scheduler.OneCycleLR.
_RISING_PART = 0.3
_START_DIVISOR = 25.0
_END_DIVISOR = 1e4


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of optimizer step `step`, counted from 0 over the whole training.

    Without warm-up the schedules equal torch's: ``one_cycle`` OneCycleLR with its defaults,
    ``cosine`` CosineAnnealingLR down to 0, ``step`` MultiStepLR, ``constant`` no scheduler. With
    it, the rate is further multiplied by a factor that rises linearly to 1 over the first
    `recipe.warmup_epochs`; ``cosine`` starts to fall when that ends.

    Args:
        recipe: the training recipe.
        step: 0 .. epochs * steps_per_epoch - 1.
        steps_per_epoch: optimizer steps per epoch.
    """
    warmup = recipe.warmup_epochs * steps_per_epoch
    rising = min(1.0, (step + 1) / warmup) if warmup > 0 else 1.0
    return rising * _SHAPES[recipe.schedule](recipe, step, steps_per_epoch)


def _one_cycle(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    peak = recipe.learning_rate
    start = peak / _START_DIVISOR
    top = _RISING_PART * recipe.epochs * steps_per_epoch - 1
    if step <= top:
        return _cosine_between(start, peak, step / top)
    last = recipe.epochs * steps_per_epoch - 1
    return _cosine_between(peak, start / _END_DIVISOR, (step - top) / (last - top))


def _cosine(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    total = recipe.epochs * steps_per_epoch
    warmup = min(recipe.warmup_epochs * steps_per_epoch, total - 1)
    done = max(0.0, step - warmup) / (total - warmup)
    return _cosine_between(recipe.learning_rate, 0.0, done)


def _step(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    epoch = step // steps_per_epoch
    passed = sum(milestone <= epoch for milestone in recipe.milestones)
    return float(recipe.learning_rate * recipe.gamma**passed)


def _constant(recipe: Recipe, _step: int, _steps_per_epoch: int) -> float:
    return recipe.learning_rate


def _cosine_between(start: float, end: float, done: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * done))


_SHAPES: Mapping[str, Callable[[Recipe, int, int], float]] = MappingProxyType(
    {"one_cycle": _one_cycle, "cosine": _cosine, "step": _step, "constant": _constant}
)
