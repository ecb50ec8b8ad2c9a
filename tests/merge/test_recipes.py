from __future__ import annotations

import pytest
import torch

from mergekit_perm.errors import MergeError
from mergekit_perm.merge import RECIPES, linear, merge, parameters_of
from mergekit_perm.mergekit import MERGEKIT_METHODS

STATES = {"a": {"w": torch.tensor([1.0])}, "b": {"w": torch.tensor([4.0])}}


def test_a_recipe_is_called_by_name_with_its_options() -> None:
    merged = merge(STATES, method="linear", weight={"a": 2, "b": 1}, normalize=False)

    assert merged["w"].item() == 6.0
    assert torch.equal(merge(STATES, method="linear")["w"], linear(STATES)["w"])


def test_the_table_holds_mergekit_ids_and_signatures_are_the_options() -> None:
    assert set(RECIPES) <= set(MERGEKIT_METHODS)
    assert len(MERGEKIT_METHODS) == len(set(MERGEKIT_METHODS)) == 20
    assert parameters_of("linear") == ("weight", "normalize")


def test_every_recipe_documents_its_source() -> None:
    assert all("arXiv" in (recipe.__doc__ or "") for recipe in RECIPES.values())


@pytest.mark.parametrize(
    ("method", "parameters", "message"),
    [
        (
            "linaer",
            {},
            "no merge method 'linaer' (did you mean 'linear'?); recipes here: linear",
        ),
        ("fish", {}, "no merge method 'fish'; recipes here: linear"),
        (
            "nearswap",
            {},
            "merge method 'nearswap' is known to mergekit, not provided here; recipes here: linear",
        ),
        (
            "linear",
            {"wieght": 1.0},
            "linear: no parameter 'wieght' (did you mean 'weight'?); it takes weight, normalize",
        ),
    ],
)
def test_what_is_refused(method: str, parameters: dict[str, float], message: str) -> None:
    with pytest.raises(MergeError) as error:
        merge(STATES, method=method, **parameters)

    assert str(error.value) == message
