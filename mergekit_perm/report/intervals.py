"""Means over repeats, and how far they can be trusted: Student's t-intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

LEVEL = 0.95
"""How often an interval holds the true mean."""


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean, and half the width of its 95 % interval.

    Attributes:
        value: the mean; infinite where one of the values is.
        half: None where there is no interval: of one value, or of some that are not finite.
        n: of how many values.
    """

    value: float
    half: float | None
    n: int


def mean(values: Sequence[float]) -> Mean:
    """Return the mean of at least one value, with its t-interval."""
    count = len(values)
    if not all(map(math.isfinite, values)):
        return Mean(sum(values), None, count)  # infinite, or no number
    value = math.fsum(values) / count
    if count < 2:
        return Mean(value, None, count)
    error = statistics.stdev(values) / math.sqrt(count)
    return Mean(value, t_quantile(count - 1) * error, count)


def mean_difference(
    values: Sequence[float], others: Sequence[float], *, paired: bool
) -> Mean | None:
    """Return how much higher the mean of `values` is than that of `others`.

    Args:
        values: at least one.
        others: at least one.
        paired: each of `values` belongs to one of `others`, the one at the same place; the interval
            is that of their differences. Otherwise it is Welch's, with degrees of freedom rounded
            down.

    Returns:
        None where a value is not finite.
    """
    if not all(map(math.isfinite, (*values, *others))):
        return None
    if paired:
        return mean([value - other for value, other in zip(values, others, strict=True)])
    difference = math.fsum(values) / len(values) - math.fsum(others) / len(others)
    count = min(len(values), len(others))
    if count < 2:
        return Mean(difference, None, count)
    shares = [statistics.variance(sample) / len(sample) for sample in (values, others)]
    whole = sum(shares)
    if not whole:
        return Mean(difference, 0.0, count)
    freedom = whole**2 / sum(
        share**2 / (len(sample) - 1) for share, sample in zip(shares, (values, others), strict=True)
    )
    return Mean(difference, t_quantile(max(1, math.floor(freedom))) * math.sqrt(whole), count)


@cache
def t_quantile(freedom: int) -> float:
    """Return what |t| of Student's distribution stays under in 95 % of cases.

    Args:
        freedom: degrees of freedom, at least 1.
    """
    low, high = 0.0, math.pi / 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < LEVEL else (low, middle)
    return math.sqrt(freedom) * math.tan(high)


def _within(angle: float, freedom: int) -> float:
    """Return the probability of |t| < sqrt(freedom) tan(angle).

    Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    odd = freedom % 2
    square = math.cos(angle) ** 2
    term = math.cos(angle) if odd else 1.0
    terms = []
    for k in range(1 + odd, freedom, 2):
        terms.append(term)
        term *= square * k / (k + 1)
    series = math.sin(angle) * math.fsum(terms)
    return (angle + series) * 2 / math.pi if odd else series
