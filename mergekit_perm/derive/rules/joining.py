"""Tensors one after another, and padding."""

from __future__ import annotations

import numpy as np

from mergekit_perm.derive.labels import Labels
from mergekit_perm.derive.primitives import (
    concatenate,
    constant,
    opened,
    pinned,
    resized,
    select,
)
from mergekit_perm.derive.rules.table import Call, rule


@rule("cat", "concat", "concatenate")
def cat(call: Call) -> Labels:
    """Along an axis that there is."""
    parts = [part for part in call["tensors"] if part.shape != (0,)]
    return concatenate(call.facts, parts, call["dim"])


@rule("stack")
def stack(call: Call) -> Labels:
    """Along a new axis."""
    axis = call["dim"] % len(call.shape)
    parts = [opened(part, axis) for part in call["tensors"]]
    return concatenate(call.facts, parts, axis, apart=True)


@rule("pad", "constant_pad_nd")
def pad(call: Call) -> Labels:
    """Constants before and after, or the tensor's own border once more."""
    value = call.labels()[0]
    widths, filled = call["pad"], call.get("mode", "constant") == "constant"
    for place in range(len(widths) // 2):
        axis = len(value.axes) - 1 - place
        before, after = widths[2 * place : 2 * place + 2]
        if before or after:
            value = _padded(call, value, axis, before, after, filled)
    return value


def _padded(call: Call, value: Labels, axis: int, before: int, after: int, filled: bool) -> Labels:
    length = value.shape[axis]

    def lengthened(to: int) -> list[int]:
        return [to if i == axis else n for i, n in enumerate(value.shape)]

    # An axis of several digits is padded to shift it against itself, as relative positions are.
    if not filled or not set(value.digits(axis)) & value.mapped or len(value.axes[axis]) > 1:
        value = pinned(call.facts, value, [axis], "padded")
        return resized(value, lengthened(length + before + after))
    kept = np.arange(length)[max(0, -before) : length - max(0, -after)]
    before, after = max(0, before), max(0, after)
    value = select(call.facts, value, axis, kept)
    # Both sides are one constant, whose coordinates may swap.
    sides = constant(lengthened(before + after))
    joined = concatenate(call.facts, [value, sides], axis)
    return select(call.facts, joined, axis, np.roll(np.arange(joined.shape[axis]), before))
