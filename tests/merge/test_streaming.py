"""Tensor by tensor: what is read, when, and how much of it is there at a time."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator, KeysView, Sequence
from typing import Annotated, Any, get_type_hints

import pytest
import torch

from mergekit_perm import weighted
from mergekit_perm.errors import MergeError
from mergekit_perm.merge import AsStored, merge, merge_tensors, recipes
from tests.strategies import state_of

SHAPES = {"layers.0.weight": (3, 2), "layers.0.bias": (3,), "layers.1.weight": (2, 3)}


class Lazy:
    """A checkpoint of which only names are known until a tensor is asked for."""

    def __init__(self, seed: int, log: list[str]) -> None:
        self.seed, self.log = seed, log
        self.alive: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()

    def keys(self) -> KeysView[str]:
        return SHAPES.keys()

    def __getitem__(self, name: str) -> torch.Tensor:
        self.log.append(f"{self.seed}:{name}")
        tensor = state_of({name: SHAPES[name]}, self.seed)[name]
        self.alive.add(tensor)
        return tensor


def test_every_tensor_is_read_once_network_by_network() -> None:
    log: list[str] = []
    pairs = merge_tensors({"a": Lazy(0, log), "b": Lazy(1, log)}, method="ties", base_model="a")  # type: ignore[dict-item]
    assert isinstance(pairs, Iterator) and log == []
    name, tensor = next(pairs)
    assert (name, tensor.shape) == ("layers.0.weight", (3, 2))
    assert log == ["0:layers.0.weight", "1:layers.0.weight"]
    assert [name for name, _ in pairs] == list(SHAPES)[1:]
    assert log == [f"{seed}:{name}" for name in SHAPES for seed in (0, 1)]


def test_one_tensor_of_each_network_is_in_memory() -> None:
    states = {name: Lazy(seed, []) for seed, name in enumerate("abc")}
    for _ in merge_tensors(states, method="ties", base_model="a"):  # type: ignore[arg-type]
        gc.collect()
        assert all(len(state.alive) <= 1 for state in states.values())


def test_it_is_what_merge_returns() -> None:
    lazy = {name: Lazy(seed, []) for seed, name in enumerate("abc")}
    eager = {name: {n: state[n] for n in SHAPES} for name, state in lazy.items()}
    merged = merge(eager, method="dare_ties", base_model="b", density=0.5)
    streamed = dict(merge_tensors(lazy, method="dare_ties", base_model="b", density=0.5))  # type: ignore[arg-type]
    assert list(merged) == list(streamed) == list(SHAPES)
    assert all(torch.equal(merged[name], streamed[name]) for name in SHAPES)


def test_names_are_compared_before_and_shapes_while_reading() -> None:
    a = {"v": torch.zeros(1), "w": torch.zeros(2)}
    with pytest.raises(MergeError) as error:
        merge_tensors({"a": a, "b": {"v": torch.zeros(1)}}, method="linear")
    assert str(error.value) == "linear: 'b' has no tensor 'w', which 'a' has"
    with pytest.raises(MergeError) as error:
        merge_tensors({"a": {"v": torch.zeros(1)}, "b": a}, method="linear")
    assert str(error.value) == "linear: 'b' has a tensor 'w', which 'a' has not"
    pairs = merge_tensors({"a": a, "b": {**a, "w": torch.zeros(3)}}, method="linear")
    assert next(pairs)[0] == "v"
    with pytest.raises(MergeError, match="tensor 'w' is \\(3,\\) in 'b' and \\(2,\\) in 'a'"):
        next(pairs)


def test_complex_numbers_are_pairs() -> None:
    states = {n: {"w": torch.tensor([v])} for n, v in (("a", 1 + 2j), ("b", 3 - 2j), ("o", 0j))}
    merged = merge(states, method="ties", base_model="o")["w"]
    assert merged.dtype == torch.complex64 and merged.tolist() == [2 + 2j]


@pytest.mark.parametrize("method", ["dare_ties", "della"])
def test_a_tensor_of_two_names_is_merged_once(method: str) -> None:
    states = {}
    for seed, network in enumerate("abc"):
        tensor = torch.randn(20, generator=torch.Generator().manual_seed(seed))
        states[network] = {"z": tensor, "a": tensor.clone(), "own": tensor + 1}
    given: dict[str, Any] = {"method": method, "base_model": "a", "density": 0.5}
    apart, tied = merge(states, **given), merge(states, ties={"z": "a"}, **given)
    assert not torch.equal(apart["a"], apart["z"])
    assert tied["z"] is tied["a"] and torch.equal(tied["a"], apart["a"])
    assert torch.equal(tied["own"], apart["own"])
    given["weight"] = [{"filter": "z", "value": 0.5}, {"value": 1.0}]
    with pytest.raises(MergeError, match="'z'"):
        merge(states, ties={"z": "a"}, **given)


TASK_VECTORS = [
    *("linear", "task_arithmetic", "ties", "breadcrumbs", "breadcrumbs_ties"),
    *("dare_linear", "dare_ties", "della", "della_linear"),
]


@pytest.mark.parametrize("method", TASK_VECTORS)
@pytest.mark.parametrize("rescale", [True, False])
def test_part_by_part_is_as_in_one_piece(
    method: str, rescale: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = {n: state_of({"w": (7, 11)}, seed) for seed, n in enumerate("abcd")}
    states["c"]["w"] = states["c"]["w"].T.contiguous().T  # lies in memory in another order
    given: dict[str, Any] = {"method": method}
    if method != "linear":
        given |= {"base_model": "a", "weight": {"b": 1.0, "c": -0.5, "d": 0.7}}
    if method not in ("linear", "task_arithmetic"):
        given |= {"density": 0.6, "rescale": rescale}
    whole = merge(states, **given)["w"]
    monkeypatch.setattr(weighted, "_PART", 10)
    in_parts = merge(states, **given)["w"]
    assert torch.equal(whole, in_parts)
    assert not torch.equal(whole, states["a"]["w"])


@pytest.mark.parametrize("method", TASK_VECTORS)
def test_half_precision_is_rounded_once(method: str) -> None:
    states = {n: state_of({"w": (64, 33)}, seed) for seed, n in enumerate("abcd")}
    base: dict[str, Any] = {} if method == "linear" else {"base_model": "a"}
    halves = {n: {"w": state["w"].to(torch.bfloat16)} for n, state in states.items()}
    wide = {n: {"w": state["w"].to(torch.float64)} for n, state in halves.items()}
    expected = merge(wide, method=method, **base)["w"].to(torch.bfloat16)
    assert torch.equal(merge(halves, method=method, **base)["w"], expected)
    # Networks of several dtypes give that of the first, and its alone.
    mixed = {n: wide[n] if n == "c" else half for n, half in halves.items()}
    assert torch.equal(merge(mixed, method=method, **base)["w"], expected)


def test_a_recipe_has_float64_or_what_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def plain(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        seen.append(tensors[0].dtype)
        return tensors[0]

    def stored(tensors: Annotated[Sequence[torch.Tensor], AsStored()]) -> torch.Tensor:
        return plain(tensors)

    states = {n: {"w": torch.ones(2, dtype=torch.float16)} for n in "ab"}
    # Annotations that are text are looked up where a function is defined.
    for function in (plain, stored):
        function.__annotations__ = get_type_hints(
            function, {**globals(), **locals()}, include_extras=True
        )
        monkeypatch.setattr(recipes, "RECIPES", {**recipes.RECIPES, "own": function})
        seen.clear()
        merged = merge(states, method="own")["w"]
        assert merged.dtype == torch.float16
        assert seen[-1] == (torch.float64 if function is plain else torch.float16)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_trimming_keeps_so_many_and_the_largest(dtype: torch.dtype) -> None:
    states = {
        n: {"w": state_of({"w": (40, 25)}, seed)["w"].to(dtype)} for seed, n in enumerate("ab")
    }
    merged = merge(states, method="ties", base_model="a", density=0.3)["w"]
    sizes = (states["b"]["w"].double() - states["a"]["w"].double()).abs()
    kept = merged != states["a"]["w"]
    assert int(kept.sum()) == 300
    assert sizes[kept].min() >= sizes[~kept].max() * (1 - 2**-23)
    torch.testing.assert_close(merged[kept], states["b"]["w"][kept])


@pytest.mark.parametrize("method", TASK_VECTORS)
def test_parameters_that_are_trained_merge_as_plain_tensors(method: str) -> None:
    plain = {n: state_of({"w": (4, 5)}, seed) for seed, n in enumerate("abc")}
    trained = {n: {"w": torch.nn.Parameter(state["w"])} for n, state in plain.items()}
    base: dict[str, Any] = {} if method == "linear" else {"base_model": "a"}
    merged = merge(trained, method=method, **base)["w"]  # type: ignore[arg-type]
    assert torch.equal(merged, merge(plain, method=method, **base)["w"])
    assert not merged.requires_grad


@pytest.mark.parametrize("method", [*TASK_VECTORS, "slerp", "model_stock"])
def test_numbers_of_eight_bits(method: str) -> None:
    names = "ab" if method == "slerp" else "abc"
    states = {
        n: {"w": torch.full((3, 2), 1.0 + seed).to(torch.float8_e4m3fn)}
        for seed, n in enumerate(names)
    }
    given: dict[str, Any] = {} if method == "linear" else {"base_model": "a"}
    if method == "slerp":
        given["t"] = 1.0
    merged = merge(states, method=method, **given)["w"]
    assert merged.dtype == torch.float8_e4m3fn and bool(merged.float().isfinite().all())
    assert bool((merged.float() >= 1.0).all())
