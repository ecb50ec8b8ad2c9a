"""How many coordinates expressions of axes have, and which of them parts and interleavings show."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from mergekit_perm.axes import (
    Axis,
    Block,
    Concatenation,
    Fixed,
    Inner,
    Interleaving,
    Part,
    Pick,
    Product,
    Slice,
    Whole,
)
from mergekit_perm.axis_text import format_axis
from mergekit_perm.errors import PermutationSpecError
from mergekit_perm.groups import Groups
from mergekit_perm.permutation import Indices


def size(axis: Axis, groups: Groups) -> int:
    """Return how many coordinates `axis` has.

    Raises:
        PermutationSpecError: for an unknown group, `inner` of a group that is not nested, `_`
            inside a larger expression, or indices out of range.
    """
    match axis:
        case Fixed(count):
            if count is None:
                raise PermutationSpecError(
                    "`_` stands for a whole axis; it cannot be part of an expression"
                )
            return count
        case Whole(group):
            return groups.length(group)
        case Inner(group):
            if groups[group].within is None:
                raise PermutationSpecError(
                    f"inner({group}): '{group}' is not nested (it has no `within`)"
                )
            return groups[group].size
        case Product(factors):
            return math.prod(size(factor, groups) for factor in factors)
        case Concatenation(terms):
            return sum(size(term, groups) for term in terms)
        case Interleaving(blocks, terms):
            return len(interleaved(blocks, [size(term, groups) for term in terms]))
        case Block(count, base):
            length = size(base, groups)
            if not length:
                raise PermutationSpecError(f"{format_axis(axis)}: there is nothing to choose from")
            return length // _cuts(length, count)
        case Slice(base) | Pick(base):  # pragma: no branch - the last form
            return len(_shown(axis, size(base, groups)))


def interleaved(blocks: int, sizes: Sequence[int]) -> Indices:
    """Return which coordinates of terms one after another stand where, when interleaved.

    Raises:
        PermutationSpecError: when a term of one of the `sizes` cannot be cut into equal blocks.
    """
    for length in sizes:
        _cuts(length, blocks)
    ends = np.cumsum([0, *sizes])
    terms = [np.arange(a, b).reshape(blocks, -1) for a, b in itertools.pairwise(ends.tolist())]
    order: Indices = np.concatenate(terms, axis=1).reshape(-1)
    return order


def _cuts(length: int, blocks: int) -> int:
    """Return `blocks`, into which `length` coordinates can be cut; else raise."""
    if length % blocks:
        raise PermutationSpecError(f"{length} coordinates cannot be cut into {blocks} blocks")
    return blocks


def chosen(part: Part, length: int) -> Indices:
    """Return which coordinates of its base `part` shows, in order; its base has `length`."""
    shown = _shown(part, length)
    if isinstance(shown, range):
        return np.arange(shown.start, shown.stop, shown.step)
    return np.array(shown, dtype=np.int64)


def _shown(part: Part, length: int) -> range | list[int]:
    every = range(length)
    if isinstance(part, Slice):
        if part.step == 0:
            raise PermutationSpecError(f"{format_axis(part)}: the step of a slice cannot be 0")
        return every[part.start : part.stop : part.step]
    outside = [i for i in part.indices if not -length <= i < length]
    if outside:
        raise PermutationSpecError(
            f"{format_axis(part)}: index {outside[0]} is outside 0..{length - 1}"
        )
    return [every[i] for i in part.indices]
