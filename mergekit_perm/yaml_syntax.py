"""PyYAML's syntax errors in the words of someone who has not read the YAML specification."""

from __future__ import annotations

import re
from dataclasses import dataclass

import yaml

from mergekit_perm.yaml_reader import Problem, lines, mark


@dataclass(frozen=True, slots=True)
class _Wording:
    """How to say what PyYAML's message means; `start` points at where the construct began."""

    pattern: str
    message: str
    hint: str | None = None
    start: bool = False


_WORDINGS = (
    _Wording(
        r"found character '\\t' that cannot start",
        "a tab cannot be used here",
        "use spaces",
    ),
    _Wording(
        r"found character ['\"](?P<a>.)['\"] that cannot start",
        "a value cannot start with {a}",
        "put quotes around the text",
    ),
    _Wording(
        r"mapping values are not allowed here",
        "a ':' is not allowed here",
        "indent a key as the keys around it, and put quotes around text that contains ': '",
    ),
    _Wording(
        r"could not find expected ':'",
        "this line is neither a 'key: value' nor part of the value above",
        start=True,
    ),
    _Wording(
        r"found unexpected (?:end of stream|document separator)",
        "the quote that opens here is never closed",
        start=True,
    ),
    _Wording(
        r"while parsing a flow .*but got '<stream end>'",
        "the bracket that opens here is never closed",
        start=True,
    ),
    _Wording(
        r"while parsing a flow (?:sequence|mapping).*\bexpected ',' or '(?P<a>.)'",
        "a ',' or '{a}' is missing here; the bracket opens at line {line}, column {column}",
    ),
    _Wording(
        r"while parsing a block (?:collection|mapping).*expected <block end>",
        "this line does not fit the lines above it",
        "keys of one mapping, and the dashes of one list, stand in the same column",
    ),
    _Wording(
        r"while scanning an (?:alias|anchor)",
        "text that starts with '*' or '&' needs quotes",
        start=True,
    ),
    _Wording(
        r"found unknown escape character ['\"](?P<a>.+)['\"]",
        "a backslash before {a} means nothing in double quotes",
        "use single quotes for text with backslashes",
    ),
    _Wording(r"expected the node content", "a value is missing here"),
    _Wording(r"\| (?P<a>.+)", "this is not YAML: {a}"),
)


def syntax_problem(error: yaml.YAMLError, text: str) -> Problem:
    """Return what PyYAML raised while it read `text`, placed and in plain words."""
    if isinstance(error, yaml.reader.ReaderError):
        before = lines(text[: error.position])
        at = (len(before), len(before[-1]) + 1)
        return Problem((), f"the character U+{error.character:04X} is not allowed in YAML", at=at)
    assert isinstance(error, yaml.MarkedYAMLError)  # all that its scanner and parser raise
    here = mark(error.problem_mark)
    start = mark(error.context_mark) if error.context_mark else here
    said = f"{error.context} | {error.problem}"
    wording, match = next(
        (wording, match) for wording in _WORDINGS if (match := re.search(wording.pattern, said))
    )
    words = match.groupdict() | {"line": start[0], "column": start[1]}
    at = start if wording.start else here
    return Problem((), wording.message.format_map(words), wording.hint, at=at)


def escape_problem(text: str) -> Problem:
    """Return the problem of an escape beyond the last character, on which PyYAML trips."""
    before = lines(text[: text.index("\\U")])
    message = "a \\U escape in double quotes names no character"
    return Problem((), message, at=(len(before), len(before[-1]) + 1))
