"""The run spec that the arguments of `perm-merge merge` ask for, and which argument is wrong."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mergekit_perm.cli.shared import pairs
from mergekit_perm.errors import SpecError
from mergekit_perm.yaml_document import (
    Document,
    Keys,
    Problem,
    counted,
    dotted,
    printable,
    render_all,
)

# What cross-checks advise to write in a file, in terms of this command.
_IN_FLAGS = {
    "add, for example: data: digits": "add --data, for example --data digits",
    "add align: {}": "leave out --no-align",
    "write method: ": "write --align-method ",
    "relative paths start from '.'": "",
}
_SCHEMES = ("hf-hub:", "hf_hub:")


@dataclass(frozen=True, slots=True)
class Arguments:
    """What was typed.

    Attributes:
        checkpoints: references, as a run spec takes them.
        names: of the networks, in the same order.
        method: of merging.
        base_model, reference: a network, by name or by the reference that was typed.
        align: whether to align.
        align_method: None is what a run spec without one means.
        data: a data set, or None.
        parameters: of the recipe, each ``KEY=VALUE`` or ``KEY.NETWORK=VALUE``.
        overrides: each ``PATH=VALUE``, of the run spec.
    """

    checkpoints: Sequence[str]
    names: Sequence[str]
    method: str
    base_model: str | None = None
    reference: str = "joint"
    align: bool = True
    align_method: str | None = None
    data: str | None = None
    parameters: Sequence[str] = ()
    overrides: Sequence[str] = ()

    def named(self, text: str) -> str:
        """Return the name of the network that `text` names, by itself or by its reference."""
        known = dict(zip(self.checkpoints, self.names, strict=True))
        return known.get(text, text)


@dataclass(slots=True)
class Request:
    """The data of a run spec, and the argument that each part of it comes from."""

    data: dict[str, Any]
    places: dict[Keys, str] = field(default_factory=dict)


def request(given: Arguments, *, name: str) -> Request:
    """Return the run spec that `given` asks for, without its architecture and the overrides.

    Args:
        given: the arguments.
        name: of the run.
    """
    merging: dict[str, Any] = {"name": re.sub(r"\W+", "-", given.method).strip("-_") or "merged"}
    merging["method"] = given.method
    made = Request({"format": "perm-merge/run@1", "name": name, "networks": {}, "merge": [merging]})
    made.places["merge", 0] = made.places["merge", 0, "method"] = f"--method {given.method}"
    for network, reference in zip(given.names, given.checkpoints, strict=True):
        made.data["networks"][network] = {"checkpoint": reference}
        made.places["networks", network] = reference
        made.places["networks", network, "checkpoint"] = reference
    if given.base_model is not None:
        merging["base_model"] = given.named(given.base_model)
        made.places["merge", 0, "base_model"] = f"--base-model {given.base_model}"
    _add_parameters(made, given.parameters)
    if given.align:
        _add_alignment(made, given)
    if given.data is not None:
        made.data |= {"data": {"source": given.data}, "evaluate": {}}
        made.places |= dict.fromkeys([("data",), ("evaluate",)], f"--data {given.data}")
    return made


def _add_alignment(made: Request, given: Arguments) -> None:
    made.data["align"] = {"reference": given.named(given.reference)}
    made.places["align",] = "perm-merge merge"
    made.places["align", "reference"] = f"--reference {given.reference}"
    if given.align_method is not None:
        made.data["align"]["method"] = given.align_method
        for key in ("method", "objective"):
            made.places["align", key] = f"--align-method {given.align_method}"


def _add_parameters(made: Request, texts: Sequence[str]) -> None:
    parameters: dict[str, Any] = {}
    for text in texts:
        ((path, value),) = pairs([text], flag="--parameter").items()
        key, dot, network = path.partition(".")
        place: Keys = ("merge", 0, "parameters", key)
        if dot:
            if not isinstance(parameters.setdefault(key, {}), dict):
                before = made.places[place]
                raise SpecError(f"--parameter {text}: '{before}' is for all networks already")
            parameters[key][network] = value
            made.places[(*place, network)] = f"--parameter {text}"
        else:
            parameters[key] = value
        made.places.setdefault(place, f"--parameter {text}")
    if parameters:
        made.data["merge"][0]["parameters"] = parameters


# ---------------------------------------------------------------------------- checking


def checked_data(made: Request, overrides: Sequence[str]) -> dict[str, Any]:
    """Return the data of `made` with `overrides` over it; relative paths are from here.

    Raises:
        SpecError: everything wrong with it, each with the argument that is to blame.
    """
    from mergekit_perm.spec.load import checked, placed
    from mergekit_perm.spec.overrides import apply

    data, overlays, unset = apply(made.data, overrides)
    nowhere = Document(made.data, "perm-merge merge", "", {})
    # Which architecture it is may be found out later.
    whole = {"architecture": "unknown yet", **data}
    problems = checked(whole, Path())[1] if not unset else []
    findings = [*unset, *placed(problems, nowhere, overlays, known=unset)]
    if findings:
        shown = [
            _worded(problem, made.places)
            if document is nowhere
            else render_all([(document, problem)], footer="").rstrip()
            for document, problem in _in_flags(findings)
        ]
        end = f"{counted(shown)} with the arguments of perm-merge merge; nothing was run."
        raise SpecError("\n\n".join([*shown, end]))
    return dict(data)


def _worded(problem: Problem, places: Mapping[Keys, str]) -> str:
    """Return `problem` with the argument that it is about."""
    known = [problem.path[:end] for end in range(len(problem.path), 0, -1)]
    path = next((path for path in known if path in places), ())
    argument = places.get(path, "perm-merge merge")
    inner = dotted(problem.path[len(path) :])
    where = f"{inner}: " if inner and path else ""
    message = printable(f"{argument}: {where}{problem.message}")
    return message + (f"\n    = {printable(problem.hint)}" if problem.hint else "")


def _in_flags(findings: Sequence[tuple[Document, Problem]]) -> Iterator[tuple[Document, Problem]]:
    """Yield `findings` with advice for this command, where it is for a file."""
    for document, problem in findings:
        hint = problem.hint or ""
        for written, flag in _IN_FLAGS.items():
            hint = hint.replace(written, flag)
        yield document, replace(problem, hint=hint or None)


# ------------------------------------------------------------------------------ moving


def moved(data: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return `data`, whose relative paths start from here, with paths that start from `folder`.

    Paths of what lies under the current folder, as `folder` does, stay relative, so that both can
    be moved together; all others become absolute.
    """
    networks = {name: _moved(network, folder) for name, network in data["networks"].items()}
    result = {**data, "networks": networks}
    align, source = data.get("align"), data.get("data")
    if isinstance(align, dict) and align.get("permutations", "auto") != "auto":
        result["align"] = {**align, "permutations": _path(align["permutations"], folder)}
    if isinstance(source, dict):
        result["data"] = dict(source)
        if str(source["source"]).startswith("folder:"):
            path = source["source"].removeprefix("folder:")
            if "root" not in source:
                result["data"]["source"] = f"folder:{_path(path, folder)}"
        if "root" in source:
            result["data"]["root"] = _path(source["root"], folder)
    if str(data.get("architecture")).startswith("local-dir:"):
        result["architecture"] = f"local-dir:{_absolute(data['architecture'][10:])}"
    return result


def _moved(network: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    changed = dict(network)
    for key in ("checkpoint", "checkpoints"):
        if isinstance(network.get(key), str) and not network[key].startswith(_SCHEMES):
            scheme = "local-dir:" if network[key].startswith("local-dir:") else ""
            changed[key] = scheme + _path(network[key].removeprefix(scheme), folder)
    return changed


def _path(text: str, folder: Path) -> str:
    here, there = Path.cwd().resolve(), folder.resolve()
    absolute = _absolute(text)
    if absolute.is_relative_to(here) and there.is_relative_to(here):
        return os.path.relpath(absolute, there)
    return str(absolute)


def _absolute(text: str) -> Path:
    # Not resolved: a link may be meant to point elsewhere later.
    return Path(os.path.abspath(Path(text).expanduser()))  # noqa: PTH100
