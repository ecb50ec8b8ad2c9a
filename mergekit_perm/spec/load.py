"""YAML text to a `RunSpec`, or to one error that names everything wrong with it."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mergekit_perm.errors import SpecError
from mergekit_perm.spec.cross_checks import cross_problems
from mergekit_perm.spec.methods import MERGEKIT_KEYS
from mergekit_perm.spec.overrides import Finding, Overlay, apply, home
from mergekit_perm.spec.parts import sound_parts, with_method
from mergekit_perm.spec.problems import found, not_finite, schema_problems
from mergekit_perm.spec.run_spec import FORMAT, RunSpec
from mergekit_perm.yaml_document import (
    MAX_BYTES,
    Document,
    Problem,
    counted,
    decoded,
    file_text,
    parse,
    render_all,
)

STDIN = "<stdin>"
"""What standard input is called in messages."""


def load(path: Path | str, *, overrides: Sequence[str] = ()) -> RunSpec:
    """Read the run spec in file `path`; ``-`` is standard input.

    Args:
        path: the file; relative paths in the spec start from its folder.
        overrides: values over those of the file, each ``PATH=VALUE``, such as ``train.epochs=5``
            or ``gates[0].at_most=0.1``; the value is YAML.

    Raises:
        SpecError: everything wrong with the file and the overrides, each with its place.
    """
    text, file, folder = read(path)
    return loads(text, file=file, folder=folder, overrides=overrides)


def read(path: Path | str) -> tuple[str, str, Path]:
    """Return the text of file `path`, its name in messages, and where relative paths start.

    ``-`` is standard input.
    """
    if str(path) == "-":
        return decoded(sys.stdin.buffer.read(MAX_BYTES + 1), file=STDIN), STDIN, Path()
    path = Path(path)
    return file_text(path), str(path), path.parent


def loads(
    text: str,
    *,
    file: str = "<string>",
    folder: Path | None = None,
    overrides: Sequence[str] = (),
) -> RunSpec:
    """Read the run spec in `text`.

    Args:
        text: YAML.
        file: its name in messages.
        folder: where relative paths start; the current folder if None.
        overrides: as for `load`.

    Raises:
        SpecError: as `load`.
    """
    folder = Path() if folder is None else folder
    document, problems = parse(text, file=file)
    text = document.text
    findings: list[Finding] = [(document, problem) for problem in problems]
    wrong = _wrong_kind(document.data, file) if not problems or document.data else None
    if wrong is not None:
        findings.append((document, wrong))
    if not isinstance(document.data, dict) or wrong is not None:
        raise _error(findings)
    data, overlays, unset = apply(document.data, overrides)
    findings += unset
    spec, problems = checked(data, folder)
    findings += placed(problems, document, overlays, known=findings)
    if spec is None or findings:
        order = [text, *overrides]  # the file first, then the options as they were given
        raise _error(sorted(findings, key=lambda finding: order.index(finding[0].text)))
    return spec


def _wrong_kind(data: Any, file: str) -> Problem | None:
    """Return the problem of a file that is no run spec at all, with which checking ends."""
    if data is None:
        hint = f"a run spec starts with format: {FORMAT}"
        return Problem((), "the file is empty", hint)
    if not isinstance(data, dict):
        return Problem((), f"expected a mapping with the keys of a run spec, found {found(data)}")
    if data.get("format") == "perm-merge/permspec@1":
        message = "this is a permutation spec, not a run spec"
        return Problem(("format",), message, "check it with: perm-merge permspec verify FILE")
    if "merge_method" in data or ("format" not in data and data.keys() & {"models", "slices"}):
        return _mergekit(data, file)
    return None


def _mergekit(data: Mapping[str, Any], file: str) -> Problem:
    keys = [key for key in data if key in MERGEKIT_KEYS]
    first = "merge_method" if "merge_method" in keys else keys[0]
    named = "-" if file == STDIN else file
    return Problem(
        (first,),
        f"this is a file for mergekit, not a run spec; its keys: {', '.join(keys)}",
        f"make a run spec of it with: perm-merge convert {shlex.quote(named)} -o NEW.yaml",
        key=True,
    )


def checked(data: Mapping[str, Any], folder: Path) -> tuple[RunSpec | None, list[Problem]]:
    """Return the run spec that plain `data` makes, and every problem of it.

    Args:
        data: the mapping of a run spec.
        folder: where relative paths start.
    """
    problems = list(not_finite(data))
    data = with_method(data)
    spec = None
    try:
        spec = RunSpec.model_validate_json(json.dumps(data)).in_folder(folder)
    except ValidationError as error:
        reported = {problem.path for problem in problems}
        problems += [found for found in schema_problems(error) if found.path not in reported]
    return spec, problems + cross_problems(sound_parts(data, folder))


def placed(
    problems: Sequence[Problem],
    document: Document,
    overlays: Sequence[Overlay],
    *,
    known: Sequence[Finding],
) -> list[Finding]:
    """Return `problems` with their documents, without those of a value that is known as bad."""
    bad = {(id(where), problem.path) for where, problem in known}
    placed = [(home(problem, document, overlays), problem) for problem in problems]
    return [finding for finding in placed if (id(finding[0]), finding[1].path) not in bad]


def _error(findings: Sequence[Finding]) -> SpecError:
    files = ", ".join(dict.fromkeys(document.file for document, _ in findings))
    footer = f"{counted(findings)} in {files}; nothing was run."
    return SpecError(render_all(findings, footer=footer))
