"""Tensors one after another, and padding."""

from __future__ import annotations

from mergekit_perm.derive.labels import Labels
from mergekit_perm.derive.primitives import (
    concatenate,
    constant,
    opened,
    pinned,
    resized,
)
from mergekit_perm.derive.rules.table import Call, NoRule, rule


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


@rule("pad", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "replication_pad2d")
def pad(call: Call) -> Labels:
    """Constants before and after, or the tensor's own border once more."""
    value = call.labels()[0]
    widths = call.get("pad") or call.get("padding")
    filled = call.name == "constant_pad_nd" or call.get("mode") == "constant"
    for place in range(len(widths) // 2):
        axis = len(value.axes) - 1 - place
        before, after = widths[2 * place : 2 * place + 2]
        if before or after:
            value = _padded(call, value, axis, before, after, filled)
    return value


def _padded(call: Call, value: Labels, axis: int, before: int, after: int, filled: bool) -> Labels:
    length = value.shape[axis] + before + after
    simple = filled and len(value.axes[axis]) <= 1
    if not set(value.digits(axis)) & value.mapped or not simple:
        value = pinned(call.facts, value, [axis], "padded")
        shape = [length if i == axis else n for i, n in enumerate(value.shape)]
        return resized(value, shape)
    if before < 0 or after < 0:
        raise NoRule
    sides = [
        constant([width if i == axis else n for i, n in enumerate(value.shape)])
        for width in (before, after)
    ]
    parts = [sides[0], value, sides[1]]
    return concatenate(call.facts, parts, axis)
