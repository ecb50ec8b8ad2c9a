"""Axes cut into other digits, or made of one digit; views of the same coordinates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

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
)
from mergekit_perm.derive.primitives.fixing import plain, replaced
from mergekit_perm.permutation import Indices

# An axis with more coordinates than this is not taken apart; what it carries is fixed instead.
_MOST_ELEMENTS = 3_000_000


def refined(facts: Facts, labels: Labels, axis: int, digits: Shape) -> Labels:
    """Return `labels` with `axis` made of `digits`, whose product is its length."""
    if labels.axes[axis] == digits:
        return labels
    if plain(labels, axis):
        return replaced(labels, axis, digits)
    if common_digits([labels.axes[axis], digits]) != digits:
        labels = flattened(facts, labels, axis)
    parts: list[Shape] = [(size,) for size in labels.sizes]
    own = labels.digits(axis)
    parts[own.start : own.stop] = parts_of(labels.axes[axis], digits)
    return split(labels, parts)


def flattened(facts: Facts, labels: Labels, axis: int) -> Labels:
    """Return `labels` with a single digit for `axis`, whose elements the old ones determine."""
    own = list(labels.digits(axis))
    if len(own) <= 1:
        return labels
    length = math.prod(labels.axes[axis])
    touching = [m for m in labels.maps if set(m.digits) & set(own)]
    others = [m for m in labels.maps if not set(m.digits) & set(own)]
    if not touching:
        return replaced(labels, axis, (length,))
    union = sorted({digit for m in touching for digit in m.digits} | set(own))
    if math.prod(labels.sizes[digit] for digit in union) > _MOST_ELEMENTS:
        for m in touching:
            facts.freeze(m.elements, "too large to follow")
        touching = []
    whole = _whole(facts, labels, touching, union)
    first, gone = own[0], len(own) - 1
    number = {d: d if d < first else max(first, d - gone) for d in range(len(labels.sizes))}
    axes = (*labels.axes[:axis], (length,), *labels.axes[axis + 1 :])
    maps = [Map(tuple(number[d] for d in m.digits), m.elements) for m in others]
    if touching:
        digits = tuple(dict.fromkeys(number[digit] for digit in union))
        shape = [
            length if d == first else labels.sizes[u]
            for d, u in {number[u]: u for u in union}.items()
        ]
        maps.append(Map(digits, whole.reshape(shape)))
    constant = frozenset(number[d] for d in labels.constant if d not in own)
    return Labels(axes, tuple(maps), constant, labels.places)


def _whole(facts: Facts, labels: Labels, touching: Sequence[Map], union: Sequence[int]) -> Indices:
    """Return elements for all coordinates of the digits `union` jointly."""
    if not touching:
        return np.empty(0, dtype=np.int64)
    if len(touching) == 1 and list(touching[0].digits) == list(union):
        return touching[0].elements
    shape = [labels.sizes[digit] for digit in union]
    whole = facts.equal(shape) if set(union) & labels.constant else facts.fresh(shape)
    for map_ in touching:
        facts.project(whole, expanded(map_, union))
    for digit in set(union) - labels.mapped - labels.constant:
        positions = facts.positions(labels.sizes[digit], "positions beside it on one axis")
        facts.project(whole, expanded(Map((digit,), positions), union))
    return whole


def reshape(facts: Facts, labels: Labels, shape: Sequence[int]) -> Labels:
    """Return the labels of a row-major view of the same coordinates as `shape`."""
    if labels.shape == tuple(shape):
        return labels
    for old, new in reversed(_blocks(labels.shape, shape)):
        if common_digits([_sizes(labels, old), _lengths(shape, new)]) is None:
            labels = flattened(facts, _one_axis(labels, old), old[0])
    lengths = tuple(length for length in shape if length > 1)
    digits = common_digits([labels.sizes, lengths])
    assert digits is not None
    labels = split(labels, parts_of(labels.sizes, digits))
    axes: list[Shape] = []
    parts = iter(parts_of(lengths, digits))
    for length in shape:
        axes.append(next(parts) if length > 1 else ())
    return tidied(Labels(tuple(axes), labels.maps, labels.constant, labels.places))


def _sizes(labels: Labels, axes: Sequence[int]) -> Shape:
    return tuple(size for axis in axes for size in labels.axes[axis])


def _lengths(shape: Sequence[int], axes: Sequence[int]) -> Shape:
    return tuple(shape[axis] for axis in axes)


def _blocks(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Return the shortest runs of old and new axes that have equal products, in order.

    Axes of length 1 are left out.
    """
    blocks: list[tuple[list[int], list[int]]] = []
    rest = iter(axis for axis, length in enumerate(new) if length > 1)
    p = q = 1
    for axis, length in enumerate(old):
        if length == 1:
            continue
        if p == q:
            blocks.append(([], []))
        blocks[-1][0].append(axis)
        p *= length
        while q < p:
            blocks[-1][1].append(next(rest))
            q *= new[blocks[-1][1][-1]]
    return blocks


def _one_axis(labels: Labels, axes: Sequence[int]) -> Labels:
    """Return `labels` with neighbouring `axes` made one, which has the digits of all of them."""
    first, last = axes[0], axes[-1] + 1
    return replace(labels, axes=(*labels.axes[:first], _sizes(labels, axes), *labels.axes[last:]))
