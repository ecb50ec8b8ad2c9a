"""Filters, gradients and values for each network, as `merge` resolves them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mergekit_perm.errors import MergeError
from mergekit_perm.merge import explain, merge
from mergekit_perm.merge.options import Option
from mergekit_perm.merge.values import flaws, interpolated, setting

NAMES = (
    "stem.weight",
    "blocks.0.fc.weight",
    "blocks.1.fc.weight",
    "blocks.2.fc.weight",
    "head.bias",
)


def at(value: Any) -> dict[str, float]:
    """What `weight` is for each tensor: that of network b, with a base model of zeros."""
    zeros = {name: torch.zeros(1) for name in NAMES}
    ones = {name: torch.ones(1) for name in NAMES}
    merged = merge({"a": zeros, "b": ones}, method="task_arithmetic", base_model="a", weight=value)
    return {name: round(tensor.item(), 6) for name, tensor in merged.items()}


def refused(value: Any, **options: Any) -> str:
    with pytest.raises(MergeError) as error:
        merge(
            {n: {name: torch.zeros(1) for name in NAMES} for n in "abc"},
            **{"method": "ties", "base_model": "a", "density": value, **options},
        )
    return str(error.value)


def test_a_number() -> None:
    assert set(at(0.25).values()) == {0.25}


@pytest.mark.parametrize(
    ("pattern", "matched"),
    [
        ("blocks", NAMES[1:4]),
        ("weight", NAMES[:4]),
        ("blocks.1.fc.weight", NAMES[2:3]),
        ("glob:blocks.[01].*", NAMES[1:3]),
        ("glob:*.bias", NAMES[4:]),
        ("regex:^blocks\\.[12]", NAMES[2:4]),
        ("regex:bias$", NAMES[4:]),
    ],
)
def test_filters_by_name(pattern: str, matched: tuple[str, ...]) -> None:
    found = at([{"filter": pattern, "value": 0.25}, {"value": 0.5}])
    assert {name for name, value in found.items() if value == 0.25} == set(matched)
    assert {value for name, value in found.items() if name not in matched} == {0.5}


def test_a_glob_is_for_the_whole_name_and_minds_capitals() -> None:
    assert "matches no tensor" in refused([{"filter": "glob:locks*", "value": 1.0}])
    assert "matches no tensor" in refused([{"filter": "glob:Blocks*", "value": 1.0}])


def test_the_first_filter_that_matches_counts_and_the_default_comes_last() -> None:
    found = at([{"filter": "blocks.0", "value": 2.0}, {"filter": "blocks", "value": 3.0}])
    assert list(found.values()) == [1.0, 2.0, 3.0, 3.0, 1.0]
    assert at([{"filter": "head", "value": 2}, {"filter": "*", "value": 3}])["head.bias"] == 2


def test_a_gradient_runs_over_blocks_with_the_stem_before_and_the_head_behind() -> None:
    assert list(at([0.0, 1.0]).values()) == [0.0, 0.0, 0.5, 1.0, 1.0]
    assert list(at([0.0, 3.0, 1.0]).values()) == [0.0, 0.0, 3.0, 1.0, 1.0]
    assert list(at([2.0]).values()) == [2.0] * 5
    filtered = at([{"filter": "blocks", "value": [0.0, 4.0]}, {"value": 7.0}])
    assert list(filtered.values()) == [7.0, 0.0, 2.0, 4.0, 7.0]


@given(st.lists(st.floats(-9, 9), min_size=2, max_size=5), st.floats(0, 1))
def test_gradients_are_piecewise_linear(points: list[float], depth: float) -> None:
    last = len(points) - 1
    assert [interpolated(points, i / last) for i in range(last + 1)] == pytest.approx(points)
    expected = sum(p * max(0.0, 1 - abs(depth * last - i)) for i, p in enumerate(points))
    assert interpolated(points, depth) == pytest.approx(expected, abs=1e-9)


def test_values_for_each_network() -> None:
    states = {
        n: {name: torch.full((1,), v) for name in NAMES}
        for n, v in zip("abc", (0.0, 1, 10), strict=True)
    }
    weight = {"b": [0.0, 1.0], "c": [{"filter": "head", "value": 2.0}, {"value": 0.5}]}
    merged = merge(states, method="task_arithmetic", base_model="a", weight=weight)
    assert [t.item() for t in merged.values()] == [5.0, 5.0, 5.5, 6.0, 21.0]


def test_true_and_false_by_name() -> None:
    states = {n: {name: torch.full((1,), 3.0) for name in NAMES} for n in "ab"}
    flags = [{"filter": "head", "value": False}, {"value": True}]
    merged = merge(states, method="linear", normalize=flags)
    assert [t.item() for t in merged.values()] == [3.0, 3.0, 3.0, 3.0, 6.0]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            [{"filter": "block.0", "value": 1}],
            "ties: density, for 'b', entry 0: the filter 'block.0' matches no tensor "
            "(did you mean 'blocks'?)",
        ),
        (
            [{"filter": "blocks", "value": 1}, {"filter": "blocks.1", "value": 0.5}],
            "ties: density, for 'b', entry 1: the filter 'blocks.1' matches only tensors that "
            "filters before it have",
        ),
        (
            {"b": 1, "c": [{"filter": "nothing", "value": 1}]},
            "ties: density, for 'c', entry 0: the filter 'nothing' matches no tensor",
        ),
        ([{"value": 1}, {"filter": "head", "value": 1}],
            "ties: density[1]: this is never reached: entry 0 is for every tensor; put it before "
            "that one, or remove it",
        ),
        ([], "ties: density: expected a number, a list of numbers over depth, a list of "
            "{filter, value}, or a mapping from network to these, found []",
        ),
        ([0.5, 2], "ties: density[1]: expected a number from 0 to 1, found 2"),
        ([{"filter": "head"}], "ties: density[0]: the field 'value' is missing; add it, for "
            "example: value: 0.5",
        ),
        ([{"filter": "regex:[", "value": 1}], "ties: density[0].filter: 'regex:[' is no regular "
            "expression: unterminated character set at position 0",
        ),
        ({"b": 1, "c": True}, "ties: density.c: expected a number, a list of numbers over depth, "
            "or a list of {filter, value}, found True",
        ),
    ],
)  # fmt: skip
def test_what_is_refused(value: Any, message: str) -> None:
    assert refused(value) == message


def test_an_option_without_a_default_needs_a_value_everywhere() -> None:
    states = {n: {name: torch.zeros(1) for name in NAMES} for n in "ab"}
    with pytest.raises(MergeError) as error:
        merge(states, method="slerp", base_model="a", t=[{"filter": "blocks", "value": 0.5}])
    assert str(error.value) == (
        "slerp: t: no filter matches the tensor 'stem.weight', and there is no default; end the "
        "list with an entry {value: ...}"
    )


def test_what_a_gradient_makes_impossible_is_refused_in_time() -> None:
    class Unread(dict[str, torch.Tensor]):
        def __getitem__(self, name: str) -> torch.Tensor:
            raise AssertionError(name)

    states = {n: Unread({name: torch.zeros(1) for name in NAMES}) for n in "ab"}
    with pytest.raises(MergeError, match=r"della: density 0\.95 with epsilon 0\.1: elements would"):
        merge(states, method="della", base_model="a", density=[0.5, 0.95], epsilon=0.1)


def test_values_are_explained_without_weights() -> None:
    given: dict[str, Any] = {
        "method": "ties",
        "base_model": "a",
        "density": {"b": [0, 1], "c": 0.5},
    }
    found = explain("abc", NAMES, **given)
    assert list(found) == list(NAMES)
    assert [options["density"] for options in found.values()] == [
        [0.0, 0.5], [0.0, 0.5], [0.5, 0.5], [1.0, 0.5], [1.0, 0.5],
    ]  # fmt: skip
    assert found["head.bias"] == {
        "weight": [1.0, 1.0], "density": [1.0, 0.5], "lambda": 1.0, "normalize": True,
        "rescale": False,
    }  # fmt: skip
    with pytest.raises(MergeError, match="the filter 'x' matches no tensor"):
        explain("abc", NAMES, **given | {"density": [{"filter": "x", "value": 1}]})


def test_bounds_are_worded() -> None:
    bounds = [
        Option("number", 0, most=1),
        Option("number", 0, least=2),
        Option("whole", 0, least=2),
    ]
    found = [next(flaws(1.5, option, "ab", name="x")).message for option in bounds]
    assert found == [
        "expected a number of at most 1",
        "expected a number of at least 2",
        "expected a whole number, or a list of {filter, value}",
    ]


def test_a_rule_knows_its_value_at_a_place() -> None:
    rules = setting([{"filter": "x", "value": [0, 4]}], Option("number", 7.0))
    assert (rules.at("x", 0.25), rules.at("y", 0.25)) == (1.0, 7.0)
