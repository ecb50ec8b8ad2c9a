"""Some coordinates of an axis, or its coordinates in another order."""

from __future__ import annotations

import math

import numpy as np

from mergekit_perm.derive.facts import Facts
from mergekit_perm.derive.labels import Labels, Map, tidied, unlabelled
from mergekit_perm.derive.primitives.fixing import broadcast
from mergekit_perm.derive.primitives.regrouping import flattened
from mergekit_perm.permutation import Indices


def select(
    facts: Facts, labels: Labels, axis: int, index: Indices, *, drop: bool = False
) -> Labels:
    """Return the labels of the coordinates `index` of `axis`, in that order.

    Args:
        facts: the chosen elements form a part; chosen twice, they get copies.
        labels: of the whole tensor.
        axis: which axis.
        index: coordinates, shape (count,).
        drop: leave the axis out, which then has one coordinate.
    """
    axis %= len(labels.axes)
    length = labels.shape[axis]
    if len(index) == 0:
        return unlabelled([0 if place == axis else n for place, n in enumerate(labels.shape)])
    if len(index) == length and np.array_equal(index, np.arange(length)):
        chosen = labels
    elif length == 1:
        shape = [len(index) if place == axis else n for place, n in enumerate(labels.shape)]
        chosen = broadcast(labels, shape)
    else:
        labels, digit, index = _selected_digit(facts, labels, axis, index)
        chosen = _taken(facts, labels, axis, digit, index)
    if not drop:
        return tidied(chosen)
    axes = (*chosen.axes[:axis], *chosen.axes[axis + 1 :])
    return tidied(Labels(axes, chosen.maps, chosen.constant, chosen.places))


def _selected_digit(
    facts: Facts, labels: Labels, axis: int, index: Indices
) -> tuple[Labels, int, Indices]:
    """Return labels, a digit of `axis` and coordinates of it that choose what `index` chooses."""
    sizes, own = labels.axes[axis], labels.digits(axis)
    if len(own) > 1:
        inner = math.prod(sizes[1:])
        outer_index = index[::inner] // inner
        if np.array_equal((outer_index[:, None] * inner + np.arange(inner)).reshape(-1), index):
            return labels, own.start, outer_index
        outer = math.prod(sizes[:-1])
        last = index[: len(index) // outer]
        steps = np.arange(outer)[:, None] * sizes[-1]
        if np.array_equal((steps + last).reshape(-1), index) and (last < sizes[-1]).all():
            return labels, own.stop - 1, last
        labels = flattened(facts, labels, axis)
    return labels, own.start, index


def _taken(facts: Facts, labels: Labels, axis: int, digit: int, index: Indices) -> Labels:
    size, count = labels.sizes[digit], len(index)
    partial, repeated = len(set(index.tolist())) < size, len(set(index.tolist())) < count
    maps = []
    for digits, elements in labels.maps:
        if digit in digits:
            elements = np.take(elements, index, axis=digits.index(digit))
            if partial:
                facts.part(np.unique(elements))
            if repeated:
                elements = facts.copies(elements)
                facts.alike.append(elements.reshape(-1))
        maps.append(Map(digits, elements))
    place = digit - labels.digits(axis).start
    row = list(labels.axes[axis])
    row[place] = count
    axes = (*labels.axes[:axis], tuple(row), *labels.axes[axis + 1 :])
    result = Labels(axes, tuple(maps), labels.constant, labels.places)
    return result if count > 1 else _without_digit(result, axis, digit)


def _without_digit(labels: Labels, axis: int, digit: int) -> Labels:
    """Return `labels` without a digit that has at most one coordinate."""

    def number(d: int) -> int:
        return d if d < digit else d - 1

    maps = []
    for digits, elements in labels.maps:
        if digit in digits and elements.size:
            elements = np.take(elements, 0, axis=digits.index(digit))
        left = tuple(number(d) for d in digits if d != digit)
        if left and elements.size:
            maps.append(Map(left, elements))
    place = digit - labels.digits(axis).start
    row = (*labels.axes[axis][:place], *labels.axes[axis][place + 1 :])
    axes = (*labels.axes[:axis], row, *labels.axes[axis + 1 :])
    constant = frozenset(number(d) for d in labels.constant if d != digit)
    return Labels(axes, tuple(maps), constant, labels.places)
