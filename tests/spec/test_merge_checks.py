"""Recipes in a run spec that are sound; what is said of others is in tests/golden/spec."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from mergekit_perm.spec import loads, resolved
from mergekit_perm.spec.recipes import RECIPES
from mergekit_perm.yaml_document import dump, read

SPEC = {
    "format": "perm-merge/run@1",
    "name": "x",
    "architecture": "mlp",
    "data": "digits",
    "networks": {name: {"train": {"seed": seed}} for seed, name in enumerate("abc")},
}


def text_of(**recipe: Any) -> str:
    return dump({**SPEC, "merge": [{"name": "m", **recipe}]})


def minimal(method: str) -> dict[str, Any]:
    """The least that a recipe has to be told for three networks."""
    table = RECIPES[method]
    recipe: dict[str, Any] = {"method": method}
    if table.base == "required":
        recipe["base_model"] = "a"
    if table.most <= 2:
        recipe["networks"] = ["b", "c"][: int(table.most)]
    return recipe | ({"parameters": {"t": 0.5}} if method == "slerp" else {})


@pytest.mark.parametrize("method", RECIPES)
def test_every_recipe_with_its_defaults_written_out(method: str) -> None:
    spec = loads(text_of(**minimal(method)))
    written = read(resolved(spec), file="f").data["merge"][0]
    defaults = {name: option.default for name, option in RECIPES[method].options.items()}
    assert written["parameters"] == defaults | ({"t": 0.5} if method == "slerp" else {})
    assert list(written["parameters"]) == list(defaults)
    assert loads(resolved(spec)) == spec


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("ties", {"weight": {"b": 0, "c": [0, 1]}, "lambda": [1, 0.5], "density": 0}),
        ("ties", {"weight": {"b": 1, "c": -1}}),
        ("task_arithmetic", {"weight": {"b": 1, "c": -1}}),
        ("task_arithmetic", {"weight": [1, -1], "normalize": True}),
        ("della", {"density": 0.5, "epsilon": 0.5}),
        ("della", {"density": {"b": 1, "c": [0.3, 0.7]}, "epsilon": 0.3}),
        ("dare_ties", {"seed": 3, "rescale": [{"filter": "head", "value": False}]}),
    ],
)
def test_parameters_that_can_be_used(method: str, parameters: dict[str, Any]) -> None:
    spec = loads(text_of(method=method, base_model="a", parameters=parameters))
    assert spec.merge[0].parameters.model_dump().items() >= parameters.items()


def test_the_base_model_is_read_though_it_is_not_listed() -> None:
    spec = loads(text_of(method="ties", base_model="c", networks=["b", "a"]))
    assert spec.merged_networks(spec.merge[0]) == ("c", "b", "a")
    spec = loads(text_of(method="ties", base_model="a", networks=["b", "a"]))
    assert spec.merged_networks(spec.merge[0]) == ("b", "a")


def test_a_whole_number_is_a_number() -> None:
    one, other = (
        loads(text_of(method="ties", base_model="a", parameters={"density": d, "weight": [d, d]}))
        for d in (1, 1.0)
    )
    assert one == other and resolved(one) == resolved(other)


def test_checking_recipes_loads_no_torch() -> None:
    recipe = minimal("della") | {"parameters": {"density": [{"filter": "x", "value": 0.5}]}}
    script = (
        "import sys\nfrom mergekit_perm.spec import loads\n"
        f"loads({text_of(**recipe)!r})\nassert 'torch' not in sys.modules\nprint('fine')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("fine\n", "")
