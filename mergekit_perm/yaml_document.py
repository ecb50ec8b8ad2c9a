"""YAML text as plain data that remembers where every value stands.

Scalars are those of the YAML 1.2 core schema: `1e-3` is a number, `on` and `2024-01-01` are text.
Whatever makes a declarative file ambiguous or dangerous is refused with its place: duplicate
keys, keys that are no text, anchors, aliases, tags, several documents, very large or very deep
files. Run specs and permutation specs are both read, and their problems worded, through here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mergekit_perm.errors import SpecError
from mergekit_perm.yaml_reader import (
    FLOAT,
    INT,
    MAX_BYTES,
    Keys,
    Mark,
    Problem,
    Reader,
    Unreadable,
    lines,
    plain_scalar,
)
from mergekit_perm.yaml_syntax import escape_problem, syntax_problem

__all__ = [
    "MAX_BYTES",
    "Document",
    "Keys",
    "Mark",
    "Problem",
    "counted",
    "decoded",
    "dotted",
    "dump",
    "file_text",
    "parse",
    "plain_scalar",
    "printable",
    "read",
    "read_file",
    "render",
    "render_all",
]

_WINDOW = 100


@dataclass(frozen=True, slots=True)
class Document:
    """The data of one YAML file, and where each part of it stands.

    Attributes:
        data: dicts with text keys, lists, and scalars; None for an empty file.
        file: the name of the file, as messages show it.
        text: the source.
        marks: for every path that exists, the marks of its key and of its value; an element of
            a list has no key and carries the mark of its value twice.
    """

    data: Any
    file: str
    text: str = field(repr=False)
    marks: Mapping[Keys, tuple[Mark, Mark]] = field(repr=False)

    def position(self, path: Keys, *, key: bool = False) -> Mark:
        """Return line and column of the value at `path`, or of its nearest ancestor that exists."""
        while path and path not in self.marks:
            path = path[:-1]
        of_key, of_value = self.marks.get(path, ((1, 1), (1, 1)))
        return of_key if key else of_value

    def place(self, problem: Problem) -> Mark:
        """Return the line and column that `problem` points at."""
        return problem.at or self.position(problem.path, key=problem.key)


def read(text: str, *, file: str) -> Document:
    """Read YAML `text`; `file` is its name in messages.

    Raises:
        SpecError: all problems of the document, placed (see `render`).
    """
    document, problems = parse(text, file=file)
    if problems:
        raise SpecError(render(document, problems, footer=f"{counted(problems)} in {file}"))
    return document


def read_file(path: Path) -> Document:
    """Read the YAML file at `path`, which must be UTF-8.

    Raises:
        SpecError: as `read`, or the file is missing, unreadable, too large or not UTF-8.
    """
    return read(file_text(path), file=str(path))


def file_text(path: Path) -> str:
    """Return the text of `path`; of a file that is too large only so much that `read` refuses it.

    Raises:
        SpecError: the file is missing, unreadable or not UTF-8.
    """
    try:
        with path.open("rb") as stream:
            return decoded(stream.read(MAX_BYTES + 1), file=str(path))
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise SpecError(f"{path}: cannot be read: {reason}") from error


def decoded(raw: bytes, *, file: str) -> str:
    """Return `raw` as text, without a byte order mark.

    Raises:
        SpecError: the bytes are not UTF-8; the message names the first that is wrong.
    """
    if len(raw) > MAX_BYTES:
        return " " * len(raw)  # refused for its size whatever it says, even if cut in a character
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        column = error.start - raw.rfind(b"\n", 0, error.start)
        raise SpecError(
            f"{file}:{line}:{column}: byte 0x{raw[error.start]:02x} is not UTF-8; "
            "save the file with the encoding UTF-8"
        ) from error


def parse(text: str, *, file: str) -> tuple[Document, list[Problem]]:
    """Read YAML `text` as far as possible; return it with everything wrong with it.

    The data is None when the text is no YAML at all; otherwise parts with a problem are left out
    (the second of two equal keys) or None (an alias).
    """
    text = text.removeprefix("\ufeff")
    reader = Reader()
    data = None
    try:
        data = reader.read(text)
    except Unreadable as error:
        reader.problems.append(error.problem)
    except yaml.YAMLError as error:
        reader.problems.append(syntax_problem(error, text))
    except (ValueError, OverflowError):
        reader.problems.append(escape_problem(text))
    return Document(data, file, text, reader.marks), reader.problems


def counted(problems: Sequence[object]) -> str:
    """Return ``"1 problem"`` or ``"3 problems"``."""
    return f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"


def render(document: Document, problems: Iterable[Problem], *, footer: str) -> str:
    """Return `problems` in the order of their places, each with its source line, then `footer`."""
    return render_all([(document, problem) for problem in problems], footer=footer)


def render_all(findings: Iterable[tuple[Document, Problem]], *, footer: str) -> str:
    """Return the problems of several documents as `render` does, document by document."""
    findings = list(findings)
    files = list(dict.fromkeys(document.file for document, _ in findings))
    findings.sort(key=lambda finding: (files.index(finding[0].file), finding[0].place(finding[1])))
    return "\n\n".join([*(_worded(document, problem) for document, problem in findings), footer])


def _worded(document: Document, problem: Problem) -> str:
    line, column = document.place(problem)
    where = f"{document.file}:{line}:{column}: "
    path = f"{dotted(problem.path)}: " if problem.path else ""
    shown = [printable(where + path + problem.message), *_excerpt(document.text, line, column)]
    if problem.hint:
        shown.append(f"    = {printable(problem.hint)}")
    return "\n".join(shown)


def printable(text: str) -> str:
    """Return `text` on one line, without a character that a terminal would obey, not show."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def dotted(path: Keys) -> str:
    """Return `path` as text: ``merge[0].parameters.weight``."""
    parts = [f"[{key}]" if isinstance(key, int) else f".{_shown_key(key)}" for key in path]
    return "".join(parts).removeprefix(".")


def _shown_key(key: str) -> str:
    key = key if len(key) <= _WINDOW else key[:_WINDOW] + "…"
    return key if key.isprintable() and " " not in key else repr(key)


def _excerpt(text: str, line: int, column: int) -> list[str]:
    """Return the source line and a caret under `column`; nothing for a line without text."""
    source = lines(text)[line - 1]
    if not source.strip():
        return []
    # A window around the column, so that no line of a megabyte is printed.
    start = max(0, column - 1 - _WINDOW * 3 // 4)
    shown = printable(source[start : start + _WINDOW].replace("\t", " "))
    before, after = "…" * (start > 0), "…" * (start + _WINDOW < len(source))
    caret = " " * (len(before) + column - 1 - start) + "^"
    return [f"    {before}{shown}{after}".rstrip(), f"    {caret}"]


class _Dumper(yaml.SafeDumper):
    """Writes YAML that readers of 1.1 and of 1.2 understand alike."""


# PyYAML quotes text that YAML 1.1 would take for something else; `1e-3` is a number in 1.2 only.
_Dumper.yaml_implicit_resolvers = dict(yaml.SafeDumper.yaml_implicit_resolvers)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(f"(?:{INT.pattern})$"), None)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"(?:{FLOAT.pattern})$"), None)


def _list(dumper: yaml.SafeDumper, items: Sequence[Any]) -> yaml.Node:
    flow = not any(isinstance(item, Mapping) for item in items)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=flow)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    # Left to itself, PyYAML folds the rarer line breaks in single quotes, and they are lost.
    style = '"' if re.search("[\x85\u2028\u2029\ufeff]", text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
_Dumper.add_representer(list, _list)
_Dumper.add_representer(tuple, _list)


def dump(data: Any, *, flow: bool = False) -> str:
    """Return plain `data` as YAML that `read` gives back equal, keys in their order.

    Mappings are written one key a line (`flow`: in braces), lists of anything else in brackets.
    Tuples come back as lists.
    """
    text = yaml.dump(
        data,
        Dumper=_Dumper,
        default_flow_style=flow,
        sort_keys=False,
        allow_unicode=True,
        width=10**9 if flow else _WINDOW,
    )
    # A lone scalar ends in a document marker, on a line of its own.
    return re.sub(r"\n\.\.\.\n\Z", "\n", str(text))
