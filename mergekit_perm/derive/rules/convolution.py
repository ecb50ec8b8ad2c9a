"""Convolutions, grouped ones too: kernels and image positions stay, channels are contracted."""

from __future__ import annotations

from collections.abc import Sequence

from mergekit_perm.derive.facts import Facts
from mergekit_perm.derive.labels import Labels
from mergekit_perm.derive.primitives import contract, pinned, reduce, reshape, resized
from mergekit_perm.derive.rules.products import with_bias
from mergekit_perm.derive.rules.table import Call, NoRule, rule


@rule("conv1d", "conv2d", "conv3d")
def convolution(call: Call) -> Labels:
    """`input` (n, c, ...) with `weight` (o, c / groups, ...)."""
    value, weight, groups = call["input"], call["weight"], call["groups"]
    if len(value.axes) != len(weight.axes):
        raise NoRule  # a batch is missing
    if not _pointwise(call):
        value = pinned(
            call.facts, value, range(2, len(value.axes)), "positions that a kernel slides over"
        )
    weight = pinned(call.facts, weight, range(2, len(weight.axes)), "kernel positions")
    return with_bias(call.facts, _channels(call, value, weight, groups), call["bias"], 1)


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def transposed(call: Call) -> Labels:
    """`input` (n, c, ...) with `weight` (c, o / groups, ...)."""
    facts, value, weight, groups = call.facts, call["input"], call["weight"], call["groups"]
    if len(value.axes) != len(weight.axes):
        raise NoRule  # a batch is missing
    value = pinned(facts, value, range(2, len(value.axes)), "positions that a kernel slides over")
    weight = pinned(facts, weight, range(2, len(weight.axes)), "kernel positions")
    channels, outputs = weight.shape[:2]
    spread = reshape(facts, weight, (groups, channels // groups, *weight.shape[1:]))
    spread = contract(facts, [(spread, "gcoxyz"[: len(spread.axes)])], "gocxyz"[: len(spread.axes)])
    weight = reshape(facts, spread, (groups * outputs, channels // groups, *weight.shape[2:]))
    return with_bias(facts, _channels(call, value, weight, groups), call["bias"], 1)


def _pointwise(call: Call) -> bool:
    """Tell whether every place of the result depends on the same place of the input alone."""
    spatial = call["weight"].shape[2:]
    return (
        all(size == 1 for size in spatial)
        and _all(call["stride"], 1)
        and (call["padding"] in ("valid", "same") or _all(call["padding"], 0))
    )


def _all(value: int | Sequence[int], wanted: int) -> bool:
    return all(v == wanted for v in ([value] if isinstance(value, int) else value))


def _channels(call: Call, value: Labels, weight: Labels, groups: int) -> Labels:
    """Contract the channels of `value` with those of `weight`, kernel axes of which are fixed."""
    facts = call.facts
    count, channels = value.shape[:2]
    spatial = value.shape[2:]
    places = "xyz"[: len(spatial)]
    filters = without_kernel(facts, weight)
    if groups == 1:
        out = contract(facts, [(value, "nc" + places), (filters, "oc")], "no" + places)
        return resized(out, call.shape)
    split = reshape(facts, value, (count, groups, channels // groups, *spatial))
    outputs = weight.shape[0]
    filters = reshape(facts, filters, (groups, outputs // groups, channels // groups))
    out = contract(facts, [(split, "ngc" + places), (filters, "goc")], "ngo" + places)
    return resized(reshape(facts, out, (count, outputs, *spatial)), call.shape)


def without_kernel(facts: Facts, weight: Labels) -> Labels:
    """Return the labels of the first two axes of a convolution's weight."""
    return reduce(facts, weight, range(2, len(weight.axes)))
