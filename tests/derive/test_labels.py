"""Laws of labels: digits split and join, axes change places, and no element is lost."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergekit_perm.derive.facts import Facts
from mergekit_perm.derive.labels import (
    Labels,
    Map,
    Shape,
    common_digits,
    expanded,
    parts_of,
    split,
    tidied,
    transposed,
    unlabelled,
)
from tests.strategies import LAW


@st.composite
def labelled(draw: st.DrawFn, facts: Facts | None = None) -> Labels:
    """Labels of up to three axes, each of up to three digits, with maps of one or two digits."""
    facts = facts or Facts()
    axes = tuple(
        tuple(draw(st.lists(st.integers(2, 3), max_size=3))) for _ in range(draw(st.integers(1, 3)))
    )
    sizes = [size for axis in axes for size in axis]
    left = draw(st.permutations(range(len(sizes))))
    maps = []
    constant: set[int] = set()
    while left:
        kind = draw(st.sampled_from(["map", "joint", "constant", "fixed"]))
        taken, left = (left[:2], left[2:]) if kind == "joint" else (left[:1], left[1:])
        if kind == "constant":
            constant |= set(taken)
        elif kind != "fixed":
            digits = tuple(sorted(taken))
            maps.append(Map(digits, facts.fresh([sizes[digit] for digit in digits])))
    return Labels(axes, tuple(maps), frozenset(constant))


def described(labels: Labels) -> object:
    """What labels say, in a form that compares."""
    maps = sorted((map_.digits, map_.elements.tolist()) for map_ in labels.maps)
    return labels.axes, maps, labels.constant


def factorings(length: int) -> list[Shape]:
    """All ways to write `length` as a product of numbers larger than 1, in order."""
    if length == 1:
        return [()]
    divisors = [d for d in range(2, length + 1) if length % d == 0]
    return [(d, *rest) for d in divisors for rest in factorings(length // d)]


@LAW
@given(labelled(), st.data())
def test_axes_change_places_and_back(labels: Labels, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(labels.axes))))
    there = transposed(labels, order)
    assert there.shape == tuple(labels.shape[axis] for axis in order)
    assert described(transposed(there, np.argsort(order).tolist())) == described(labels)


@LAW
@given(labelled(), st.data())
def test_digits_split_and_join_again(labels: Labels, data: st.DataObject) -> None:
    whole = tidied(labels)
    parts = [data.draw(st.sampled_from(factorings(size))) for size in whole.sizes]
    pieces = split(whole, parts)
    assert pieces.shape == whole.shape and pieces.sizes == tuple(itertools.chain(*parts))
    assert described(tidied(pieces)) == described(whole)
    assert described(tidied(whole)) == described(whole)


@LAW
@given(labelled())
def test_tidying_keeps_every_element(labels: Labels) -> None:
    before, after = (
        sorted(element for map_ in each.maps for element in map_.elements.reshape(-1).tolist())
        for each in (labels, tidied(labels))
    )
    assert before == after and tidied(labels).shape == labels.shape


@pytest.mark.parametrize("length", [1, 2, 8, 12, 36])
def test_common_digits_are_the_coarsest_that_refine_both(length: int) -> None:
    def refines(fine: Shape, coarse: Shape) -> bool:
        ends, wanted = (
            set(itertools.accumulate(sizes[::-1], lambda a, b: a * b)) for sizes in (fine, coarse)
        )
        return ends >= wanted

    every = factorings(length)
    for one, other in itertools.product(every, every):
        fitting = [f for f in every if refines(f, one) and refines(f, other)]
        found = common_digits([one, other])
        assert found == (min(fitting, key=len) if fitting else None)


@LAW
@given(st.sampled_from([8, 12, 24, 36]), st.data())
def test_parts_follow_one_another(length: int, data: st.DataObject) -> None:
    sizes = data.draw(st.sampled_from(factorings(length)))
    parts = [data.draw(st.sampled_from(factorings(size))) for size in sizes]
    digits = tuple(itertools.chain(*parts))
    assert parts_of(sizes, digits) == parts
    assert all(math.prod(part) == size for part, size in zip(parts, sizes, strict=True))


def test_a_map_is_expanded_over_other_digits() -> None:
    map_ = Map((1, 3), np.arange(6).reshape(2, 3))
    assert expanded(map_, (0, 1, 2, 3)).shape == (1, 2, 1, 3)
    assert expanded(map_, (1, 3)).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_axes_of_length_one_have_no_digits() -> None:
    labels = unlabelled((2, 1, 3), constant=True)
    assert labels.axes == ((2,), (), (3,)) and labels.constant == {0, 1}
    assert labels.shape == (2, 1, 3) and list(labels.digits(2)) == [1]
    assert unlabelled((0,)).shape == (0,)
