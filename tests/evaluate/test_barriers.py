from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergekit_perm.errors import EvaluationError
from mergekit_perm.evaluate import Barrier, Point, edge, excess, from_points, simplex_grid

values = st.floats(-1e6, 1e6)


def along(value: Any, points: int = 25) -> Barrier:
    return from_points(
        [Point(w, value(w[1])) for w in edge(points)],
        kind="pair",
        networks=("a", "b"),
        alignment="naive",
        calibration="none",
        split="test",
        metric="loss",
        spoke=True,
    )


def test_a_quadratic_bump_has_its_closed_form() -> None:
    found = along(lambda a: 1 + 2 * a + 12 * a * (1 - a))

    assert found.barrier == pytest.approx(3.0)
    assert found.argmax == (0.5, 0.5)
    assert found.barycentre == pytest.approx(3.0)
    assert found.excesses == pytest.approx([12 * a * (1 - a) for _, a in edge(25)])


def test_a_valley_has_barrier_zero_at_an_endpoint_and_negative_excess() -> None:
    found = along(lambda a: 1 - 4 * a * (1 - a))

    assert (found.barrier, found.argmax) == (0.0, (1.0, 0.0))
    assert found.barycentre == -1.0
    assert min(found.excesses) == -1.0


def test_the_first_of_equal_points_is_named() -> None:
    assert along(lambda a: float(0 < a < 1), points=5).argmax == (0.75, 0.25)


@given(values, st.integers(2, 40))
def test_a_flat_path_has_barrier_exactly_zero(value: float, points: int) -> None:
    found = along(lambda _: value, points)

    assert found.barrier == 0.0
    assert set(found.excesses) == {0.0}


@given(values, values, st.integers(2, 40))
def test_endpoints_have_excess_exactly_zero(first: float, last: float, points: int) -> None:
    found = along(lambda a: first if a == 0 else last, points)

    assert found.excesses[0] == found.excesses[-1] == 0.0
    assert found.barrier >= 0.0


def test_a_network_far_above_does_not_hide_behind_the_other() -> None:
    assert excess((0.75, 0.25), 3.0, (1.0, 5.0)) == 1.0
    assert excess((0.25, 0.75), 3.0, (1.0, 5.0)) == -1.0


@pytest.mark.parametrize("value", [math.inf, math.nan, -math.inf])
def test_a_value_that_is_not_finite_makes_the_barrier_infinite(value: float) -> None:
    inside = along(lambda a: value if a == 0.25 else 1.0, points=5)
    outside = along(lambda a: value if a == 1.0 else 1.0, points=5)

    assert (inside.barrier, inside.argmax) == (math.inf, (0.75, 0.25))
    assert (outside.barrier, outside.argmax) == (math.inf, (1.0, 0.0))


def test_a_simplex_has_its_barycentre_and_names_what_it_is() -> None:
    found = from_points(
        [Point(w, 27 * w[0] * w[1] * w[2] + w[0]) for w in simplex_grid(3, 6)],
        kind="simplex",
        networks=["a", "b", "c"],
        alignment="aligned",
        calibration="batch_norm",
        split="train",
        metric="error",
    )

    assert found.barrier == pytest.approx(1.0)
    assert found.argmax == (1 / 3, 1 / 3, 1 / 3)
    assert found.barycentre == found.barrier
    assert (found.kind, found.networks, found.spoke) == ("simplex", ("a", "b", "c"), None)
    assert (found.alignment, found.calibration, found.split, found.metric) == (
        "aligned",
        "batch_norm",
        "train",
        "error",
    )
    assert len(found.points) == 28


def test_an_even_path_has_no_midpoint() -> None:
    assert along(lambda a: a, points=4).barycentre is None


def test_an_endpoint_must_be_among_the_points() -> None:
    with pytest.raises(EvaluationError) as error:
        from_points(
            [Point((1.0, 0.0), 1.0), Point((0.5, 0.5), 1.0)],
            kind="pair",
            networks=("a", "b"),
            alignment="naive",
            calibration="none",
            split="test",
            metric="loss",
        )
    assert str(error.value) == (
        "the points of a barrier must include every endpoint; (0.0, 1.0) is missing"
    )
