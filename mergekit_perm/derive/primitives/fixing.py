"""Coordinates that stay where they are, axes of length 1, and repeated axes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mergekit_perm.derive.facts import Facts
from mergekit_perm.derive.labels import Labels, Map, Shape, unlabelled


def plain(labels: Labels, axis: int) -> bool:
    """Tell whether the digits of `axis` can be regrouped freely: all fixed, or all constant."""
    digits = set(labels.digits(axis))
    return not digits & labels.mapped and (
        digits <= labels.constant or not digits & labels.constant
    )


def replaced(labels: Labels, axis: int, digits: Shape) -> Labels:
    """Return `labels` with other digits for `axis`, all fixed or all constant."""
    own = labels.digits(axis)
    shift = len(digits) - len(own)
    moved = [
        Map(tuple(d if d < own.start else d + shift for d in m.digits), m.elements)
        for m in labels.maps
    ]
    constant = {d if d < own.start else d + shift for d in labels.constant - set(own)}
    if own and set(own) <= labels.constant:
        constant |= set(range(own.start, own.start + len(digits)))
    axes = (*labels.axes[:axis], digits, *labels.axes[axis + 1 :])
    return Labels(axes, tuple(moved), frozenset(constant), labels.places)


def pinned(facts: Facts, labels: Labels, axes: Iterable[int], reason: str) -> Labels:
    """Return `labels` whose coordinates along `axes` stay where they are, with one digit each."""
    wanted = sorted({axis % len(labels.axes) for axis in axes})
    facts.pin_digits(labels, [d for axis in wanted for d in labels.digits(axis)], reason)
    for axis in wanted:
        own = list(labels.digits(axis))
        left = [d for d in range(len(labels.sizes)) if d not in own]
        maps = [facts.blocks(m, left) for m in labels.maps if set(m.digits) & set(left)]
        plain = Labels(labels.axes, tuple(maps), labels.constant - set(own), labels.places)
        labels = replaced(plain, axis, (plain.shape[axis],) if own else ())
    return labels


def frozen(facts: Facts, labels: Labels, reason: str) -> None:
    """State that nothing in `labels` may move."""
    for map_ in labels.maps:
        facts.freeze(map_.elements, reason)


def resized(labels: Labels, shape: Sequence[int]) -> Labels:
    """Return `labels` of a tensor of another `shape` along axes that carry no map."""
    for axis, length in enumerate(shape):
        if labels.shape[axis] != length:
            labels = replaced(labels, axis, (length,) if length > 1 else ())
    return labels


def opened(labels: Labels, axis: int) -> Labels:
    """Return `labels` with a new axis of length 1 in front of `axis`."""
    axes = (*labels.axes[:axis], (), *labels.axes[axis:])
    return Labels(axes, labels.maps, labels.constant, labels.places)


def broadcast(labels: Labels, shape: Sequence[int]) -> Labels:
    """Return the labels of a view that repeats axes of length 1, and new leading axes."""
    for _ in range(len(shape) - len(labels.axes)):
        labels = opened(labels, 0)
    for axis, length in enumerate(shape):
        if labels.shape[axis] == 1 and length > 1:
            labels = replaced(labels, axis, (length,))
            labels = Labels(
                labels.axes,
                labels.maps,
                labels.constant | set(labels.digits(axis)),
                labels.places,
            )
    return labels


def constant(shape: Sequence[int]) -> Labels:
    """Return the labels of a tensor that has one value everywhere."""
    return unlabelled(shape, constant=True)
