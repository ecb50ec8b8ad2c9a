"""What must hold for recipes whatever the networks are."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mergekit_perm.merge import RECIPES, find, merge
from tests.strategies import state_of

State = dict[str, torch.Tensor]
LAW = settings(max_examples=8, deadline=None)
SHAPES = {"conv.weight": (4, 3, 2, 2), "conv.bias": (4,), "fc.weight": (5, 4), "scale": (1,)}


def family_for(
    method: str, seed: int, names: str = "abc"
) -> tuple[dict[str, State], dict[str, Any]]:
    """As many networks as a recipe takes, with the base model first, and what it has to be told."""
    table = find(method).table
    count = min(len(names), int(min(table.most, 9)) + (table.base == "required"))
    family = {name: state_of(SHAPES, 10 * seed + i) for i, name in enumerate(names[:count])}
    options: dict[str, Any] = {"base_model": names[0]} if table.base == "required" else {}
    return family, options | ({"t": 0.3} if method == "slerp" else {})


def same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def close(one: State, other: State) -> bool:
    return all(torch.allclose(one[n], other[n], atol=1e-6) for n in one)


SUMMING = {"task_arithmetic", "dare_linear", "dare_ties", "breadcrumbs", "breadcrumbs_ties"}
SUMMING |= {"della_linear"}


@pytest.mark.parametrize("method", RECIPES)
@LAW
@given(seed=st.integers(0, 999))
def test_copies_merge_into_the_network(method: str, seed: int) -> None:
    family, options = family_for(method, seed)
    copies = dict.fromkeys(family, next(iter(family.values())))
    assert same(merge(copies, method=method, **options), copies["a"])


@pytest.mark.parametrize("method", sorted(set(RECIPES) - SUMMING - {"slerp", "model_stock"}))
@LAW
@given(seed=st.integers(0, 999))
def test_networks_that_agree_are_the_merged_one(method: str, seed: int) -> None:
    """Copies of one network, with another one as their base model where there is one."""
    family, options = family_for(method, seed)
    first = options.get("base_model")
    networks = {n: family["b" if first else "a"] for n in family if n != first}
    given = networks | ({first: family[first]} if first else {})
    assert close(merge(given, method=method, **options), next(iter(networks.values())))


def test_model_stock_of_networks_that_agree_is_that_network() -> None:
    a, b = state_of(SHAPES, 1), state_of(SHAPES, 2)
    assert close(merge({"a": a, "b": b, "c": b}, method="model_stock", base_model="a"), b)


@pytest.mark.parametrize("method", sorted(SUMMING | {"ties", "della", "sce", "ram", "ramplus_tl"}))
@LAW
@given(seed=st.integers(0, 999))
def test_one_network_at_full_density_comes_back_bit_for_bit(method: str, seed: int) -> None:
    family, options = family_for(method, seed, "ab")
    given = options | ({"epsilon": 0.0} if method.startswith("ram") else {})
    merged = merge(family, method=method, **given)
    if method == "ramplus_tl":  # nothing is shared, so nothing is enlarged
        assert close(merged, family["b"])
    assert same(merged, family["b"])


@pytest.mark.parametrize("method", [m for m in RECIPES if "lambda" in find(m).table.options])
@LAW
@given(seed=st.integers(0, 999))
def test_no_step_is_the_base_model(method: str, seed: int) -> None:
    family, options = family_for(method, seed)
    assert same(merge(family, method=method, lambda_=0.0, **options), family["a"])
    half, whole = (merge(family, method=method, lambda_=x, **options) for x in (0.5, 1.0))
    middle = merge({"a": family["a"], "b": whole}, method="linear")
    assert close(half, middle) and not close(half, whole)


@pytest.mark.parametrize("method", ["ties", "dare_linear", "dare_ties", "breadcrumbs"])
def test_nothing_kept_is_the_base_model(method: str) -> None:
    family, options = family_for(method, 0)
    assert same(merge(family, method=method, density=0.0, **options), family["a"])
    without = merge(family, method=method, weight=0.0, **options | {"normalize": False})
    assert same(without, family["a"])


@LAW
@given(seed=st.integers(0, 999), t=st.floats(0, 1))
def test_slerp(seed: int, t: float) -> None:
    family = {"a": state_of(SHAPES, seed), "b": state_of(SHAPES, seed + 1000)}
    assert same(merge(family, method="slerp", base_model="a", t=0.0), family["a"])
    assert same(merge(family, method="slerp", base_model="a", t=1.0), family["b"])
    there = merge(family, method="slerp", base_model="a", t=t)
    assert close(there, merge(family, method="slerp", base_model="b", t=1 - t))
    weights = {"a": 1 - t, "b": t}
    assert close(there, merge(family, method="nuslerp", weight=weights))


SYMMETRIC = sorted(set(RECIPES) - {"slerp", "passthrough"})


@pytest.mark.parametrize("method", SYMMETRIC)
@LAW
@given(seed=st.integers(0, 99), order=st.permutations("abcd"))
def test_the_order_of_networks_does_not_matter(method: str, seed: int, order: list[str]) -> None:
    family, options = family_for(method, seed, "abcd")
    if "density" in find(method).table.options:
        options |= {"density": 0.5}
    other = {name: family[name] for name in order if name in family}
    assert close(merge(family, method=method, **options), merge(other, method=method, **options))


@pytest.mark.parametrize("method", sorted(SUMMING | {"ties", "della"}))
def test_a_weight_of_0_leaves_a_network_out(method: str) -> None:
    family, options = family_for(method, 1)
    with_it = merge(family, method=method, weight={"b": 1.0, "c": 0.0}, **options)
    family["c"] = {n: torch.full_like(t, torch.inf) for n, t in family["c"].items()}
    assert same(with_it, merge(family, method=method, weight={"b": 1.0, "c": 0.0}, **options))
    del family["c"]
    assert close(with_it, merge(family, method=method, **options))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("method", RECIPES)
def test_the_dtype_is_kept_and_rounded_to_once(method: str, dtype: torch.dtype) -> None:
    family, options = family_for(method, 2)
    low = {name: {n: t.to(dtype) for n, t in state.items()} for name, state in family.items()}
    high = {name: {n: t.double() for n, t in state.items()} for name, state in low.items()}
    merged, exact = merge(low, method=method, **options), merge(high, method=method, **options)
    assert all(merged[name].dtype == dtype for name in merged)
    assert same(merged, {name: tensor.to(dtype) for name, tensor in exact.items()})


@pytest.mark.parametrize("method", RECIPES)
def test_networks_are_left_as_they_are(method: str) -> None:
    family, options = family_for(method, 3)
    before = {name: {n: t.clone() for n, t in state.items()} for name, state in family.items()}
    for tensor in merge(family, method=method, **options).values():
        tensor.fill_(7.0)
    assert all(same(family[name], before[name]) for name in family)


class TestChance:
    OPTIONS: ClassVar[dict[str, Any]] = {
        "method": "dare_linear", "base_model": "a", "density": 0.5,
    }  # fmt: skip

    def test_the_same_seed_gives_the_same_bytes_in_any_order(self) -> None:
        family, _ = family_for("ties", 4)
        merged = merge(family, **self.OPTIONS)
        turned = {n: dict(reversed(list(family[n].items()))) for n in family}
        assert same(merged, {n: merge(turned, **self.OPTIONS)[n] for n in merged})
        alone = {n: {"fc.weight": state["fc.weight"]} for n, state in family.items()}
        assert torch.equal(merge(alone, **self.OPTIONS)["fc.weight"], merged["fc.weight"])

    def test_seeds_networks_and_tensors_have_masks_of_their_own(self) -> None:
        ones = {n: torch.ones(100) for n in ("v", "w")}
        family = {"a": {n: torch.zeros(100) for n in ones}, "b": ones, "c": ones}
        masks = [
            merge(family, **self.OPTIONS, seed=seed, weight={"b": b, "c": 1 - b})[tensor] != 0
            for seed in (0, 1) for b in (0, 1) for tensor in ("v", "w")
        ]  # fmt: skip
        assert all(20 < int(mask.sum()) < 80 for mask in masks)
        assert len({tuple(mask.tolist()) for mask in masks}) == len(masks)

    def test_global_random_numbers_are_not_touched(self) -> None:
        family, _ = family_for("ties", 4)
        before = torch.get_rng_state()
        merge(family, **self.OPTIONS)
        assert torch.equal(torch.get_rng_state(), before)
