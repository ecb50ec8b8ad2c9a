"""What is known about the coordinates of one tensor: the domain in which networks are interpreted.

Every axis is a row-major product of *digits*, so that views which split and join axes only
regroup digits: a fused query-key-value axis of length 3 x heads x dim has three digits once it has
been reshaped. A *map* gives the coordinates of one or several digits their elements: a permutation
of the elements moves those coordinates, jointly when there are several digits. A digit in no map is
fixed in place (batch, height, tokens), or the tensor is constant along it, which any permutation
leaves alone.

Nothing here states a fact about the network; `facts` and `primitives` do.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from mergekit_perm.permutation import Indices

Shape = tuple[int, ...]


# What fixed coordinates are, for people; anything else names the operation that they come from.
FIXED, INPUTS, CONSTANTS = "fixed positions", "inputs of the network", "constants"


class Map(NamedTuple):
    """Elements of the coordinates of `digits` (ascending): an array with one axis per digit."""

    digits: tuple[int, ...]
    elements: Indices


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of one tensor.

    Attributes:
        axes: for every axis the sizes of its digits, outermost first; an axis of length 1 has none.
            Digits are numbered through all axes.
        maps: which elements stand at the coordinates of which digits.
        constant: the digits along which the tensor does not change.
        places: what its fixed coordinates are, for people.
    """

    axes: tuple[Shape, ...]
    maps: tuple[Map, ...] = ()
    constant: frozenset[int] = frozenset()
    places: str = FIXED

    @property
    def shape(self) -> Shape:
        """The shape of the tensor."""
        return tuple(math.prod(axis) for axis in self.axes)

    @property
    def sizes(self) -> Shape:
        """The sizes of all digits."""
        return tuple(itertools.chain.from_iterable(self.axes))

    def digits(self, axis: int) -> range:
        """Return the numbers of the digits of `axis`."""
        start = sum(map(len, self.axes[:axis]))
        return range(start, start + len(self.axes[axis]))

    @property
    def mapped(self) -> set[int]:
        """The digits that stand in a map."""
        return {digit for map_ in self.maps for digit in map_.digits}

    def kind(self, digit: int) -> object:
        """Return what two neighbouring digits must agree on to be one."""
        inside = frozenset(place for place, m in enumerate(self.maps) if digit in m.digits)
        return inside or digit in self.constant


def unlabelled(shape: Iterable[int], *, constant: bool = False, places: str = FIXED) -> Labels:
    """Return labels of a tensor whose coordinates are all fixed, or which is constant.

    A tensor without elements has no other labels than these.
    """
    axes = tuple((length,) if length != 1 else () for length in shape)
    count = sum(map(len, axes))
    return Labels(axes, (), frozenset(range(count)) if constant else frozenset(), places)


def lost_in(operands: Iterable[Labels]) -> str:
    """Return what the fixed coordinates are of a tensor that is computed from `operands`.

    Where one of them comes from an operation that could not be followed, so does the result.
    """
    named = (labels.places for labels in operands)
    return next((places for places in named if places not in (FIXED, INPUTS, CONSTANTS)), FIXED)


def renumbered(labels: Labels, number: Mapping[int, int], axes: tuple[Shape, ...]) -> Labels:
    """Return `labels` with every digit d called `number[d]`, in axes of these digits."""
    maps = []
    for digits, elements in labels.maps:
        renamed = [number[digit] for digit in digits]
        order = np.argsort(renamed)
        maps.append(Map(tuple(sorted(renamed)), elements.transpose(order)))
    constant = frozenset(number[digit] for digit in labels.constant)
    return replace(labels, axes=axes, maps=tuple(maps), constant=constant)


def transposed(labels: Labels, order: Sequence[int]) -> Labels:
    """Return the labels of the tensor whose axis i is axis `order[i]` of this one."""
    sequence = [digit for axis in order for digit in labels.digits(axis)]
    number = {digit: place for place, digit in enumerate(sequence)}
    return renumbered(labels, number, tuple(labels.axes[axis] for axis in order))


def split(labels: Labels, parts: Sequence[Shape]) -> Labels:
    """Return `labels` with digit d split into digits of sizes `parts[d]`, in the same axes."""
    starts = [0, *itertools.accumulate(map(len, parts))]
    maps = []
    for digits, elements in labels.maps:
        shape = [size for digit in digits for size in parts[digit]]
        new = [place for digit in digits for place in range(starts[digit], starts[digit + 1])]
        maps.append(Map(tuple(new), elements.reshape(shape)))
    constant = {
        place for digit in labels.constant for place in range(starts[digit], starts[digit + 1])
    }
    numbered = iter(parts)
    axes = tuple(tuple(size for _ in axis for size in next(numbered)) for axis in labels.axes)
    return replace(labels, axes=axes, maps=tuple(maps), constant=frozenset(constant))


def tidied(labels: Labels) -> Labels:
    """Return `labels` with neighbouring digits of an axis joined where nothing tells them apart."""
    number: dict[int, int] = {}
    axes: list[Shape] = []
    count = -1
    for axis in range(len(labels.axes)):
        sizes: list[int] = []
        last: object = None
        for digit in labels.digits(axis):
            kind = labels.kind(digit)
            if sizes and kind == last:
                sizes[-1] *= labels.sizes[digit]
            else:
                sizes.append(labels.sizes[digit])
                count += 1
            last = kind
            number[digit] = count
        axes.append(tuple(sizes))
    if count + 1 == len(labels.sizes):
        return labels
    joined = tuple(itertools.chain.from_iterable(axes))
    maps = []
    for digits, elements in labels.maps:
        new = tuple(dict.fromkeys(number[digit] for digit in digits))
        maps.append(Map(new, elements.reshape([joined[digit] for digit in new])))
    constant = frozenset(number[digit] for digit in labels.constant)
    return replace(labels, axes=tuple(axes), maps=tuple(maps), constant=constant)


def common_digits(factorings: Iterable[Shape]) -> Shape | None:
    """Return the coarsest digits that refine every factoring of one length; None if there are none.

    (6,) and (2, 3) have (2, 3) in common; (2, 3) and (3, 2) have nothing.
    """
    bounds = {1}
    for sizes in factorings:
        bounds.update(itertools.accumulate(reversed(sizes), lambda a, b: a * b))
    ordered = sorted(bounds)
    if any(larger % smaller for smaller, larger in itertools.pairwise(ordered)):
        return None
    return tuple(large // small for small, large in itertools.pairwise(ordered))[::-1]


def parts_of(sizes: Shape, digits: Shape) -> list[Shape]:
    """Return how each of `sizes` splits into consecutive ones of `digits`, a refinement of it."""
    remaining = list(digits)
    parts = []
    for size in sizes:
        part: list[int] = []
        while math.prod(part) < size:
            part.append(remaining.pop(0))
        parts.append(tuple(part))
    return parts


def expanded(map_: Map, digits: Sequence[int]) -> Indices:
    """Return the elements of `map_` with an axis for each of `digits`, of length 1 where absent."""
    index = tuple(slice(None) if digit in map_.digits else None for digit in digits)
    result: Indices = map_.elements[index]
    return result
