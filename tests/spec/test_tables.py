"""The tables of spec/ repeat what torch-side code provides; here the two are held together."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from pydantic import BaseModel
from torch import nn
from torch.utils.data import TensorDataset

from mergekit_perm import merge
from mergekit_perm.align import JOINT as ALIGN_JOINT
from mergekit_perm.align import METHODS, align
from mergekit_perm.data import Split
from mergekit_perm.merge.options import table_of
from mergekit_perm.permspec import PermutationSpec
from mergekit_perm.spec import alignment, methods, models, recipes
from mergekit_perm.spec.fields import Calibration
from mergekit_perm.spec.problems import EXAMPLES, SECTIONS
from mergekit_perm.spec.run_spec import JOINT, RunSpec
from mergekit_perm.train import OPTIMIZERS, SCHEDULES, Recipe
from tests.strategies import state_of


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
    assert list(merge.RECIPES) == list(recipes.RECIPES)


@pytest.mark.parametrize("method", merge.RECIPES)
def test_the_parameters_of_recipes_are_those_of_their_signatures(method: str) -> None:
    assert recipes.RECIPES[method] == table_of(merge.RECIPES[method])
    assert list(recipes.RECIPES[method].options) == list(table_of(merge.RECIPES[method]).options)


@pytest.mark.parametrize("method", merge.RECIPES)
def test_weights_that_cancel_are_refused_where_the_recipe_refuses_them(method: str) -> None:
    from mergekit_perm.errors import MergeError

    table = recipes.RECIPES[method]
    if "weight" not in table.options or table.fewest > 2:
        assert method not in recipes.DIVIDED
        return
    states = {name: {"w": torch.ones(2)} for name in "abc"}
    base = {"base_model": "c"} if table.base != "refused" else {}
    networks = {name: states[name] for name in ("abc" if base else "ab")}
    flag = recipes.DIVIDED.get(method)
    on = {flag: True} if flag else {}
    try:
        merge.merge(networks, method=method, weight={"a": 1, "b": -1}, **base, **on)
    except MergeError:
        assert method in recipes.DIVIDED
    else:
        assert method not in recipes.DIVIDED


# What a solver takes that is no option: networks, and what `align` gives it.
GIVEN = {"states", "spec", "reference", "examples", "device", "progress"}


def test_alignment_methods() -> None:
    assert tuple(METHODS) == methods.ALIGNMENT_METHODS == tuple(alignment.ALIGNMENTS)
    assert ALIGN_JOINT == JOINT
    for method, section in alignment.ALIGNMENTS.items():
        assert section().method == method


@pytest.mark.parametrize("method", METHODS)
def test_the_options_of_alignment_are_those_of_the_solver(method: str) -> None:
    signature = inspect.signature(METHODS[method]).parameters
    section = alignment.ALIGNMENTS[method]
    defaults = {n: p.default for n, p in signature.items() if n not in GIVEN}
    assert section().options == defaults
    assert alignment.options_of(method) == list(section().options)
    hints = typing.get_type_hints(METHODS[method])
    for option in defaults:
        assert _kinds(section.model_fields[option].annotation) == _kinds(hints[option]), option


def _kinds(kind: Any) -> set[Any]:
    """Return the types of a union, or the choices of a literal, without bounds."""
    return {_core(part) for part in typing.get_args(kind)} or {kind}


@pytest.mark.parametrize("method", METHODS)
def test_bounds_are_those_of_the_solver(method: str) -> None:
    """The least that the spec lets through is let through, and the next below is not."""
    from mergekit_perm.errors import AlignmentError

    spec = PermutationSpec.loads(
        "format: perm-merge/permspec@1\ngroups: {g: 4}\naxes: {0.weight: [g, 3], 2.weight: [2, g]}"
    )
    module = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False))
    states = {
        name: state_of({"0.weight": (4, 3), "2.weight": (2, 4)}, seed)
        for seed, name in enumerate("ab")
    }
    split = Split("train", TensorDataset(torch.randn(8, 3), torch.arange(8) % 2))
    given: dict[str, Any] = {"model": module, "data": split}
    given = given if alignment.ALIGNMENTS[method]().needs_data else {}
    quick: dict[str, Any] = {
        name: 1
        for name in ("steps", "exchanges", "max_iterations")
        if name in alignment.options_of(method)
    }
    checked = 0
    for option, field in alignment.ALIGNMENTS[method].model_fields.items():
        least = next((bound.ge for bound in field.metadata if hasattr(bound, "ge")), None)
        if option not in alignment.options_of(method) or least is None:
            continue
        align(states, spec, method=method, **given, **{**quick, option: least})
        if (method, option) == ("weight_matching", "tolerance"):
            continue  # which takes any
        with pytest.raises(AlignmentError, match=option):
            align(states, spec, method=method, **given, **{**quick, option: least - 1})
        checked += 1
    assert checked > 1


@pytest.mark.parametrize("method", METHODS)
def test_what_looks_at_data_takes_examples(method: str) -> None:
    takes = "examples" in inspect.signature(METHODS[method]).parameters
    objectives = ["distance", "midpoint"] if method == "sinkhorn" else [None]
    section = alignment.ALIGNMENTS[method]
    seen = {section(**({"objective": o} if o else {})).looks_at for o in objectives}
    assert (seen != {"weights"}) == takes


def test_the_default_method_of_python_is_that_of_a_spec() -> None:
    assert inspect.signature(align).parameters["method"].default is None
    source = inspect.getsource(align)
    assert '"mixed" if reference == JOINT and data is not None else "weight_matching"' in source
    for reference in (JOINT, "a"):
        for has_data in (False, True):
            found = alignment.default_method({"reference": reference}, has_data=has_data)
            assert found == ("mixed" if reference == JOINT and has_data else "weight_matching")


def test_calibrations() -> None:
    from mergekit_perm.evaluate.calibration import CALIBRATIONS

    assert tuple(CALIBRATIONS) == typing.get_args(Calibration)


def test_sections_are_all_there() -> None:
    assert dict(_sections(RunSpec, ())) == dict(SECTIONS)
    assert {model.__base__ for model in alignment.ALIGNMENTS.values()} == {alignment.AlignSpec}


def _sections(model: type[BaseModel], path: tuple[str, ...]) -> Iterator[tuple[Any, Any]]:
    # The models of methods stand where `align` stands; what is common to them stands for them.
    yield path, alignment.AlignSpec if issubclass(model, alignment.AlignSpec) else model
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
