"""The tables of spec/ repeat what torch-side code provides; here the two are held together."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from mergekit_perm import merge
from mergekit_perm.align import JOINT as ALIGN_JOINT
from mergekit_perm.align import METHODS, align
from mergekit_perm.align.weight_matching import weight_matching
from mergekit_perm.mergekit import MERGEKIT_METHODS
from mergekit_perm.spec import methods, models
from mergekit_perm.spec.fields import Calibration
from mergekit_perm.spec.problems import EXAMPLES, SECTIONS
from mergekit_perm.spec.run_spec import JOINT, RunSpec
from mergekit_perm.train import OPTIMIZERS, SCHEDULES, Recipe


def test_training_is_the_recipe() -> None:
    assert Recipe(**models.TrainSpec().keywords()) == Recipe()
    assert typing.get_args(models.Optimizer) == OPTIMIZERS
    assert typing.get_args(models.Schedule) == SCHEDULES


def test_a_network_may_override_every_field_of_its_training() -> None:
    train, own = models.TrainSpec.model_fields, models.NetworkTrain.model_fields
    assert list(own) == ["seed", *train]
    for name, field in train.items():
        assert own[name].default is None
        kinds = [kind for kind in typing.get_args(own[name].annotation) if kind is not type(None)]
        assert _core(kinds[0]) == _core(field.annotation)


def _core(kind: Any) -> Any:
    """Return a type without its bounds, which pydantic moves to the field in one case of two."""
    return typing.get_args(kind)[0] if hasattr(kind, "__metadata__") else kind


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("epochs", 0),
        ("momentum", 1.0),
        ("gamma", -0.5),
        ("label_smoothing", 1.0),
        ("batch_size", 0),
        ("noise", -1.0),
    ],
)
def test_bounds_are_those_of_the_recipe(field: str, bad: float) -> None:
    from mergekit_perm.errors import EvaluationError, SpecError
    from mergekit_perm.spec import loads

    with pytest.raises(EvaluationError, match=field):
        Recipe(**{field: bad})
    place = f"augment.{field}" if field in models.AugmentSpec.model_fields else field
    head = "format: perm-merge/run@1\nname: x\narchitecture: mlp\ndata: digits\n"
    text = head + "networks: {a: {train: {seed: 0}}}\n"
    for where in ("train", "networks.a.train"):
        with pytest.raises(SpecError, match=f"{where}.{place}: expected a number"):
            loads(text, overrides=[f"{where}.{place}={bad}"])


def test_merge_methods() -> None:
    assert tuple(merge.RECIPES) == methods.MERGE_METHODS
    assert set(methods.MERGE_METHODS) <= set(MERGEKIT_METHODS)
    for method in methods.MERGE_METHODS:
        recipe = inspect.signature(merge.RECIPES[method]).parameters
        fields = models.MergeParameters.model_fields
        assert merge.parameters_of(method) == tuple(fields)
        assert {name: recipe[name].default for name in fields} == dict(models.MergeParameters())


def test_alignment_methods() -> None:
    assert tuple(METHODS) == methods.ALIGNMENT_METHODS
    assert ALIGN_JOINT == JOINT
    own = dict(models.AlignSpec())
    del own["method"], own["permutations"]
    signature = inspect.signature(weight_matching).parameters
    assert {name: signature[name].default for name in own} == own
    assert inspect.signature(align).parameters["method"].default == models.AlignSpec().method


def test_calibrations() -> None:
    from mergekit_perm.evaluate.calibration import CALIBRATIONS

    assert tuple(CALIBRATIONS) == typing.get_args(Calibration)


def test_sections_are_all_there() -> None:
    assert dict(_sections(RunSpec, ())) == dict(SECTIONS)


def _sections(model: type[BaseModel], path: tuple[str, ...]) -> Iterator[tuple[Any, Any]]:
    yield path, model
    for name, field in model.model_fields.items():
        for inner, repeated in _models(field.annotation):
            yield from _sections(inner, (*path, name, *(["*"] if repeated else [])))


def _models(kind: Any, repeated: bool = False) -> Iterator[tuple[type[BaseModel], bool]]:
    if (
        isinstance(kind, type)
        and issubclass(kind, BaseModel)
        and not isinstance(kind, types.GenericAlias)
    ):
        yield kind, repeated
    inside = repeated or typing.get_origin(kind) in (dict, tuple)
    for part in typing.get_args(kind):
        yield from _models(part, inside)


def test_every_required_field_has_an_example() -> None:
    required = {
        name
        for model in SECTIONS.values()
        for name, field in model.model_fields.items()
        if field.is_required()
    }
    assert required == EXAMPLES.keys()
    assert all(example.startswith(f"{name}: ") for name, example in EXAMPLES.items())
