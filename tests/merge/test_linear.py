from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mergekit_perm.errors import MergeError
from mergekit_perm.merge import merge


def states() -> dict[str, dict[str, torch.Tensor]]:
    return {
        "a": {"w": torch.tensor([1.0, 2.0]), "n": torch.tensor(7)},
        "b": {"w": torch.tensor([3.0, -6.0]), "n": torch.tensor(9)},
        "c": {"w": torch.tensor([5.0, 0.0]), "n": torch.tensor(11)},
    }


def linear(family: dict[str, dict[str, torch.Tensor]], **options: Any) -> dict[str, torch.Tensor]:
    return merge(family, method="linear", **options)


def test_the_default_is_the_mean() -> None:
    merged = linear(states())

    assert list(merged) == ["w", "n"]
    assert torch.allclose(merged["w"], torch.tensor([3.0, -4 / 3]))


@pytest.mark.parametrize(
    ("weight", "normalize", "expected"),
    [
        ({"a": 1, "b": 1, "c": 2}, True, [3.5, -1.0]),
        ({"a": 1, "b": 1, "c": 2}, False, [14.0, -4.0]),
        ({"a": 2, "b": -1, "c": 0}, True, [-1.0, 10.0]),
        (5.0, True, [3.0, -4 / 3]),
        (0.5, False, [4.5, -2.0]),
        ({"a": 0, "b": 0, "c": 0}, False, [0.0, 0.0]),
    ],
)
def test_weights_scale_and_normalise(weight: Any, normalize: bool, expected: list[float]) -> None:
    merged = linear(states(), weight=weight, normalize=normalize)

    assert torch.allclose(merged["w"], torch.tensor(expected))


def test_counters_come_from_the_first_network_with_a_weight() -> None:
    assert linear(states())["n"].item() == 7
    assert linear(states(), weight={"a": 0, "b": 1, "c": 1})["n"].item() == 9


def test_one_network_merges_into_itself_bit_for_bit_and_apart() -> None:
    state = {"w": torch.randn(50, generator=torch.Generator().manual_seed(0))}

    merged = linear({"a": state}, weight=0.3)

    assert torch.equal(merged["w"], state["w"])
    assert merged["w"].data_ptr() != state["w"].data_ptr()


def test_what_has_no_weight_cannot_leak() -> None:
    family = states() | {"d": {"w": torch.tensor([math.inf, math.nan]), "n": torch.tensor(1)}}

    merged = linear(family, weight={"a": 1, "b": 1, "c": 1, "d": 0})

    assert torch.allclose(merged["w"], torch.tensor([3.0, -4 / 3]))


@given(st.lists(st.floats(0.1, 10), min_size=3, max_size=3), st.floats(0.1, 10))
def test_normalised_weights_have_no_scale(weights: list[float], scale: float) -> None:
    one = linear(states(), weight=dict(zip("abc", weights, strict=True)))
    other = linear(states(), weight={n: w * scale for n, w in zip("abc", weights, strict=True)})

    assert torch.allclose(one["w"], other["w"], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"weight": {"a": 0.1, "b": 0.2, "c": -0.3}},
            "linear: the weights sum to 0 (0.1, 0.2, -0.3), so they cannot be normalised; "
            "change them, or switch normalising off where the recipe has an option for that",
        ),
        (
            {"weight": {"a": 1, "b": 1, "c": math.nan}},
            "linear: weight.c: expected a finite number, found nan",
        ),
        (
            {"weight": {"a": 1, "b": 1}},
            "linear: weight: no weight for network 'c'; add c: 1.0, or 0 to leave it out",
        ),
        (
            {"weight": {"a": 1, "b": 1, "c": 1, "d": 1}},
            "linear: weight.d: no network 'd'; networks here: a, b, c",
        ),
        (
            {"base_model": "a"},
            "linear: all networks count alike in this recipe, so it has no base model; "
            "remove base_model, and 'a' is merged like the others",
        ),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(MergeError) as error:
        linear(states(), **options)

    assert str(error.value) == message


def test_networks_that_are_refused() -> None:
    with pytest.raises(MergeError) as error:
        linear({})
    assert str(error.value) == "linear: there are no networks to merge; give at least one"

    with pytest.raises(MergeError) as error:
        linear({**states(), "d": {"w": torch.ones(3), "n": torch.tensor(1)}})
    assert str(error.value) == (
        "linear: tensor 'w' is (3,) in 'd' and (2,) in 'a'; "
        "only networks of one architecture can be merged"
    )
