"""Files written for mergekit, turned into run specs; what has no counterpart is refused by name."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from mergekit_perm.errors import SpecError
from mergekit_perm.mergekit import MERGEKIT_METHODS
from mergekit_perm.spec.fields import Dtype
from mergekit_perm.spec.load import checked
from mergekit_perm.spec.mergekit_models import Model, read_model, unknown_key
from mergekit_perm.spec.mergekit_parameters import Parameters, read_parameters
from mergekit_perm.spec.methods import MERGEKIT_KEYS
from mergekit_perm.spec.network_names import network_names
from mergekit_perm.spec.problems import found, guess, nearest, not_finite
from mergekit_perm.spec.recipes import RECIPES
from mergekit_perm.spec.run_spec import FORMAT
from mergekit_perm.yaml_document import (
    Document,
    Keys,
    Problem,
    counted,
    dotted,
    parse,
    printable,
    render,
)

_KEYS = ("name", "merge_method", "models", "base_model", "parameters", "dtype", "out_dtype")
_WHOLE = "if a slice is all of its models, list them under 'models'"
# What is wrong by itself, whatever else is.
_SURE = re.compile("^(unknown key|expected )| has no parameter ")
_WITHOUT_BASE = ("linear", "karcher", "passthrough")


@dataclass(frozen=True, slots=True)
class Conversion:
    """A run spec made from a mergekit file.

    Attributes:
        data: of the run spec; relative paths start from the current folder.
        notes: what is different or left out, each a line with its place in the file.
    """

    data: dict[str, Any]
    notes: tuple[str, ...]


def convert(
    text: str,
    *,
    file: str,
    folder: Path,
    name: str,
    align: bool = True,
    provided: Collection[str] = tuple(RECIPES),
) -> Conversion:
    """Return the run spec that does what the mergekit file `text` describes.

    Its architecture is not among it, as mergekit files do not say it.

    Args:
        text: YAML.
        file: its name in messages.
        folder: the file's; checkpoints are looked for there and in the current folder.
        name: of the run, if the file has none.
        align: whether networks are aligned before they are merged.
        provided: the methods that there are.

    Raises:
        SpecError: everything in the file that cannot be carried over, each with its place.
    """
    document, problems = parse(text, file=file)
    problems = [_in_one_file(problem) for problem in problems]
    problems += _wrong_kind(document.data) if not problems or document.data else []
    reading = _Reading(document, folder, problems)
    if isinstance(document.data, dict) and "merge_method" in document.data:
        reading.read(name=name, align=align, provided=provided)
    if reading.problems:
        found_here = list(dict.fromkeys(reading.problems))
        footer = f"{counted(found_here)} in {document.file}; nothing was converted."
        raise SpecError(render(document, found_here, footer=footer))
    notes = sorted(reading.notes, key=lambda note: document.position(note[0], key=True))
    return Conversion(reading.data, tuple(map(reading.worded, notes)))


def _in_one_file(problem: Problem) -> Problem:
    if not problem.message.startswith("a second document starts here"):
        return problem
    message = "a second document starts here; the stages of mergekit-multi are not provided here"
    return replace(
        problem, message=message, hint="put each document in a file of its own and convert these"
    )


def _wrong_kind(data: Any) -> list[Problem]:
    """Return the problem of what is no mergekit file."""
    if data is None:
        return [Problem((), "the file is empty")]
    if not isinstance(data, dict):
        return [
            Problem((), f"expected a mapping with merge_method and models, found {found(data)}")
        ]
    if str(data.get("format")).startswith("perm-merge/"):
        return [Problem(("format",), f"this is no mergekit file, but {data['format']} already")]
    if "merge_method" not in data:
        unknown = _unknown_keys(data)
        if any(guess(key, _KEYS) == "merge_method" for key in data):
            return unknown
        hint = "a mergekit file says, for example: merge_method: linear"
        return [Problem((), "the key 'merge_method' is missing", hint, key=True), *unknown]
    return []


def _unknown_keys(data: Mapping[str, Any]) -> list[Problem]:
    problems = [unknown_key((key,), _KEYS) for key in data if key not in _KEYS]
    return [
        replace(problem, hint=f"{problem.hint}; {_WHOLE}")
        if problem.path == ("slices",)
        else problem
        for problem in problems
    ]


def _dtype(value: Any) -> Any:
    """Return a dtype as a run spec has it: mergekit has ``torch.float16`` too, and "" for none."""
    return value.removeprefix("torch.") or None if isinstance(value, str) else value


class _Reading:
    """One file on its way to a run spec: what is wrong, what is noted, where each part is from."""

    def __init__(self, document: Document, folder: Path, problems: list[Problem]) -> None:
        self.document = document
        self.given: Any = document.data
        self.folder = folder
        self.problems = problems
        self.notes: list[tuple[Keys, str]] = []
        self.data: dict[str, Any] = {}

    def worded(self, note: tuple[Keys, str]) -> str:
        """Return a note with its place."""
        path, text = note
        line, column = self.document.position(path, key=True)
        return printable(f"{self.document.file}:{line}:{column}: {dotted(path)}: {text}")

    def read(self, *, name: str, align: bool, provided: Collection[str]) -> None:
        """Fill `data`, `problems` and `notes`."""
        self.problems += not_finite(self.given)
        self.problems += _unknown_keys(self.given)
        method = self._method(provided)
        models, base = self._models(method)
        parameters = self._parameters(method, models, base)
        self.data = {"format": FORMAT, "name": self.given.get("name") or name}
        self.data["networks"] = {n: {"checkpoint": m.reference} for n, m in models.items()}
        if align and len(models) > 1:
            self.data["align"] = {"reference": "joint"}
        recipe: dict[str, Any] = {"name": method, "method": method}
        recipe |= {} if base is None else {"base_model": base}
        recipe |= self._dtypes()
        recipe |= {"parameters": parameters.values} if parameters.values else {}
        self.data["merge"] = [recipe]
        self._check(models, parameters)

    def _method(self, provided: Collection[str]) -> str:
        method = self.given["merge_method"]
        if method in provided:
            return str(method)
        listed = f"provided here: {', '.join(provided)}"
        if not isinstance(method, str):
            self._problem(("merge_method",), f"expected a method, found {found(method)}", listed)
        elif method in MERGEKIT_METHODS:
            message = f"'{method}' is known to mergekit, not provided here"
            self._problem(("merge_method",), message, listed)
        else:
            hint = nearest(method, [*provided, *MERGEKIT_METHODS]) or listed
            self._problem(("merge_method",), f"unknown method '{method}'", hint)
        return str(method)

    def _problem(self, path: Keys, message: str, hint: str | None = None) -> None:
        self.problems.append(Problem(path, message, hint))

    # ------------------------------------------------------------------------------ models

    def _models(self, method: str) -> tuple[dict[str, Model], str | None]:
        """Return the models by name, the base among them, and that of the base."""
        models = self._listed()
        base = self._base(method, models)
        if base is not None and all(model is not base for model in models):
            models = [base, *models]
        self.notes += [
            (model.path, f"no file or folder '{model.text}' here, so it is taken from the hub")
            for model in models
            if model.supposed
        ]
        names = network_names([model.reference for model in models])
        named = dict(zip(names, models, strict=True))
        return named, next((name for name, model in named.items() if model is base), None)

    def _listed(self) -> list[Model]:
        """Return the entries of `models` that can be read."""
        entries = self.given.get("models")
        if not isinstance(entries, list) or not entries:
            if entries is not None or not {"slices", "modules"} & self.given.keys():
                self._problem(("models",), f"expected a list of models, found {found(entries)}")
            return []
        read = [
            read_model(entry, ("models", index), self.folder, self.problems)
            for index, entry in enumerate(entries)
        ]
        return [model for model in read if model is not None]

    def _base(self, method: str, models: list[Model]) -> Model | None:
        """Return the base model, one of `models` if it is there, where the method uses one."""
        given = self.given.get("base_model")
        path: Keys = ("base_model",)
        if given is None:
            return None
        base = read_model(given, path, self.folder, self.problems, entry=False)
        if base is None:
            return None
        same = next((model for model in models if model.reference == base.reference), None)
        if method not in _WITHOUT_BASE:
            return same or base
        if same is not None:
            self.notes.append((path, f"left out: {method} uses no base model"))
        elif models:
            message = (
                f"{method} uses no base model; mergekit would merge this one as one more model, "
                "without saying so"
            )
            self._problem(path, message, "list it under 'models' if that is meant, or remove it")
        return None

    # -------------------------------------------------------------------------- parameters

    def _parameters(self, method: str, models: dict[str, Model], base: str | None) -> Parameters:
        overall = self.given.get("parameters")
        overall = {} if overall is None else overall
        if not isinstance(overall, dict):
            self._problem(("parameters",), f"expected a mapping, found {found(overall)}")
            overall = {}
        parameters = read_parameters(method, overall, models, base)
        self.problems += parameters.problems
        self.notes += parameters.notes
        return parameters

    def _dtypes(self) -> dict[str, Any]:
        """Return the dtype that is written: ``out_dtype``, or else ``dtype`` as for mergekit."""
        computed, written = (_dtype(self.given.get(key)) for key in ("dtype", "out_dtype"))
        if computed is not None:
            effect = "written in it" if written is None else f"'out_dtype: {written}' is written"
            self.notes.append((("dtype",), f"{effect}; sums are taken in float64 here"))
        known = get_args(Dtype)
        if computed is not None and written is not None and computed not in known:
            # What is written is checked with the run spec; this one is in none.
            listed = f"{', '.join(known[:-1])} or {known[-1]}"
            hint = nearest(computed, known) if isinstance(computed, str) else None
            self._problem(("dtype",), f"expected one of {listed}, found {found(computed)}", hint)
        dtype = computed if written is None else written
        return {} if dtype is None else {"out_dtype": dtype}

    # ---------------------------------------------------------------------------- checking

    def _check(self, models: Mapping[str, Model], parameters: Parameters) -> None:
        """Add what is wrong with the run spec that came out, at its place in the file."""
        # Without some of the models, what is said of the rest as a whole may be wrong.
        broken = bool(self.problems)
        made = {"architecture": "unknown yet", **self.data}
        if self.given["merge_method"] not in tuple(RECIPES):
            del made["merge"]
        for problem in checked(made, Path())[1]:
            if problem.path == ("networks",):  # that there are none is known
                continue
            origin = self._origin(problem.path, models, parameters)
            if problem.path[-1:] == ("checkpoint",):
                self.notes.append((origin, problem.message))
            elif not broken or _SURE.search(problem.message):
                self.problems.append(replace(problem, path=origin))

    def _origin(self, path: Keys, models: Mapping[str, Model], parameters: Parameters) -> Keys:
        """Return where in the file that came from which is at `path` of the run spec."""
        if path[:1] == ("networks",) and path[1:2] and path[1] in models:
            return models[str(path[1])].path
        for end in range(len(path), 3, -1):
            if path[:3] == ("merge", 0, "parameters") and path[3:end] in parameters.origins:
                return (*parameters.origins[path[3:end]], *path[end:])
        keys: dict[Keys, Keys] = {("merge", 0, key): (key,) for key in MERGEKIT_KEYS}
        keys |= {("name",): ("name",), ("align",): ("models",)}
        if self.given.get("out_dtype") is None:
            keys["merge", 0, "out_dtype"] = ("dtype",)
        return keys.get(path[:3], keys.get(path[:1], ("merge_method",)))
