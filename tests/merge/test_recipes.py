from __future__ import annotations

import ast
import inspect
from typing import Any

import pytest
import torch

from mergekit_perm.errors import MergeError
from mergekit_perm.merge import RECIPES, find, merge, parameters_of
from mergekit_perm.merge.options import PerNetwork, each, table_of
from mergekit_perm.mergekit import MERGEKIT_METHODS

STATES = {
    name: {"w": torch.tensor([value])} for name, value in (("a", 1.0), ("b", 4.0), ("c", 2.0))
}
HERE = ", ".join(RECIPES)

# mergekit's parameters and defaults, without those that change nothing; None has to be given.
MERGEKIT: dict[str, dict[str, Any]] = {
    "linear": {"weight": 1.0, "normalize": True},
    "slerp": {"t": None},
    "nuslerp": {"weight": 1.0, "nuslerp_row_wise": False, "nuslerp_flatten": True},
    "multislerp": {"weight": 1.0, "normalize_weights": True, "eps": 1e-8},
    "karcher": {"max_iter": 10, "tol": 1e-5},
    "task_arithmetic": {"weight": 1.0, "lambda": 1.0, "normalize": False},
    "model_stock": {"filter_wise": False},
    "sce": {"select_topk": 1.0},
    "ram": {"epsilon": 1e-5},
    "ramplus_tl": {"r": 0.1, "alpha": 0.2, "epsilon": 1e-5},
    "passthrough": {"scale": 1.0},
}
THINNED = {"weight": 1.0, "density": 1.0, "lambda": 1.0}
MERGEKIT |= {
    "ties": THINNED | {"normalize": True, "rescale": False},
    "dare_linear": THINNED | {"normalize": False, "rescale": True, "seed": 0},
    "dare_ties": THINNED | {"normalize": False, "rescale": True, "seed": 0},
    "breadcrumbs": THINNED | {"gamma": 0.01, "normalize": False, "rescale": False},
    "breadcrumbs_ties": THINNED | {"gamma": 0.01, "normalize": False, "rescale": False},
    "della": THINNED | {"epsilon": 0.15, "normalize": True, "rescale": True, "seed": 0},
    "della_linear": THINNED | {"epsilon": 0.15, "normalize": False, "rescale": True, "seed": 0},
}


def test_the_ids_are_those_of_mergekit() -> None:
    assert set(MERGEKIT_METHODS) - set(RECIPES) == {"nearswap", "arcee_fusion"}
    assert set(RECIPES) <= set(MERGEKIT_METHODS)
    assert len(MERGEKIT_METHODS) == len(set(MERGEKIT_METHODS)) == 20


@pytest.mark.parametrize("method", RECIPES)
def test_parameters_and_defaults_are_those_of_mergekit(method: str) -> None:
    options = find(method).table.options
    assert {name: option.default for name, option in options.items()} == MERGEKIT[method]
    assert parameters_of(method) == tuple(options)


def test_base_models_and_numbers_of_networks() -> None:
    tables = {method: table_of(recipe) for method, recipe in RECIPES.items()}
    assert {m for m, t in tables.items() if t.base == "refused"} == {
        "linear", "karcher", "passthrough",
    }  # fmt: skip
    assert {m for m, t in tables.items() if t.base == "optional"} == {"nuslerp", "multislerp"}
    numbers = {method: (table.fewest, table.most) for method, table in tables.items()}
    assert {m: n for m, n in numbers.items() if n != (1, torch.inf)} == {
        "slerp": (1, 1), "nuslerp": (2, 2), "model_stock": (2, torch.inf), "passthrough": (1, 1),
    }  # fmt: skip


@pytest.mark.parametrize("method", RECIPES)
def test_every_recipe_documents_its_source_and_every_option(method: str) -> None:
    module = inspect.getmodule(RECIPES[method])
    assert module is not None
    assert "arXiv" in (RECIPES[method].__doc__ or "")
    text = "\n".join(
        ast.get_docstring(node) or ""
        for node in ast.parse(inspect.getsource(module)).body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    )
    own = set(parameters_of(method)) - {"seed"}
    assert all(f"{name}:" in text or f"{name}_:" in text or f"{name}, " in text for name in own)


@pytest.mark.parametrize(
    ("method", "parameters", "message"),
    [
        ("linaer", {}, f"no merge method 'linaer' (did you mean 'linear'?); recipes here: {HERE}"),
        ("fish", {}, f"no merge method 'fish'; recipes here: {HERE}"),
        (
            "nearswap",
            {},
            "merge method 'nearswap' is known to mergekit, not provided here; "
            f"recipes here: {HERE}",
        ),
        (
            "linear",
            {"wieght": 1.0},
            "linear: no parameter 'wieght' (did you mean 'weight'?); it takes weight, normalize",
        ),
        (
            "ties",
            {"base_model": "a", "int8_mask": True},
            "ties: no parameter 'int8_mask'; masks are not kept, so that their size changes "
            "nothing: remove it",
        ),
        (
            "task_arithmetic",
            {"base_model": "a", "density": 0.5},
            "task_arithmetic: no parameter 'density'; task arithmetic drops nothing; mergekit "
            "takes this and does nothing with it: remove it",
        ),
        ("ties", {}, "ties: it needs a base model; give base_model, one of a, b, c"),
        (
            "ties",
            {"base_model": "aa"},
            "ties: no network 'aa' (did you mean 'a'?), which base_model names; "
            "networks here: a, b, c",
        ),
        (
            "slerp",
            {"base_model": "a", "t": 0.5},
            "slerp: it takes 1 network besides the base model, found b, c",
        ),
        ("nuslerp", {}, "nuslerp: it takes 2 networks, found a, b, c"),
        ("passthrough", {}, "passthrough: it takes 1 network, found a, b, c"),
        (
            "ties",
            {"base_model": "a", "weight": {"a": 1, "b": 1, "c": 1}},
            "ties: weight.a: 'a' is the base model, and takes no weight; remove it",
        ),
        (
            "ties",
            {"base_model": "a", "density": 1.5},
            "ties: density: expected a number from 0 to 1, found 1.5",
        ),
        (
            "della",
            {"base_model": "a", "density": 0.9},
            "della: density 0.9 with epsilon 0.15: elements would be kept with chances from 0.75 "
            "to 1.05; both have to lie within 0 and 1",
        ),
        (
            "nuslerp",
            {"base_model": "a", "weight": {"b": 1, "c": -1}},
            "nuslerp: the weights sum to 0 (1, -1), so they cannot be normalised; change them, "
            "or switch normalising off where the recipe has an option for that",
        ),
        (
            "karcher",
            {"max_iter": 2.5},
            "karcher: max_iter: expected a whole number, or a list of {filter, value}, found 2.5",
        ),
        (
            "ties",
            {"base_model": "a", "normalize": 1},
            "ties: normalize: expected true or false, or a list of {filter, value}, found 1",
        ),
    ],
)
def test_what_is_refused(method: str, parameters: dict[str, Any], message: str) -> None:
    class Unread(dict[str, torch.Tensor]):
        def __getitem__(self, name: str) -> torch.Tensor:
            raise AssertionError(f"'{name}' was read")

    with pytest.raises(MergeError) as error:
        merge({name: Unread(state) for name, state in STATES.items()}, method=method, **parameters)

    assert str(error.value) == message


def test_slerp_needs_its_t() -> None:
    family = {"a": STATES["a"], "b": STATES["b"]}
    with pytest.raises(MergeError) as error:
        merge(family, method="slerp", base_model="a")
    assert str(error.value) == "slerp: it needs the parameter 't'; give, for example, t=0.5"


def test_lambda_is_written_with_an_underscore_in_python() -> None:
    merged = merge(STATES, method="task_arithmetic", base_model="a", lambda_=0.5)
    assert merged["w"].item() == 1 + 0.5 * (3 + 1)
    given = {"lambda": 0.5}
    assert merge(STATES, method="task_arithmetic", base_model="a", **given) == merged


class TestSignatures:
    def test_a_single_value_stands_for_all(self) -> None:
        assert each(2, 3) == [2.0, 2.0, 2.0]
        assert each([1, 2], 2) == [1.0, 2.0]
        with pytest.raises(MergeError, match="found 2 values of an option for 3 networks"):
            each([1, 2], 3)

    def test_what_is_no_recipe(self) -> None:
        def positional(tensors: Any, weight: PerNetwork) -> Any: ...

        def texts(tensors: Any, *, word: str = "x") -> Any: ...

        with pytest.raises(MergeError) as error:
            table_of(positional)
        assert str(error.value) == "recipe 'positional': 'weight' has to be keyword-only"
        with pytest.raises(MergeError) as error:
            table_of(texts)
        assert str(error.value) == (
            "recipe 'texts': the option 'word' has to be annotated as float, int, bool or "
            "PerNetwork"
        )
