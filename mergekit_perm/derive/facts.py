"""The facts that interpretation states about elements, from which symmetries are solved.

An *element* is a coordinate that may be permuted: of an axis of a parameter, a block of coordinates
(a head, a group of a convolution), or a coordinate that several others determine. The symmetry
group of a network is the group of all permutations of its elements that respect four kinds of
facts:

    match(a, b)       where a_i goes to a_j, b_i goes to b_j
    project(a, b)     a_i lies in block b_i: it moves only as its block does
    part(a)           the elements of a only move among themselves
    freeze(a)         the elements of a stay where they are, for a reason

Besides, `alike` keeps elements of coordinates at which some tensor has equal values: what only
permutes such values is a symmetry and says nothing about the network. `summed` keeps the elements
that some operation sums over: what none does, and is no output, has no effect.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from mergekit_perm.derive.labels import Labels, Map, expanded
from mergekit_perm.permutation import Indices

# The reason why parameters stay that no operation has anything to do with.
UNREAD = "not read by the network"


@dataclass(frozen=True, slots=True)
class Origin:
    """A run of elements made at once.

    Attributes:
        start: the first element.
        count: how many.
        name: the parameter whose axis they stand on; "" for other elements.
        axis: which axis.
        blocks: in how many blocks of another axis they stand there, each with elements of its own.
    """

    start: int
    count: int
    name: str = ""
    axis: int = 0
    blocks: int = 1


class Facts:
    """All elements of one network, and what is known about them."""

    def __init__(self) -> None:
        self.count = 0
        self.origins: list[Origin] = []
        self.matches: list[tuple[Indices, Indices]] = []
        self.met: list[str] = []  # of every match, where
        self.projections: list[tuple[Indices, Indices]] = []
        self.parts: list[tuple[Indices, str]] = []
        self.frozen: list[tuple[Indices, str, str]] = []
        self.alike: list[Indices] = []
        self.summed: list[Indices] = []
        self.where = ""
        self._blocks: dict[tuple[int, tuple[int, ...]], tuple[Indices, Map]] = {}

    @contextmanager
    def at(self, where: str) -> Iterator[None]:
        """Within the block, `where` is the place in the network that new facts come from."""
        before, self.where = self.where, where
        yield
        self.where = before

    # ------------------------------------------------------------------------------- elements

    def fresh(
        self, shape: Sequence[int], name: str = "", axis: int = 0, *, blocks: int = 1
    ) -> Indices:
        """Return an array of new elements; arguments as the attributes of `Origin`."""
        size = math.prod(shape)
        elements = np.arange(self.count, self.count + size)
        self.origins.append(Origin(self.count, size, name, axis, blocks))
        self.count += size
        return elements.reshape(shape)

    def positions(self, size: int, reason: str) -> Indices:
        """Return new elements that stay where they are."""
        elements = self.fresh((size,))
        self.freeze(elements, reason)
        return elements

    def equal(self, shape: Sequence[int]) -> Indices:
        """Return new elements for coordinates at which a tensor has the same values."""
        elements = self.fresh(shape)
        self.alike.append(elements.reshape(-1))
        return elements

    def copies(self, elements: Indices) -> Indices:
        """Return new elements, one for each of `elements`, which moves as that one does."""
        copied = self.fresh(elements.shape)
        self.project(copied, elements)
        return copied

    # ---------------------------------------------------------------------------------- facts

    def match(self, a: Indices, b: Indices) -> None:
        """State that a_i and b_i move alike; each array has every element once."""
        if a is not b and not np.array_equal(a, b):
            self.matches.append((a.reshape(-1), b.reshape(-1)))
            self.met.append(self.where)

    def project(self, children: Indices, parents: Indices) -> None:
        """State that each child lies in its parent; `parents` broadcasts over `children`."""
        spread = np.broadcast_to(parents, children.shape)
        self.projections.append((children.reshape(-1), spread.reshape(-1)))

    def part(self, elements: Indices) -> None:
        """State that `elements` only move among themselves."""
        self.parts.append((elements.reshape(-1), self.where))

    def freeze(self, elements: Indices, reason: str) -> None:
        """State that `elements` stay where they are."""
        self.frozen.append((elements.reshape(-1), reason, self.where))

    def pin(self, map_: Map, digit: int, reason: str) -> None:
        """State that the coordinates of one digit of `map_` stay where they are."""
        if len(map_.digits) == 1:
            self.freeze(map_.elements, reason)
            return
        place = map_.digits.index(digit)
        positions = self.positions(map_.elements.shape[place], reason)
        self.project(map_.elements, expanded(Map((digit,), positions), map_.digits))

    def pin_digits(self, labels: Labels, digits: Sequence[int], reason: str) -> None:
        """State that the coordinates of `digits` stay where they are, in every map."""
        for map_ in labels.maps:
            for digit in set(map_.digits) & set(digits):
                self.pin(map_, digit, reason)

    def blocks(self, map_: Map, keep: Sequence[int]) -> Map:
        """Return the map of the blocks that the elements of `map_` form over the digits `keep`."""
        kept = tuple(digit for digit in map_.digits if digit in keep)
        if kept == map_.digits:
            return map_
        places = tuple(map_.digits.index(digit) for digit in kept)
        key = (id(map_.elements), places)
        if key not in self._blocks:
            made = Map(kept, self.fresh([map_.elements.shape[place] for place in places]))
            self.project(map_.elements, expanded(made, map_.digits))
            self._blocks[key] = (
                map_.elements,
                made,
            )  # keeps the array, so that its id stays its own
        return Map(kept, self._blocks[key][1].elements)
