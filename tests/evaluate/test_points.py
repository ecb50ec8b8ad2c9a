from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergekit_perm.errors import EvaluationError
from mergekit_perm.evaluate import barycentre, edge, simplex_grid
from mergekit_perm.evaluate.points import refining


def test_an_edge_goes_from_the_first_network_to_the_second() -> None:
    assert edge(5) == ((1.0, 0.0), (0.75, 0.25), (0.5, 0.5), (0.25, 0.75), (0.0, 1.0))
    assert edge(2) == ((1.0, 0.0), (0.0, 1.0))


@given(st.integers(2, 200))
def test_an_edge_is_even_symmetric_and_rounded_once(points: int) -> None:
    found = edge(points)

    assert len(found) == points
    assert [b for _, b in found] == [float(Fraction(i, points - 1)) for i in range(points)]
    assert found == tuple((a, b) for b, a in reversed(found))


@given(st.integers(2, 5), st.integers(1, 8))
def test_a_grid_has_every_multiple_once_and_the_barycentre(n: int, grid: int) -> None:
    found = simplex_grid(n, grid)

    extra = 0 if grid % n == 0 else 1
    assert len(found) == len(set(found)) == math.comb(grid + n - 1, n - 1) + extra
    assert all(math.isclose(sum(w), 1) and min(w) >= 0 for w in found)
    assert all(
        round(x * grid) == pytest.approx(x * grid) for w in found[: len(found) - extra] for x in w
    )
    assert barycentre(n) in found


@given(st.integers(2, 5), st.integers(1, 8))
def test_a_grid_contains_vertices_and_edges(n: int, grid: int) -> None:
    found = set(simplex_grid(n, grid))

    for i in range(n):
        for j in range(n):
            if i != j:
                for a, b in edge(grid + 1):
                    assert tuple({i: a, j: b}.get(k, 0.0) for k in range(n)) in found


def test_the_usual_grids_have_the_published_sizes() -> None:
    assert len(simplex_grid(3, 6)) == 28
    assert len(simplex_grid(3, 8)) == 45 + 1
    assert simplex_grid(3, 1) == (
        (1.0, 0.0, 0.0),
        (0.0, 1.0, 0.0),
        (0.0, 0.0, 1.0),
        (1 / 3, 1 / 3, 1 / 3),
    )


def test_grids_meet_in_the_same_floats() -> None:
    assert set(edge(7)) <= set(edge(25))
    assert set(simplex_grid(2, 6)) <= set(edge(25))


def test_what_is_refused() -> None:
    with pytest.raises(EvaluationError) as error:
        edge(1)
    assert str(error.value) == "a path needs at least its 2 endpoints, not 1 points"
    with pytest.raises(EvaluationError) as error:
        simplex_grid(1, 6)
    assert str(error.value) == "a simplex needs at least 2 networks, not 1"
    with pytest.raises(EvaluationError) as error:
        simplex_grid(3, 0)
    assert str(error.value) == "the grid of a simplex has at least 1 step per edge, not 0"


def test_a_path_is_refined_ends_middle_quarters() -> None:
    points = edge(9)
    order = refining(points)
    assert set(order[:2]) == {0, 8}
    assert order[2] == 4
    assert set(order[3:5]) == {2, 6}
    assert set(order[5:]) == {1, 3, 5, 7}


@given(st.integers(2, 4), st.integers(1, 6))
def test_every_point_has_its_turn_networks_first(n: int, grid: int) -> None:
    points = simplex_grid(n, grid)
    order = refining(points)
    assert sorted(order) == list(range(len(points)))
    assert {points[place] for place in order[:n]} == {p for p in points if max(p) == 1.0}


def test_what_is_left_inside_is_refined_without_the_ends() -> None:
    assert refining(edge(5)[1:-1])[0] == 1
    assert refining(edge(9)[1:-1])[0] == 3
    assert refining([]) == []
