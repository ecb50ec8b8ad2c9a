"""Normalisation: every coordinate comes to depend on all that it is normalised with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mergekit_perm.derive.labels import Labels, unlabelled
from mergekit_perm.derive.primitives import combine, normalise, pinned, reduce, reshape, select
from mergekit_perm.derive.rules.products import with_bias
from mergekit_perm.derive.rules.table import Call, rule


@rule("batch_norm")
def batch_norm(call: Call) -> Labels:
    """Statistics, scale and shift of each channel; batch statistics in training."""
    value: Labels = call["input"]
    if call["training"]:
        value = normalise(call.facts, value, [i for i in range(len(value.axes)) if i != 1])
    for name in ("running_mean", "running_var", "weight", "bias"):
        value = with_bias(call.facts, value, call[name], 1)
    return value


@rule("_native_batch_norm_legit", "_native_batch_norm_legit_no_training",
      "_native_batch_norm_legit_functional")  # fmt: skip
def native_batch_norm(call: Call) -> list[Labels]:
    """The same with its statistics, or with none."""
    filled = {"training": False, "running_mean": None, "running_var": None, **call.arguments}
    value = batch_norm(replace(call, arguments=filled))
    channels = reduce(call.facts, value, [i for i in range(len(value.axes)) if i != 1])
    rest = [channels if s == channels.shape else unlabelled(s) for s in call.shapes[1:]]
    return [value, *rest]


@rule("instance_norm")
def instance_norm(call: Call) -> Labels:
    """Statistics over the positions of each channel of each example."""
    value = normalise(call.facts, call["input"], range(2, len(call["input"].axes)))
    for name in ("running_mean", "running_var", "weight", "bias"):
        value = with_bias(call.facts, value, call[name], 1)
    return value


@rule("layer_norm", "rms_norm")
def layer_norm(call: Call) -> Labels:
    """Statistics over the last axes, scale and shift of each coordinate there."""
    value, count = call["input"], len(call["normalized_shape"])
    value = normalise(call.facts, value, range(-count, 0))
    affine = [call.get(name) for name in ("weight", "bias")]
    operands = [value, *(labels for labels in affine if isinstance(labels, Labels))]
    return combine(call.facts, value.shape, operands)


@rule("group_norm")
def group_norm(call: Call) -> Labels:
    """Statistics over the channels of each group and all positions."""
    value, groups = call["input"], call["num_groups"]
    count, channels = value.shape[:2]
    split = reshape(call.facts, value, (count, groups, channels // groups, *value.shape[2:]))
    split = normalise(call.facts, split, range(2, len(split.axes)))
    value = reshape(call.facts, split, value.shape)
    for name in ("weight", "bias"):
        value = with_bias(call.facts, value, call[name], 1)
    return value


@rule("_weight_norm")
def weight_norm(call: Call) -> Labels:
    """Directions `v` of length 1, one for each coordinate of an axis, scaled by `g`."""
    value, axis = call["v"], call["dim"]
    others = [i for i in range(len(value.axes)) if i != axis]
    scaled = [normalise(call.facts, value, others), call["g"]]
    return combine(call.facts, value.shape, scaled)


@rule("softmax", "log_softmax")
def softmax(call: Call) -> Labels:
    """Probabilities along an axis."""
    return normalise(call.facts, call["self"], [call["dim"]])


@rule("glu")
def glu(call: Call) -> Labels:
    """One half of an axis gates the other."""
    value, axis = call["self"], call["dim"]
    half = value.shape[axis] // 2
    halves = [
        select(call.facts, value, axis, np.arange(start, start + half)) for start in (0, half)
    ]
    return combine(call.facts, call.shape, halves)


@rule("cumsum", "cumprod", "logcumsumexp")
def cumulative(call: Call) -> Labels:
    """Running sums: the axis is ordered."""
    return pinned(call.facts, call["self"], [call["dim"]], "ordered by a running sum")
