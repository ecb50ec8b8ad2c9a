"""The event reader behind `yaml_document`: plain data, the mark of every value, every problem.

Working on parser events, rather than on PyYAML's objects, is what lets it see duplicate keys and
stop in front of deep nesting. Scalars are those of the YAML 1.2 core schema.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import yaml

MAX_BYTES = 1_000_000
MAX_DEPTH = 64
MAX_DIGITS = 100

Keys: TypeAlias = tuple[str | int, ...]
"""Where a value is in the data: the keys and list indices that lead to it."""

Mark: TypeAlias = tuple[int, int]
"""Line and column, both counted from 1."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong at one place of a document.

    Attributes:
        path: the keys and indices that lead to the value.
        message: what was found and what was wanted, without the place.
        hint: the fix, such as ``"did you mean 'x'?"``.
        key: point at the key of the value, not at the value.
        at: line and column, where the path alone does not tell.
    """

    path: Keys
    message: str
    hint: str | None = None
    key: bool = False
    at: Mark | None = None


# Scalars of the YAML 1.2 core schema (yaml.org/spec/1.2.2, 10.3.2).
_WORDS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)


def plain_scalar(text: str) -> bool | int | float | str | None:
    """Return the value of a scalar written without quotes."""
    if text in _WORDS:
        return _WORDS[text]
    if INT.fullmatch(text):
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if FLOAT.fullmatch(text):
        return float(re.sub(r"\.(?=[ni])", "", text.lower()))
    return text


class Unreadable(Exception):  # noqa: N818 - never leaves yaml_document
    """Reading has to stop at this problem."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem


class Reader:
    """Builds data from parser events, noting marks and problems on the way; read once."""

    def __init__(self) -> None:
        self.marks: dict[Keys, tuple[Mark, Mark]] = {}
        self.problems: list[Problem] = []
        self.events: Iterator[yaml.Event] = iter(())

    def read(self, text: str) -> Any:
        """Return the data of `text`; raise `Unreadable` or `yaml.YAMLError` where that ends."""
        size = len(text.encode(errors="surrogatepass"))
        if size > MAX_BYTES:
            raise Unreadable(Problem((), f"the file has more than {MAX_BYTES:,} bytes", at=(1, 1)))
        self.events = yaml.parse(text, Loader=yaml.SafeLoader)
        next(self.events)  # the start of the stream
        if isinstance(next(self.events), yaml.StreamEndEvent):
            return None
        first = next(self.events)
        self.marks[()] = (mark(first.start_mark), mark(first.start_mark))
        data = self._value(first, ())
        next(self.events)  # the end of the document
        following = next(self.events)
        if not isinstance(following, yaml.StreamEndEvent):
            self._problem((), "a second document starts here; one file holds one", following)
        return data

    def _problem(
        self, path: Keys, message: str, event: yaml.Event, *, hint: str | None = None
    ) -> None:
        self.problems.append(Problem(path, message, hint, at=mark(event.start_mark)))

    def _value(self, event: yaml.Event, path: Keys) -> Any:
        self._check_node(event, path)
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, path)
        if isinstance(event, yaml.AliasEvent):
            return None
        if len(path) >= MAX_DEPTH:
            raise _too_deep(event)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(path)
        return self._mapping(path)

    def _check_node(self, event: Any, path: Keys) -> None:
        if isinstance(event, yaml.AliasEvent):
            hint = "write the value out; text that starts with '*' needs quotes"
            self._problem(path, f"the alias *{event.anchor} is not allowed", event, hint=hint)
            return
        if event.anchor is not None:
            hint = "remove it; text that starts with '&' needs quotes"
            self._problem(path, f"the anchor &{event.anchor} is not allowed", event, hint=hint)
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            hint = "remove it; text that starts with '!' needs quotes"
            self._problem(path, f"the tag {tag} is not allowed", event, hint=hint)
        if isinstance(event, yaml.ScalarEvent) and re.search("[\ud800-\udfff]", event.value):
            self._problem(path, "an escape names half a character (a surrogate)", event)

    def _scalar(self, event: yaml.ScalarEvent, path: Keys) -> Any:
        if event.style is not None or not event.implicit[0]:
            return event.value
        if len(event.value) > MAX_DIGITS and INT.fullmatch(event.value):
            self._problem(path, f"a number with more than {MAX_DIGITS} digits", event)
            return None
        return plain_scalar(event.value)

    def _sequence(self, path: Keys) -> list[Any]:
        result: list[Any] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            place = (*path, len(result))
            self.marks[place] = (mark(event.start_mark), mark(event.start_mark))
            result.append(self._value(event, place))
        return result

    def _mapping(self, path: Keys) -> dict[str, Any]:
        result: dict[str, Any] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self._key(event, path, result)
            value = next(self.events)
            if key is None:
                self._skip(value)
                continue
            place = (*path, key)
            self.marks[place] = (mark(event.start_mark), mark(value.start_mark))
            result[key] = self._value(value, place)
        return result

    def _key(self, event: yaml.Event, path: Keys, known: Mapping[str, Any]) -> str | None:
        """Return the text of a key, or None when it cannot be one."""
        self._check_node(event, path)
        if isinstance(event, yaml.AliasEvent):
            return None
        if not isinstance(event, yaml.ScalarEvent):
            hint = "put quotes around a key that starts with '{' or '['"
            found = "a list" if isinstance(event, yaml.SequenceStartEvent) else "a mapping"
            self._problem(path, f"a key must be text, found {found}", event, hint=hint)
            self._skip(event)
            return None
        key = str(event.value)
        if not key:
            self._problem(path, "a key is empty", event)
            return None
        if key in known:
            line, column = self.marks[(*path, key)][0]
            message = f"the key '{key}' is given twice; first at line {line}, column {column}"
            self._problem((*path, key), message, event, hint="remove one of the two")
            return None
        return key

    def _skip(self, event: yaml.Event) -> None:
        """Pass over the rest of the value that `event` starts."""
        depth = 0
        while True:
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth == 0:
                return
            if depth > MAX_DEPTH:
                raise _too_deep(event)
            event = next(self.events)


def mark(found: Any) -> Mark:
    """Return a mark of PyYAML, which counts from 0, as line and column."""
    return (found.line + 1, found.column + 1)


def lines(text: str) -> list[str]:
    """Split `text` where PyYAML's marks do."""
    return re.split(r"\r\n|[\n\r\x85\u2028\u2029]", text)


def _too_deep(event: yaml.Event) -> Unreadable:
    message = f"lists and mappings are nested more than {MAX_DEPTH} deep"
    return Unreadable(Problem((), message, at=mark(event.start_mark)))
