from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from mergekit_perm.errors import EvaluationError
from mergekit_perm.spec.models import AugmentSpec, TrainSpec
from mergekit_perm.train import OPTIMIZERS, SCHEDULES, Recipe


def test_the_defaults_are_those_of_the_run_spec() -> None:
    assert dataclasses.asdict(Recipe()) == TrainSpec().keywords()


def test_a_run_spec_fills_a_recipe() -> None:
    asked = TrainSpec(epochs=3, milestones=(1, 2), augment=AugmentSpec(flip=True, noise=0.5))

    recipe = Recipe(**asked.keywords())

    assert (recipe.epochs, recipe.milestones, recipe.flip, recipe.noise) == (3, (1, 2), True, 0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"optimizer": "adamm"},
            "no optimizer 'adamm' (did you mean 'adam'?); choose one of sgd, adam, adamw",
        ),
        (
            {"schedule": "linear"},
            "no schedule 'linear'; choose one of one_cycle, cosine, step, constant",
        ),
        ({"epochs": 0}, "epochs is 0, but must be finite and at least 1"),
        ({"batch_size": 0}, "batch_size is 0, but must be finite and at least 1"),
        ({"learning_rate": math.nan}, "learning_rate is nan, but must be finite and at least 0"),
        ({"weight_decay": math.inf}, "weight_decay is inf, but must be finite and at least 0"),
        ({"crop": -1}, "crop is -1, but must be finite and at least 0"),
        ({"noise": -0.1}, "noise is -0.1, but must be finite and at least 0"),
        ({"momentum": 1.0}, "momentum is 1.0, but must be finite and at least 0 and below 1"),
        (
            {"label_smoothing": -1},
            "label_smoothing is -1, but must be finite and at least 0 and below 1",
        ),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(EvaluationError) as error:
        Recipe(**options)

    assert str(error.value) == f"training recipe: {message}"


def test_every_name_is_accepted() -> None:
    assert {Recipe(optimizer=name).optimizer for name in OPTIMIZERS} == {"sgd", "adam", "adamw"}
    assert [Recipe(schedule=name).schedule for name in SCHEDULES] == list(SCHEDULES)
