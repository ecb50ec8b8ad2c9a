"""Counters and statistics of normalisation layers, which no recipe treats as weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mergekit_perm.merge import RECIPES, find, merge

State = dict[str, torch.Tensor]


def layer(mean: float, var: float, count: int) -> State:
    return {
        "bn.weight": torch.full((2,), mean),
        "bn.running_mean": torch.full((2,), mean),
        "bn.running_var": torch.full((2,), var),
        "bn.num_batches_tracked": torch.tensor(count),
    }


FAMILY = {"a": layer(0.0, 4.0, 7), "b": layer(2.0, 1.0, 8), "c": layer(4.0, 2.0, 9)}


def statistics(method: str, names: str = "abc", **options: Any) -> tuple[float, float]:
    merged = merge({name: FAMILY[name] for name in names}, method=method, **options)
    return merged["bn.running_mean"][0].item(), merged["bn.running_var"][0].item()


def test_statistics_follow_the_plain_sum_of_the_recipe() -> None:
    assert statistics("linear", weight={"a": 1, "b": 1, "c": 2}) == (2.5, 2.25)
    assert statistics("slerp", "ab", base_model="a", t=0.25) == (0.5, 3.25)
    assert statistics("nuslerp", "ab", weight={"a": 3, "b": 1}) == (0.5, 3.25)
    assert statistics("karcher", "bc") == (3.0, 1.5)
    assert statistics("passthrough", "b", scale=3.0) == (2.0, 1.0)
    assert statistics("ties", base_model="a", density=0.1) == (3.0, 1.5)
    half = {"base_model": "a", "lambda": 0.5}
    assert statistics("ties", **half) == (1.5, 2.75)
    assert statistics("dare_linear", density=0.5, weight=0.25, **half) == (0.75, 3.375)
    assert statistics("sce", base_model="a") == statistics("model_stock", base_model="a")


def test_statistics_stay_within_the_range_of_the_networks() -> None:
    # Plainly: 0 + 2 + 4 = 6, and 4 - 3 - 2 = -1.
    assert statistics("task_arithmetic", base_model="a") == (4.0, 1.0)
    assert statistics("task_arithmetic", base_model="a", weight=-1.0) == (0.0, 4.0)


@pytest.mark.parametrize("method", RECIPES)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_no_variance_is_negative_or_nan(method: str, data: st.DataObject) -> None:
    variances = data.draw(st.lists(st.floats(0, 1e3, width=32), min_size=3, max_size=3))
    table = find(method).table
    count = min(3, int(min(table.most, 9)) + (table.base == "required"))
    named = {
        n: {"bn.running_var": torch.tensor([v])} for n, v in zip("abc", variances, strict=True)
    }
    family = {name: named[name] for name in "abc"[:count]}
    options: dict[str, Any] = {"base_model": "a"} if table.base == "required" else {}
    for option, value in table.options.items():
        if value.kind == "number" and option in ("weight", "lambda"):
            options[option] = data.draw(st.sampled_from([-3.0, 0.5, 1.0, 4.0]))
    options |= {"t": 0.5} if method == "slerp" else {}
    merged = merge(family, method=method, **options)["bn.running_var"].item()
    assert min(variances[:count]) <= merged <= max(variances[:count])


@pytest.mark.parametrize("method", RECIPES)
def test_counters_are_copied(method: str) -> None:
    table = find(method).table
    names = "abc"[: int(min(table.most, 3)) + (table.base == "required")]
    options: dict[str, Any] = {"base_model": names[-1]} if table.base == "required" else {}
    options |= {"t": 0.5} if method == "slerp" else {}
    merged = merge({name: FAMILY[name] for name in names}, method=method, **options)
    counter = merged["bn.num_batches_tracked"]
    source = FAMILY[names[-1] if table.base == "required" else "a"]["bn.num_batches_tracked"]
    assert torch.equal(counter, source) and counter.dtype == torch.int64
    assert counter.data_ptr() != source.data_ptr()


def test_weights_of_statistics_that_cancel_move_nothing_but_by_their_difference() -> None:
    # b - c, whose weights cannot be normalised: 0 + (2 - 4) is below the range.
    assert statistics("ties", base_model="a", weight={"b": 1, "c": -1}) == (0.0, 3.0)
