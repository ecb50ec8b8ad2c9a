"""Looking for the highest point of a simplex."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from mergekit_perm.data import Data, Split
from mergekit_perm.errors import EvaluationError
from mergekit_perm.evaluate import (
    Metrics,
    Team,
    barrier,
    search_simplex,
    simplex_grid,
    simplex_samples,
)
from mergekit_perm.evaluate.search import next_point
from tests.evaluate.engines import OneByOne

torch.set_num_threads(1)


class Hill(OneByOne):
    """Stands for an engine: the loss is a hill over the simplex, and 0 at its corners."""

    def __init__(self, top: tuple[float, ...]) -> None:
        self.top = top
        self.measured: list[tuple[float, ...]] = []

    def measure(self, weights: tuple[float, ...]) -> dict[str, Metrics]:
        self.measured.append(weights)
        away = sum((w - t) ** 2 for w, t in zip(weights, self.top, strict=True))
        loss = 0.0 if max(weights) == 1.0 else math.exp(-20 * away)
        return {"train": Metrics(loss, 0.0, 1), "test": Metrics(0.0, 0.0, 1)}


@pytest.mark.parametrize("top", [(0.21, 0.34, 0.45), (0.07, 0.46, 0.47), (0.5, 0.5, 0.0)])
def test_the_top_of_a_hill_is_found(top: tuple[float, ...]) -> None:
    hill: Any = Hill(top)
    measured = {point: hill.measure(point) for point in simplex_grid(3, 4)}
    before = max(m["train"].loss for m in measured.values())
    found = search_simplex(hill, measured, grid=4, count=60)
    assert len(found) <= 60
    highest = max(m["train"].loss for m in {**measured, **found}.values())
    assert highest >= before
    assert highest > 0.995
    assert len(set(hill.measured)) == len(hill.measured)
    for point in found:
        assert min(point) >= 0
        assert sum(point) == pytest.approx(1)


def test_a_search_that_was_cut_off_goes_on_the_same_way() -> None:
    whole: Any = Hill((0.21, 0.34, 0.45))
    measured = {point: whole.measure(point) for point in simplex_grid(3, 4)}
    kept: dict[Any, Any] = {}
    found = search_simplex(whole, measured, grid=4, count=20, keep=kept.__setitem__)
    assert kept == found
    rest: Any = Hill((0.21, 0.34, 0.45))
    known = dict(list(found.items())[:8])
    assert search_simplex(rest, measured, grid=4, count=20, known=known) == found
    assert len(rest.measured) == len(found) - 8


@pytest.mark.parametrize("count", [7, 60])
def test_several_devices_find_what_one_does(count: int) -> None:
    one: Any = Hill((0.21, 0.34, 0.45))
    measured = {point: one.measure(point) for point in simplex_grid(3, 4)}
    found = search_simplex(one, measured, grid=4, count=count)
    several: list[Any] = [Hill(one.top) for _ in range(3)]
    kept: dict[Any, Any] = {}
    options: dict[str, Any] = {"grid": 4, "count": count}
    team = Team(several)
    assert search_simplex(team, measured, keep=kept.__setitem__, **options) == found
    points = [point for hill in several for point in hill.measured]
    assert len(points) == len(set(points)) == len(kept)
    assert kept.items() >= found.items()
    # A search that was cut off takes what was measured ahead.
    rest: Any = Hill(one.top)
    assert search_simplex(rest, measured, known=kept, **options) == found
    assert rest.measured == []


def test_it_ends_where_steps_are_finest_or_the_barrier_is_infinite() -> None:
    hill: Any = Hill((0.5, 0.5))
    measured = {point: hill.measure(point) for point in simplex_grid(2, 2)}
    found = search_simplex(hill, measured, grid=2, count=1000)
    assert len(found) < 20
    assert next_point(dict.fromkeys([*measured, *found], 0.0) | {(0.5, 0.5): 1.0}, 2) is None
    endless = {**measured, (0.5, 0.5): {"train": Metrics(math.nan, 0.0, 1)}}
    assert search_simplex(hill, endless, grid=2, count=10) == {}


def test_samples_are_points_of_the_simplex_by_their_seed() -> None:
    points = simplex_samples(4, 50, seed=1)
    assert len(set(points)) == 50
    assert all(min(p) >= 0 and sum(p) == pytest.approx(1) for p in points)
    assert points == simplex_samples(4, 50, seed=1) != simplex_samples(4, 50, seed=2)
    assert simplex_samples(3, 0) == ()


class Product(nn.Module):
    """Logits (u v x, 0)."""

    def __init__(self, u: float, v: float) -> None:
        super().__init__()
        self.u, self.v = (nn.Parameter(torch.tensor(t, dtype=torch.float64)) for t in (u, v))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logit = self.u * self.v * x
        return torch.stack([logit, torch.zeros_like(logit)], dim=1)


def test_the_barrier_of_a_simplex_is_at_least_that_of_its_grid() -> None:
    inputs = torch.tensor([1.0, 2.0], dtype=torch.float64)
    split = Split("train", TensorDataset(inputs, torch.zeros(2, dtype=torch.int64)))
    data = Data("toy", {"train": split}, 2, (), "")
    states = {
        name: Product(u, v).state_dict()
        for name, (u, v) in {"a": (3.0, 1.0), "b": (-1.0, -3.0), "c": (0.5, 2.0)}.items()
    }
    module = Product(0.0, 0.0)
    options: dict[str, Any] = {"points": 2, "simplex": 3, "device": "cpu"}
    plain = barrier(states, module, data, **options)
    wide = barrier(states, module, data, samples=5, search=30, **options)
    for one, other in zip(plain, wide, strict=True):
        assert (one.kind, one.metric) == (other.kind, other.metric)
        assert other.barrier >= one.barrier
        assert other.kind == "simplex" or other.points == one.points
    (grid,) = (b for b in plain if (b.kind, b.metric) == ("simplex", "loss"))
    (found,) = (b for b in wide if (b.kind, b.metric) == ("simplex", "loss"))
    assert found.barrier > grid.barrier + 1e-4
    assert len(found.points) <= len(grid.points) + 35


def test_points_of_a_simplex_need_one() -> None:
    states = {name: Product(1.0, 1.0).state_dict() for name in "ab"}
    split = Split("train", TensorDataset(torch.ones(2), torch.zeros(2, dtype=torch.int64)))
    data = Data("toy", {"train": split}, 2, (), "")
    with pytest.raises(EvaluationError, match="give `simplex` too"):
        barrier(states, Product(0.0, 0.0), data, search=3)
    with pytest.raises(EvaluationError, match="at least 0 random points, not -1"):
        barrier(states, Product(0.0, 0.0), data, simplex=2, samples=-1)
