"""Values given on the command line: ``--set train.epochs=5`` over the data of a file."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mergekit_perm.spec.problems import found
from mergekit_perm.yaml_document import Document, Keys, Mark, Problem, dotted, parse, printable

# One step of a path: a "quoted key", an [index], or a bare key, which may be an index too.
_STEP = re.compile(r'"(?P<quoted>[^"]+)"|\[(?P<index>[0-9]+)\]|(?P<bare>[^.\["=\s]+)')

Finding = tuple[Document, Problem]
"""A problem, and the document that it is in."""


@dataclass(frozen=True, slots=True)
class Overlay:
    """A value that was set at `path`; `document` places what is in it in the text of the option."""

    path: Keys
    document: Document


def apply(data: Any, texts: Sequence[str]) -> tuple[Any, list[Overlay], list[Finding]]:
    """Return a copy of `data` with ``PATH=VALUE`` set for each of `texts` in turn.

    Also returned: the values that were set, and what is wrong with those that could not be.
    """
    result = copy.deepcopy(data)
    overlays: list[Overlay] = []
    findings: list[Finding] = []
    for text in texts:
        overlay, problems = _apply(result, text)
        if problems:
            findings += [(overlay.document, problem) for problem in problems]
        else:
            overlays.append(overlay)
    return result, overlays, findings


def home(problem: Problem, document: Document, overlays: Sequence[Overlay]) -> Document:
    """Return the document that `problem` of the combined data is in: the file, or an option."""
    for overlay in reversed(overlays):
        if problem.path[: len(overlay.path)] == overlay.path:
            return overlay.document
    if problem.path in document.marks:
        return document
    makers = [overlay.document for overlay in overlays if problem.path in overlay.document.marks]
    return makers[0] if makers else document  # who made the mapping that the problem is in


def _apply(data: Any, text: str) -> tuple[Overlay, list[Problem]]:
    file = f"--set {printable(text)}"
    keys, columns, end = _steps(text)
    if not keys or text[end : end + 1] != "=":
        message = "expected PATH=VALUE, such as train.epochs=5"
        problem = Problem((), message, at=(1, end + 1))
        return Overlay((), Document(None, file, text, {})), [problem]
    # Blanks in place of the path give the value the columns that it has in the whole text.
    value, problems = parse(" " * (end + 1) + text[end + 1 :], file=file)
    path, unusable = _set(data, keys, value.data) if not problems else (keys, None)
    overlay = Overlay(path, Document(value.data, file, text, _marks(path, columns, end, value)))
    inside = [Problem((*path, *p.path), p.message, p.hint, p.key, p.at) for p in problems]
    return overlay, [*inside, *([unusable] if unusable else [])]


def _steps(text: str) -> tuple[Keys, list[int], int]:
    """Return the path that `text` starts with, the column of each key, and where it ends."""
    keys: list[str | int] = []
    columns: list[int] = []
    end = 0
    while match := _STEP.match(text, end):
        keys.append(match["bare"] or match["quoted"] or int(match["index"]))
        columns.append(end + 1)
        end = match.end()
        if text[end : end + 1] == ".":
            end += 1
        elif text[end : end + 1] != "[":
            return tuple(keys), columns, end
    return (), [], end


def _marks(
    path: Keys, columns: Sequence[int], end: int, value: Document
) -> dict[Keys, tuple[Mark, Mark]]:
    marks: dict[Keys, tuple[Mark, Mark]] = {(): ((1, 1), (1, 1))}
    for count, column in enumerate(columns, start=1):
        marks[path[:count]] = ((1, column), (1, column))
    marks |= {(*path, *inner): places for inner, places in value.marks.items()}
    start = value.position(()) if () in value.marks else (1, end + 2)
    marks[path] = ((1, columns[-1]), start)
    return marks


def _set(data: Any, keys: Keys, value: Any) -> tuple[Keys, Problem | None]:
    """Set `value` in `data`, making mappings on the way where there is nothing yet.

    Returns the path with its indices as numbers, and the problem if it leads nowhere.
    """
    here = data
    path: Keys = ()
    for key in keys[:-1]:
        problem = _unusable(here, key, path)
        if problem is not None:
            return keys, problem
        key = _as_index(here, key)
        if isinstance(here, dict) and here.get(key) is None:
            here[key] = {}
        here, path = here[key], (*path, key)
    problem = _unusable(here, keys[-1], path)
    if problem is not None:
        return keys, problem
    last = _as_index(here, keys[-1])
    here[last] = value
    return (*path, last), None


def _as_index(here: Any, key: str | int) -> Any:
    return int(key) if isinstance(here, list) else str(key)


def _unusable(here: Any, key: str | int, path: Keys) -> Problem | None:
    """Return the problem with `key` in the value `here` at `path`, if there is one."""
    where = f"'{dotted(path)}'"
    if isinstance(here, dict):
        return None
    if not isinstance(here, list):
        message = f"{where} is {found(here)} and has no keys"
        return Problem((*path, key), message, f"set {where} as a whole", key=True)
    if str(key).isdecimal() and int(key) < len(here):
        return None
    size = f"{len(here)} entries" if len(here) != 1 else "one entry"
    message = f"{where} is a list of {size}, counted from 0"
    return Problem((*path, key), message, key=True)
