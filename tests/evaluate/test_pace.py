"""Which way points are measured: all are tried, and the quickest is kept."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mergekit_perm.evaluate.pace import ALONE, GRAPHED, TOGETHER, Pace

WAYS = (ALONE, GRAPHED, TOGETHER)


@pytest.mark.parametrize(
    ("graphed", "together", "then", "words"),
    [
        (0.4, 0.1, TOGETHER, "8 in one pass (as CUDA graphs 2.5 times as fast, 8 in one pass 10"),
        (0.1, 0.4, GRAPHED, "as CUDA graphs (as CUDA graphs 10 times as fast, 8 in one pass 2.5"),
        (0.95, 2.0, ALONE, "one by one (as CUDA graphs 1.1 times as fast, 8 in one pass 0.5"),
    ],
)
def test_all_ways_are_tried_before_one_is_settled(
    graphed: float, together: float, then: object, words: str
) -> None:
    pace = Pace(WAYS)
    seconds = {ALONE: 1.0, GRAPHED: graphed, TOGETHER: together}
    tried, told = [], []
    for _ in range(6):
        way = pace.next()
        # What is run for the first time is slow.
        took = 100.0 if way not in tried else way.count * seconds[way]
        told.append(pace.took(way, way.count, took))
        tried.append(way)
    assert tried == [ALONE, ALONE, GRAPHED, GRAPHED, TOGETHER, TOGETHER]
    assert told[:5] == [None] * 5
    assert told[5] is not None and told[5].startswith(f"points are measured {words}")
    assert pace.next() == then
    assert pace.took(TOGETHER, 8, 0.1) is None  # said once


def test_fewer_points_than_a_way_takes_tell_nothing_of_it() -> None:
    pace = Pace((ALONE, TOGETHER), {ALONE: 1.0})
    for points in (8, 3, 8):
        pace.took(TOGETHER, points, 4.0)
    assert pace.seconds == {ALONE: 1.0, TOGETHER: 0.5}


def test_a_way_that_cannot_be_done_is_not_tried_again() -> None:
    pace = Pace(WAYS, {ALONE: 1.0})
    assert pace.next() == GRAPHED
    told = pace.never(GRAPHED, ValueError("it waits\nfor the device"))
    assert told == "points are not measured as CUDA graphs: ValueError, it waits"
    assert pace.next() == TOGETHER
    pace.never(TOGETHER, RuntimeError(""))
    assert pace.next() == ALONE


def test_only_small_networks_on_an_accelerator_have_several_ways() -> None:
    small, large = nn.Linear(64, 64), nn.Linear(4096, 4096)
    cuda = torch.device("cuda")
    assert Pace.of(small, cuda, "float32").ways == WAYS
    assert Pace.of(small, cuda, "bfloat16").ways == (ALONE, TOGETHER)
    assert Pace.of(large, cuda, "float32").ways == (ALONE,)
    assert Pace.of(small, torch.device("cpu"), "float32").ways == (ALONE,)
