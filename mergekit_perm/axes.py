"""The axis language: what permutes the coordinates of one axis of one tensor.

    64               64 coordinates that stay where they are; `_` for as many as the tensor has
    g                permuted by group g; for a nested group, its whole length (outer x inner)
    a * b            row-major product, a outermost: `conv5 * 49`, `heads * dim`
    a + b            concatenation: `g + g`, `q + k + v`
    g[i:j:k]         coordinates of g in another order, or a part of them; also g[[2, 0, 1]]
    interleave(n, a, b)   n blocks of each in turn: `interleave(heads, q, k, v)` is q, k and v of
                     the first head, then of the second, and so on; n is a number
    inner(g)         the inner permutation of nested group g, chosen by the outer index that another
                     axis of the tensor carries: a grouped convolution is [out, inner(in), 3, 3]
    inner(n, a)      one of n equal blocks of a: the first for the first n-th of the coordinates on
                     the tensor's first other axis longer than 1, and so on; for groups of a
                     convolution that are not alike: [q + k, inner(2, a + b), 3, 3]

This module reads and writes expressions and knows their sizes; `action` knows what they do.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mergekit_perm.errors import PermutationSpecError
from mergekit_perm.groups import Groups
from mergekit_perm.permutation import Indices


@dataclass(frozen=True, slots=True)
class Fixed:
    """`size` coordinates that stay where they are; None is `_`, as many as the tensor has."""

    size: int | None


@dataclass(frozen=True, slots=True)
class Whole:
    """All elements of a group, in order."""

    group: str


@dataclass(frozen=True, slots=True)
class Inner:
    """The inner permutation of a nested group, chosen by the outer index on another axis."""

    group: str


@dataclass(frozen=True, slots=True)
class Product:
    """A row-major product; the first factor is outermost."""

    factors: tuple[Axis, ...]


@dataclass(frozen=True, slots=True)
class Concatenation:
    """Terms one after another."""

    terms: tuple[Axis, ...]


@dataclass(frozen=True, slots=True)
class Interleaving:
    """`blocks` equal blocks of each term in turn: the first of every term, then the second, ..."""

    blocks: int
    terms: tuple[Axis, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """One of `count` equal blocks of `base`, chosen by the block on another axis of the tensor."""

    count: int
    base: Axis


@dataclass(frozen=True, slots=True)
class Slice:
    """Every `step`-th coordinate of `base` from `start` to before `stop`, as Python slices."""

    base: Axis
    start: int | None
    stop: int | None
    step: int | None


@dataclass(frozen=True, slots=True)
class Pick:
    """The named coordinates of `base`, in the order given."""

    base: Axis
    indices: tuple[int, ...]


Leaf = Fixed | Whole | Inner
Part = Slice | Pick
Axis = Leaf | Product | Concatenation | Interleaving | Block | Part


# ------------------------------------------------------------------------------------- text

# How deep brackets may nest: far beyond any network, and before Python's stack ends.
_DEEPEST = 64
_MOST_DIGITS = 15

# What an expression takes for the name of a group.
NAME = r"[A-Za-z_]\w*(?:\.\w+)*|\d+(?:\.\w+)+"
_TOKEN = re.compile(rf"(?P<name>{NAME})|(?P<int>-?\d+)|(?P<mark>[-+*()\[\]:,])")


def parse(text: str | int) -> Axis:
    """Return the axis that `text` describes.

    Raises:
        PermutationSpecError: naming the column where the text stops making sense.
    """
    return _Parser(str(text)).parse()


class _Parser:
    """Recursive descent over the grammar `sum := product ('+' product)*` and so on down."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = list(self._tokenize())
        self.at = 0
        self.depth = 0
        self.blocks = 0

    def _tokenize(self) -> Iterator[tuple[str, str, int]]:
        position = 0
        while position < len(self.text):
            match = _TOKEN.match(self.text, position)
            if match is not None:
                kind = match.lastgroup or ""
                if kind == "int" and len(match[kind]) > _MOST_DIGITS:
                    raise self._error("this number is too large", position)
                yield kind, match[kind], position
                position = match.end()
            elif self.text[position].isspace():
                position += 1
            else:
                raise self._error("this character has no meaning here", position)

    def parse(self) -> Axis:
        if not self.tokens:
            raise PermutationSpecError("an axis is empty: write a number, a group, or `_`")
        axis = self._sum()
        if self.at < len(self.tokens):
            raise self._error("expected '+', '*', '[' or the end", self.tokens[self.at][2])
        if self.blocks > isinstance(axis, Block):
            raise PermutationSpecError(
                f"axis '{self.text}': inner(n, ...) is a whole axis, no part"
            )
        return axis

    def _sum(self) -> Axis:
        terms = [self._product()]
        while self._take("+"):
            terms.append(self._product())
        return terms[0] if len(terms) == 1 else Concatenation(tuple(terms))

    def _product(self) -> Axis:
        factors = [self._item()]
        while self._take("*"):
            factors.append(self._item())
        return factors[0] if len(factors) == 1 else Product(tuple(factors))

    def _item(self) -> Axis:
        outside = self.depth
        item = self._atom()
        while self._take("["):
            self._deeper()
            item = self._part(item)
            self._expect("]")
        self.depth = outside
        return item

    def _atom(self) -> Axis:
        if self._take("("):
            self._deeper()
            axis = self._sum()
            self._expect(")")
            return axis
        kind, word, position = self._next("a number, a group name or '('")
        if kind == "int" and not word.startswith("-"):
            return Fixed(int(word))
        if kind != "name":
            raise self._error("expected a number, a group name or '('", position)
        if word == "_":
            return Fixed(None)
        if word == "inner" and self._take("("):
            return self._inner()
        if word == "interleave" and self._take("("):
            return self._interleaving()
        return Whole(word)

    def _inner(self) -> Axis:
        self._deeper()
        if self._peek_kind() == "int":
            count = self._count()
            if self.at == len(self.tokens):
                raise self._error(
                    "expected ','; in YAML, text with commas is quoted", len(self.text)
                )
            self._expect(",")
            base = self._sum()
            self._expect(")")
            self.blocks += 1
            return Block(count, base)
        kind, name, position = self._next("a group name")
        if kind != "name":
            raise self._error("expected a group name", position)
        self._expect(")")
        return Inner(name)

    def _count(self) -> int:
        kind, word, position = self._next("a number of blocks")
        if kind != "int" or int(word) < 1:
            raise self._error("expected a number of blocks", position)
        return int(word)

    def _interleaving(self) -> Axis:
        self._deeper()
        count = self._count()
        position = self.tokens[self.at - 1][2]
        terms = []
        while self._take(","):
            terms.append(self._sum())
        self._expect(")")
        if not terms:
            raise self._error("nothing to interleave", position)
        return Interleaving(count, tuple(terms))

    def _part(self, base: Axis) -> Axis:
        if self._take("["):
            indices = [self._integer()]
            while self._take(","):
                indices.append(self._integer())
            self._expect("]")
            return Pick(base, tuple(indices))
        start = self._bound()
        self._expect(":")
        stop = self._bound()
        step = self._bound() if self._take(":") else None
        return Slice(base, start, stop, step)

    def _bound(self) -> int | None:
        return self._integer() if self._peek_kind() == "int" else None

    def _deeper(self) -> None:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise self._error(f"brackets more than {_DEEPEST} deep", self.tokens[self.at - 1][2])

    def _integer(self) -> int:
        kind, word, position = self._next("a whole number")
        if kind != "int":
            raise self._error("expected a whole number", position)
        return int(word)

    def _peek_kind(self) -> str:
        return self.tokens[self.at][0] if self.at < len(self.tokens) else ""

    def _take(self, mark: str) -> bool:
        found = self.at < len(self.tokens) and self.tokens[self.at][1] == mark
        self.at += found
        return found

    def _expect(self, mark: str) -> None:
        if not self._take(mark):
            end = self.at == len(self.tokens)
            raise self._error(
                f"expected '{mark}'", len(self.text) if end else self.tokens[self.at][2]
            )

    def _next(self, wanted: str) -> tuple[str, str, int]:
        if self.at == len(self.tokens):
            raise self._error(f"expected {wanted}", len(self.text))
        self.at += 1
        return self.tokens[self.at - 1]

    def _error(self, message: str, position: int) -> PermutationSpecError:
        shown = self.text if len(self.text) <= 100 else self.text[:100] + "…"
        return PermutationSpecError(f"axis '{shown}', column {position + 1}: {message}")


def is_name(text: str) -> bool:
    """Tell whether an expression can name a group `text`."""
    match = _TOKEN.fullmatch(text)
    return match is not None and match.lastgroup == "name" and text != "_"


def format_axis(axis: Axis) -> str:
    """Return the text of `axis`; `parse(format_axis(axis)) == axis`."""
    match axis:
        case Fixed(size):
            return "_" if size is None else str(size)
        case Whole(group):
            return group
        case Inner(group):
            return f"inner({group})"
        case Product(factors):
            return " * ".join(_bracketed(f, Product, Concatenation) for f in factors)
        case Concatenation(terms):
            return " + ".join(_bracketed(t, Concatenation) for t in terms)
        case Interleaving(blocks, terms):
            return f"interleave({', '.join([str(blocks), *map(format_axis, terms)])})"
        case Block(count, base):
            return f"inner({count}, {format_axis(base)})"
        case Pick(base, indices):
            return f"{_bracketed(base, Product, Concatenation)}[[{', '.join(map(str, indices))}]]"
        case Slice(base, start, stop, step):  # pragma: no branch - the last form
            head = _bracketed(base, Product, Concatenation)
            first, last = ("" if bound is None else str(bound) for bound in (start, stop))
            return f"{head}[{first}:{last}{'' if step is None else f':{step}'}]"


def _bracketed(axis: Axis, *kinds: type) -> str:
    return f"({format_axis(axis)})" if isinstance(axis, kinds) else format_axis(axis)


# --------------------------------------------------------------------------------- structure


def leaves(axis: Axis) -> Iterator[Leaf]:
    """Yield the fixed runs and group references of `axis`, left to right."""
    match axis:
        case Product(parts) | Concatenation(parts) | Interleaving(_, parts):
            for part in parts:
                yield from leaves(part)
        case Slice(base) | Pick(base) | Block(_, base):
            yield from leaves(base)
        case _:
            yield axis


def names(axis: Axis) -> set[str]:
    """Return the groups that `axis` refers to."""
    return {leaf.group for leaf in leaves(axis) if not isinstance(leaf, Fixed)}


def inner_group(axis: Axis) -> str | None:
    """Return the group of `inner(g)` in `axis`, or None."""
    return next((leaf.group for leaf in leaves(axis) if isinstance(leaf, Inner)), None)


def has_inner(axis: Axis) -> bool:
    """Tell whether `axis` depends on a coordinate of another axis of the tensor."""
    return isinstance(axis, Block) or inner_group(axis) is not None


def has_part(axis: Axis) -> bool:
    """Tell whether `axis` takes a part of something or reorders it."""
    match axis:
        case Product(parts) | Concatenation(parts):
            return any(has_part(part) for part in parts)
        case Slice() | Pick() | Interleaving() | Block():
            return True
        case _:
            return False


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
