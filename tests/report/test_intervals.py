"""Means and intervals, against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from mergekit_perm.report.intervals import mean, mean_difference, t_quantile


@pytest.mark.parametrize("freedom", [*range(1, 40), 99, 100, 1001])
def test_quantiles_of_students_distribution(freedom: int) -> None:
    assert t_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-10)


@pytest.mark.parametrize("count", [2, 3, 10])
def test_the_interval_of_a_mean(count: int) -> None:
    values = np.random.default_rng(count).standard_normal(count)
    found = mean(values.tolist())
    low, high = stats.t.interval(0.95, count - 1, values.mean(), stats.sem(values))
    assert found.n == count
    assert found.half is not None
    assert (found.value - found.half, found.value + found.half) == pytest.approx((low, high))


def test_one_value_has_no_interval_and_an_infinite_one_neither() -> None:
    assert (mean([2.0]).value, mean([2.0]).half) == (2.0, None)
    assert (mean([2.0, math.inf]).value, mean([2.0, math.inf]).half) == (math.inf, None)


def test_pairs_are_compared_one_by_one() -> None:
    generator = np.random.default_rng(0)
    first = generator.standard_normal(8)
    second = first + 0.5 + 0.01 * generator.standard_normal(8)
    paired = mean_difference(second.tolist(), first.tolist(), paired=True)
    apart = mean_difference(second.tolist(), first.tolist(), paired=False)
    assert paired is not None and paired.half is not None
    assert apart is not None and apart.half is not None
    interval = stats.ttest_rel(second, first).confidence_interval()
    assert (paired.value - paired.half, paired.value + paired.half) == pytest.approx(
        (interval.low, interval.high)
    )
    assert apart.value == pytest.approx(paired.value)
    assert apart.half > 10 * paired.half


def test_welchs_interval_is_no_narrower_than_scipys() -> None:
    generator = np.random.default_rng(1)
    for count in (2, 5, 12):
        first, second = generator.standard_normal(7), 3 * generator.standard_normal(count)
        found = mean_difference(second.tolist(), first.tolist(), paired=False)
        interval = stats.ttest_ind(second, first, equal_var=False).confidence_interval()
        assert found is not None and found.half is not None
        half = (interval.high - interval.low) / 2
        assert half <= found.half <= 3 * half
        assert found.value == pytest.approx(second.mean() - first.mean())


def test_differences_without_an_interval() -> None:
    assert mean_difference([1.0, math.nan], [1.0], paired=False) is None
    one = mean_difference([1.0], [0.5, 0.25], paired=False)
    assert one is not None
    assert (one.value, one.half) == (0.625, None)
    same = mean_difference([1.0, 1.0], [0.5, 0.5], paired=False)
    assert same is not None
    assert (same.value, same.half) == (0.5, 0.0)
