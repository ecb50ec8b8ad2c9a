"""Parts of a tensor, or its coordinates in another order."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from mergekit_perm.derive.labels import Labels, unlabelled
from mergekit_perm.derive.primitives import (
    concatenate,
    opened,
    pinned,
    reduce,
    reshape,
    resized,
    select,
)
from mergekit_perm.derive.rules.table import Call, NoRule, rule


@rule("chunk", "split", "split_with_sizes", "tensor_split", "unbind")
def split(call: Call) -> list[Labels]:
    """An axis cut into pieces."""
    value, axis, single = call["self"], call.get("dim", 0), call.name == "unbind"
    lengths = [1 if single else shape[axis] for shape in call.shapes]
    bounds = itertools.pairwise(itertools.accumulate(lengths, initial=0))
    return [
        select(call.facts, value, axis, np.arange(start, stop), drop=single)
        for start, stop in bounds
    ]


@rule("slice")
def slice_(call: Call) -> Labels:
    """Every step-th coordinate of a range."""
    value: Labels = call["self"]
    index = np.arange(value.shape[call["dim"]])[slice(call["start"], call["end"], call["step"])]
    return select(call.facts, value, call["dim"], index)


@rule("narrow")
def narrow(call: Call) -> Labels:
    """A range of coordinates."""
    start = call["start"]
    if not isinstance(start, int):
        raise NoRule
    index = np.arange(call["self"].shape[call["dim"]])[start:][: call["length"]]
    return select(call.facts, call["self"], call["dim"], index)


@rule("select")
def select_(call: Call) -> Labels:
    """One coordinate of an axis, which goes away."""
    value, axis, at = call["self"], call["dim"], call["index"]
    return select(call.facts, value, axis, np.array([at % value.shape[axis]]), drop=True)


@rule("roll")
def roll(call: Call) -> Labels:
    """Coordinates moved round in a ring."""
    value: Labels = call["self"]
    if not call["dims"]:
        raise NoRule
    for axis, shift in zip(call["dims"], call["shifts"], strict=True):
        value = select(call.facts, value, axis, np.roll(np.arange(value.shape[axis]), shift))
    return value


@rule("flip")
def flip(call: Call) -> Labels:
    """Coordinates in reverse."""
    value: Labels = call["self"]
    for axis in call["dims"]:
        value = select(call.facts, value, axis, np.arange(value.shape[axis])[::-1])
    return value


@rule("index_select", "index")
def index(call: Call) -> Labels:
    """Coordinates of an axis named by a constant index."""
    value = call["self"]
    if call.name == "index_select":
        indices = [None] * (call["dim"] % len(value.axes)) + [call["index"]]
    else:
        indices = list(call["indices"])
    named = [axis for axis, at in enumerate(indices) if at is not None]
    if any(isinstance(indices[axis], Labels) and indices[axis].maps for axis in named):
        raise NoRule
    whole = indices[named[0]]
    length = value.shape[named[0]]
    if len(named) == 1 and isinstance(whole, torch.Tensor) and _plain_index(whole, length):
        flat = whole.reshape(-1).numpy() % length
        return reshape(call.facts, select(call.facts, value, named[0], flat), call.shape)
    if named != list(range(named[0], named[-1] + 1)):
        raise NoRule
    return _gathered(call, value, named)


def _plain_index(at: torch.Tensor, length: int) -> bool:
    """Tell whether a constant index names coordinates of an axis of `length`.

    Tables of relative positions are read over and over: their coordinates are not followed.
    """
    return at.dtype == torch.int64 and at.numel() <= _MOST_REPEATS * length


_MOST_REPEATS = 4


def _gathered(call: Call, value: Labels, named: list[int]) -> Labels:
    """Coordinates of neighbouring axes named anew for each place: these axes stay."""
    value = pinned(call.facts, value, named, "looked up by position")
    first, last = named[0], named[-1] + 1
    count = len(call.shape) - (len(value.axes) - len(named))
    places = tuple((n,) if n > 1 else () for n in call.shape[first : first + count])
    before = sum(map(len, value.axes[:last])) - sum(map(len, value.axes[first:last]))
    shift = sum(map(len, places)) - sum(map(len, value.axes[first:last]))
    maps = tuple(
        m._replace(digits=tuple(d if d < before else d + shift for d in m.digits))
        for m in value.maps
    )
    axes = (*value.axes[:first], *places, *value.axes[last:])
    return Labels(axes, maps, frozenset(), value.places)


@rule("slice_scatter", "select_scatter")
def scatter(call: Call) -> Labels:
    """A tensor with another one in place of some coordinates of an axis."""
    value, source, axis = call["self"], call["src"], call["dim"] % len(call.shape)
    every = np.arange(value.shape[axis])
    if call.name == "slice_scatter":
        at = every[slice(call["start"], call["end"], call["step"])]
    else:
        at, source = every[call["index"]].reshape(1), opened(source, axis)
    rest = np.setdiff1d(every, at)
    joined = concatenate(call.facts, [source, select(call.facts, value, axis, rest)], axis)
    return select(call.facts, joined, axis, np.argsort(np.concatenate([at, rest])))


@rule("embedding")
def embedding(call: Call) -> Labels:
    """Rows of a table by number."""
    if call["indices"].maps:
        raise NoRule
    table = pinned(call.facts, call["weight"], [0], "looked up by number")
    rows = tuple((n,) if n > 1 else () for n in call.shape[:-1])
    shift = sum(map(len, rows)) - len(table.axes[0])
    maps = tuple(m._replace(digits=tuple(d + shift for d in m.digits)) for m in table.maps)
    return Labels((*rows, *table.axes[1:]), maps)


@rule("embedding_bag")
def embedding_bag(call: Call) -> list[Labels]:
    """Sums, means or largest entries of rows of a table by number."""
    weights = call["per_sample_weights"]
    if call["indices"].maps or (weights is not None and weights.maps):
        raise NoRule
    table = pinned(call.facts, call["weight"], [0], "looked up by number")
    row = opened(reduce(call.facts, table, [0]), 0)
    return [resized(row, call.shapes[0]), *map(unlabelled, call.shapes[1:])]


@rule("unfold")
def unfold(call: Call) -> Labels:
    """Windows along an axis, in a new last axis."""
    value = pinned(call.facts, call["self"], [call["dimension"]], "cut into windows")
    value = resized(value, [call.shape[i] for i in range(len(value.axes))])
    window = call.shape[-1]
    return Labels(
        (*value.axes, (window,) if window > 1 else ()), value.maps, value.constant, value.places
    )


@rule("im2col")
def im2col(call: Call) -> Labels:
    """Patches of an image: (n, c, h, w) to (n, c x patch, places)."""
    if len(call.shape) < 3:
        raise NoRule  # a batch is missing
    value = pinned(call.facts, call["self"], [2, 3], "cut into patches")
    patch = call.shape[1] // value.shape[1]
    axes = (
        value.axes[0],
        (*value.axes[1], *((patch,) if patch > 1 else ())),
        (call.shape[2],) if call.shape[2] > 1 else (),
    )
    return Labels(axes, value.maps, frozenset(), value.places)


@rule("col2im")
def col2im(call: Call) -> Labels:
    """Patches put back and summed: (n, c x patch, places) to (n, c, h, w)."""
    if len(call.shape) < 4:
        raise NoRule  # a batch is missing
    n, channels, h, w = call.shape
    value = pinned(call.facts, call["self"], [2], "put together from patches")
    patch = value.shape[1] // channels
    split_ = reshape(call.facts, value, (n, channels, patch, value.shape[2]))
    split_ = reduce(call.facts, pinned(call.facts, split_, [2], "places in a patch"), [2, 3])
    spread = unlabelled((h, w))
    return Labels((*split_.axes, *spread.axes), split_.maps)
