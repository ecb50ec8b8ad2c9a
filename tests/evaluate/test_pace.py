"""Which way points are measured: all are tried, and the quickest is kept."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mergekit_perm.evaluate.pace import ALONE, COMPILED, GRAPHED, TOGETHER, Pace, Way

WAYS = (ALONE, GRAPHED, TOGETHER)


def ways(pace: Pace, points: int, seconds: dict[Way, float]) -> list[tuple[Way, str | None]]:
    """Return the way of every group until one comes twice more, and what was said of it."""
    found: list[tuple[Way, str | None]] = []
    for _ in range(2 * len(pace.ways)):
        tried = [other for other, _ in found]
        way = pace.next(points, ready=tried)
        # What is run for the first time is slow.
        took = way.count * seconds[way] + 100.0 * (way not in tried)
        found.append((way, pace.took(way, way.count, took, ready=way in tried)))
    return found


@pytest.mark.parametrize(
    ("graphed", "together", "then"),
    [(0.4, 0.1, TOGETHER), (0.1, 0.4, GRAPHED), (0.95, 2.0, ALONE)],
)
def test_all_ways_are_tried_before_one_is_settled(
    graphed: float, together: float, then: Way
) -> None:
    pace = Pace(WAYS)
    found = ways(pace, 25, {ALONE: 1.0, GRAPHED: graphed, TOGETHER: together})
    assert [way for way, _ in found] == [ALONE, ALONE, GRAPHED, GRAPHED, TOGETHER, TOGETHER]
    assert [told for way, told in found if way == ALONE] == [None, None]
    assert pace.next(25, ready=WAYS) == then
    assert pace.took(TOGETHER, 8, 0.1) is None  # said once


def test_it_is_told_how_much_faster_a_way_is_and_what_it_takes_to_make_it_ready() -> None:
    pace = Pace(WAYS, {ALONE: 1.0})
    assert pace.took(GRAPHED, 1, 41.0) is None
    told = pace.took(GRAPHED, 1, 0.4)
    assert told == (
        "points measured as CUDA graphs: 2.5 times as fast as one by one, made ready in 41 s"
    )
    assert pace.took(TOGETHER, 8, 0.9) is None
    told = pace.took(TOGETHER, 8, 0.8)
    assert told == "points measured 8 in one pass: 10 times as fast as one by one"


@pytest.mark.parametrize(("points", "tried"), [(25, False), (301, True)])
def test_passes_are_compiled_where_there_is_work_for_minutes(points: int, tried: bool) -> None:
    pace = Pace((ALONE, GRAPHED, COMPILED))
    found = ways(pace, points, {ALONE: 3.0, GRAPHED: 1.0, COMPILED: 0.5})
    ready = {way for way, _ in found}
    assert (COMPILED in ready) is tried
    assert pace.next(points, ready) == (COMPILED if tried else GRAPHED)


def test_passes_are_made_anew_where_points_pay_for_it() -> None:
    pace = Pace((ALONE, COMPILED), {ALONE: 3.0, COMPILED: 1.0}, {ALONE: 5.0, COMPILED: 41.0})
    assert pace.next(15) == ALONE  # 45 seconds, against 15 and another 40
    assert pace.next(15, ready=[COMPILED]) == COMPILED
    assert pace.next(25) == COMPILED


def test_fewer_points_than_a_way_takes_tell_nothing_of_it() -> None:
    pace = Pace((ALONE, TOGETHER), {ALONE: 1.0})
    for points in (8, 3, 8):
        pace.took(TOGETHER, points, 4.0)
    assert pace.seconds == {ALONE: 1.0, TOGETHER: 0.5}


def test_a_way_that_cannot_be_done_is_not_tried_again() -> None:
    pace = Pace(WAYS, {ALONE: 1.0})
    assert pace.next(25) == GRAPHED
    told = pace.never(GRAPHED, ValueError("it waits\nfor the device"))
    assert told == "points are not measured as CUDA graphs: ValueError, it waits"
    assert pace.next(25) == TOGETHER
    pace.never(TOGETHER, RuntimeError(""))
    assert pace.next(25) == ALONE


def test_the_ways_there_are_depend_on_device_and_size() -> None:
    small, large = nn.Linear(64, 64), nn.Linear(4096, 4096)
    cuda = torch.device("cuda")
    assert Pace.of(small, cuda).ways == (*WAYS, COMPILED)
    assert Pace.of(large, cuda).ways == (ALONE, COMPILED)
    assert Pace.of(small, torch.device("cpu")).ways == (ALONE,)


def test_ways_that_take_more_points_than_there_are_do_not_stand_in_the_way() -> None:
    pace = Pace(WAYS, {ALONE: 1.0, GRAPHED: 0.1})
    assert pace.next(1, ready=[GRAPHED]) == GRAPHED
    assert pace.next(8, ready=[GRAPHED]) == TOGETHER
    pace.seconds[TOGETHER] = 0.05  # 0.4 for eight points, or for one
    assert pace.next(1, ready=[GRAPHED]) == GRAPHED
    assert pace.next(8, ready=[GRAPHED]) == TOGETHER


def test_what_it_takes_to_make_passes_is_not_taken_for_their_pace() -> None:
    pace = Pace((ALONE, GRAPHED), {ALONE: 1.0})
    assert pace.next(1) == ALONE
    for _ in range(2):  # an engine each
        assert pace.next(2) == GRAPHED
        assert pace.took(GRAPHED, 1, 1.6, ready=False) is None
    told = pace.took(GRAPHED, 1, 0.1)
    assert (
        told == "points measured as CUDA graphs: 10 times as fast as one by one, made ready in 2 s"
    )


def test_what_is_compiled_is_tried_though_few_points_are_left() -> None:
    pace = Pace((ALONE, COMPILED), {ALONE: 13.0})
    assert pace.next(24) == COMPILED
    assert pace.took(COMPILED, 1, 60.0, ready=False) is None
    assert pace.next(22, ready=[COMPILED]) == COMPILED
    assert pace.next(22) == ALONE  # another engine would have to compile first
