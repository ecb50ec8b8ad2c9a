"""The models of a mergekit file: what it refers to, in the words of a run spec."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergekit_perm.spec.methods import REFUSED_KEYS
from mergekit_perm.spec.network_names import ENDINGS
from mergekit_perm.spec.problems import found, guess, nearest
from mergekit_perm.yaml_document import Keys, Problem

MODEL_KEYS = ("model", "parameters")

_HUB = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]*/[\w.-]+)(@(?P<revision>[\w./-]+))?")
_SCHEMES = ("local-dir:", "hf-hub:")
_LORA = "networks are merged whole; merge the adapter into its model first"


@dataclass(frozen=True, slots=True)
class Model:
    """A model of a mergekit file.

    Attributes:
        path: of its reference in the file.
        reference: as a run spec takes it; relative paths start from the current folder.
        parameters: its own, as they are in the file.
        text: the reference as it is in the file.
    """

    path: Keys
    reference: str
    parameters: dict[str, Any]
    text: str

    @property
    def supposed(self) -> bool:
        """Whether it is taken for a repository of the hub because there is no such folder."""
        return self.reference == f"hf-hub:{self.text}"


def read_model(
    value: Any, path: Keys, folder: Path, problems: list[Problem], *, entry: bool = True
) -> Model | None:
    """Return the model that `value` at `path` is, or None after adding what is wrong with it.

    Args:
        value: a reference, or a mapping with `model` and `parameters`.
        path: where it is.
        folder: that of the file, where files are looked for that are not in the current folder.
        problems: those found are added.
        entry: whether it is an entry of `models`, and not `base_model`.
    """
    parameters: Any = {}
    if entry and isinstance(value, dict):
        problems += _keys(value, path)
        if "model" not in value:
            if not any(guess(key, MODEL_KEYS) == "model" for key in value):
                problems.append(Problem(path, "the key 'model' is missing"))
            return None
        parameters = value.get("parameters") or {}
        if not isinstance(parameters, dict):
            message = f"expected a mapping, found {found(parameters)}"
            problems.append(Problem((*path, "parameters"), message))
            parameters = {}
        value, path = value["model"], (*path, "model")
    text = _text(value, path, problems)
    return None if text is None else Model(path, reference_of(text, folder), parameters, text)


def _keys(value: dict[str, Any], path: Keys) -> Iterator[Problem]:
    for key in value:
        if key not in MODEL_KEYS:
            yield unknown_key((*path, key), MODEL_KEYS)


def unknown_key(path: Keys, known: tuple[str, ...]) -> Problem:
    """Return the problem of a key that mergekit has and we refuse, or that nobody knows."""
    key = str(path[-1])
    if key in REFUSED_KEYS and key not in known:
        return Problem(path, f"'{key}' is not provided here", REFUSED_KEYS[key], key=True)
    hint = nearest(key, known) or f"known keys here: {', '.join(known)}"
    return Problem(path, f"unknown key '{key}'", hint, key=True)


def _text(value: Any, path: Keys, problems: list[Problem]) -> str | None:
    """Return a reference as one text: ``path`` or ``path@revision``."""
    if isinstance(value, dict):
        return _from_mapping(value, path, problems)
    if not isinstance(value, str) or not value:
        problems.append(Problem(path, f"expected a path or org/name, found {found(value)}"))
        return None
    if "+" in value and not Path(value).exists():
        message = "references with a LoRA adapter (a+b) are not provided here"
        problems.append(Problem(path, message, _LORA))
        return None
    return value


def _from_mapping(value: dict[str, Any], path: Keys, problems: list[Problem]) -> str | None:
    """Return the reference in mergekit's long form: ``{model: {path: .., revision: ..}}``."""
    if value.get("lora") is not None:
        message = "models with a LoRA adapter are not provided here"
        problems.append(Problem((*path, "lora"), message, _LORA, key=True))
    inner = value.get("model", value)
    where: Keys = (*path, "model") if "model" in value else path
    known: tuple[str, ...] = ("model", "lora") if "model" in value else ("path", "revision")
    problems += [unknown_key((*path, key), known) for key in value if key not in (*known, "lora")]
    if not isinstance(inner, dict):
        return _text(inner, where, problems)
    if inner is not value:
        known = ("path", "revision")
        problems += [unknown_key((*where, key), known) for key in inner if key not in known]
    text = _text(inner.get("path"), (*where, "path"), problems)
    revision = inner.get("revision")
    return text if text is None or revision is None else f"{text}@{revision}"


def reference_of(text: str, folder: Path) -> str:
    """Return mergekit's reference `text` as a run spec writes it.

    What is there as a file or folder is that; mergekit looks in the current folder, and we look
    beside its file as well. ``org/name`` that is neither is a repository of the hub.
    """
    if text.startswith(_SCHEMES):
        return text
    given = Path(text).expanduser()
    for place in (given, folder / given):
        if _exists(place):
            shown = os.path.normpath(place)
            return f"local-dir:{shown}" if place.is_dir() else shown
    hub = _HUB.fullmatch(text)
    return f"hf-hub:{text}" if hub is not None and not text.endswith(ENDINGS) else text


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long, a folder that may not be entered
        return False
