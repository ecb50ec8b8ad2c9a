"""Reading and writing expressions of the axis language; `axes` says what they mean."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mergekit_perm.axes import (
    Axis,
    Block,
    Concatenation,
    Fixed,
    Inner,
    Interleaving,
    Pick,
    Product,
    Slice,
    Whole,
)
from mergekit_perm.errors import PermutationSpecError

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
