"""pydantic's errors in plain words: what was found, what was wanted, and what to write instead."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from mergekit_perm.errors import suggest
from mergekit_perm.spec import merge_models, models, sweep_models
from mergekit_perm.spec.alignment import (
    ALIGNMENT_TAGS,
    ALIGNMENTS,
    AlignSpec,
    method_meant,
    methods_with,
    options_of,
)
from mergekit_perm.spec.fields import UNION_TAGS
from mergekit_perm.spec.methods import REFUSED_KEYS
from mergekit_perm.spec.recipes import RECIPES
from mergekit_perm.spec.run_spec import FORMAT, RunSpec
from mergekit_perm.yaml_document import Keys, Problem, dump, plain_scalar

# Every mapping with known keys, by where it stands; `*` is a name or an index.
SECTIONS: Mapping[Keys, type[models.Section]] = {
    (): RunSpec,
    ("data",): models.DataSpec,
    ("networks", "*"): models.NetworkSpec,
    ("networks", "*", "train"): models.NetworkTrain,
    ("networks", "*", "train", "augment"): models.AugmentSpec,
    ("networks", "*", "prune"): models.PruneSpec,
    ("prune",): models.PruneSpec,
    ("train",): models.TrainSpec,
    ("train", "augment"): models.AugmentSpec,
    ("align",): AlignSpec,  # and the options of its method
    ("missing", "*"): merge_models.MissingSpec,
    ("merge", "*"): merge_models.MergeSpec,
    ("merge", "*", "parameters"): merge_models.MergeParameters,
    ("evaluate",): models.EvaluateSpec,
    ("evaluate", "simplex"): models.SimplexSpec,
    ("evaluate", "matrix"): models.MatrixSpec,
    ("evaluate", "composition"): models.CompositionSpec,
    ("evaluate", "mask_transport"): models.MaskTransportSpec,
    ("gates", "*"): models.GateSpec,
    ("sweep",): sweep_models.SweepSpec,
    ("sweep", "claims", "*"): sweep_models.ClaimSpec,
    ("sweep", "claims", "*", "value"): sweep_models.HeightSpec,
    ("sweep", "claims", "*", "at_most"): sweep_models.BoundSpec,
    ("sweep", "claims", "*", "at_most", "of"): sweep_models.HeightSpec,
    ("sweep", "claims", "*", "at_least"): sweep_models.BoundSpec,
    ("sweep", "claims", "*", "at_least", "of"): sweep_models.HeightSpec,
}

# What to write for a field that has no default.
EXAMPLES: Mapping[str, str] = {
    "format": f"format: {FORMAT}",
    "name": "name: first_try",
    "networks": "networks: {a: {train: {seed: 0}}, b: {train: {seed: 1}}}",
    "seed": "seed: 0",
    "policy": "policy: keep",
    "levels": "levels: 12",
    "text": "text: aligned barriers are under a tenth of the naive ones",
    "value": "value: {figure: pair}",
    "times": "times: 0.1",
    "source": "source: digits",
    "method": "method: linear",
    "grid": "grid: 6",
    "barrier": "barrier: simplex",
    "metric": "metric: loss",
    "split": "split: test",
    "at_most": "at_most: 0.05",
}

_WANTED: Mapping[str, str] = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
}

_BOUNDS: Mapping[str, str] = {
    "greater_than_equal": "of at least",
    "greater_than": "above",
    "less_than": "below",
}


def schema_problems(error: ValidationError) -> list[Problem]:
    """Return the problems in `error`, which pydantic raised for the data of a run spec."""
    details = error.errors(include_url=False)
    failed = [_path(detail["loc"]) for detail in details]
    meant = {
        (*path[:-1], guess(str(path[-1]), _fields(detail["loc"])))
        for path, detail in zip(failed, details, strict=True)
        if detail["type"] == "extra_forbidden"
    }
    return [
        _problem(path, detail)
        for path, detail in zip(failed, details, strict=True)
        if not (detail["type"] == "too_short" and _has_failed_item(path, failed))
        and not (detail["type"] == "missing" and path in meant)  # it is there, but misspelt
    ]


def not_finite(data: Any, path: Keys = ()) -> Iterator[Problem]:
    """Yield a problem for every infinity and every NaN in `data`."""
    if isinstance(data, float) and not math.isfinite(data):
        yield Problem(path, f"expected a finite number, found {found(data)}")
    elif isinstance(data, Mapping):
        for key, value in data.items():
            yield from not_finite(value, (*path, key))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from not_finite(value, (*path, index))


def found(value: Any) -> str:
    """Return a few words for `value`, as a message says them after ``found``."""
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return f"the text '{value if len(value) <= 40 else value[:40] + '…'}'"
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "an empty list"
    if isinstance(value, dict):
        return "a mapping"
    return dump(value).strip()


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return ``"did you mean 'x'?"`` for the name nearest to `name`, or None."""
    return suggest(name, known).strip(" ()") or None


def guess(name: str, known: Iterable[str]) -> str | None:
    """Return the name nearest to `name`, as `nearest` suggests it, or None."""
    hint = nearest(name, known)
    return hint and hint.removeprefix("did you mean '").removesuffix("'?")


def _listing(known: Sequence[str]) -> str:
    *most, last = known
    return f"one of {', '.join(most)} or {last}" if most else last


def _path(location: Sequence[str | int]) -> Keys:
    return tuple(key for key in location if key not in UNION_TAGS | ALIGNMENT_TAGS)


def _has_failed_item(path: Keys, failed: Sequence[Keys]) -> bool:
    # pydantic counts the items that passed, so that one failed item makes a list "too short".
    return any(len(other) > len(path) and other[: len(path)] == path for other in failed)


def _problem(path: Keys, detail: Any) -> Problem:
    if path and path[-1] == "[key]":
        return Problem(path[:-1], _message(detail), key=True)
    if detail["type"] == "missing":
        name = str(path[-1])
        hint = f"add it, for example: {EXAMPLES[name]}"
        return Problem(path[:-1], f"the field '{name}' is missing", hint, key=True)
    if detail["type"] == "extra_forbidden":
        return _unknown_key(path, detail["loc"])
    on_key = detail["type"] == "refused" and isinstance(detail["input"], dict)
    return Problem(path, _message(detail), _hint(detail), key=on_key)


def _message(detail: Any) -> str:
    kind, context, value = detail["type"], detail.get("ctx", {}), detail["input"]
    if kind == "refused":
        return str(context["message"])
    if kind == "one_of" and context["note"]:
        return f"'{value}' {context['note']}; expected {_listing(context['known'])}"
    if kind in _BOUNDS:
        (limit,) = context.values()
        bound = f"{_BOUNDS[kind]} {limit:g}" if limit < 1e6 else f"{_BOUNDS[kind]} {limit}"
        return f"expected a number {bound}, found {found(value)}"
    if kind == "too_short":
        return "expected at least one entry, found none"
    if kind == "string_too_short":
        return "expected text, found an empty text"
    return f"expected {_wanted(kind, detail)}, found {found(value)}"


def _wanted(kind: str, detail: Any) -> str:
    if kind in ("one_of", "literal_error"):
        return _listing(_choices(detail))
    if kind == "expected":
        return str(detail["msg"])
    # A kind that no model can raise today is passed on rather than hidden.
    return _WANTED.get(kind, f"something else ({detail['msg']})")


def _choices(detail: Any) -> list[str]:
    context = detail["ctx"]
    return list(context["known"]) if "known" in context else _quoted(context["expected"])


def _quoted(text: str) -> list[str]:
    return re.findall(r"'([^']*)'", text)


def _hint(detail: Any) -> str | None:
    kind, value = detail["type"], detail["input"]
    if kind == "refused":
        return str(detail["ctx"]["hint"]) or None
    if kind in ("one_of", "literal_error") and isinstance(value, str):
        return nearest(value, _choices(detail))
    if kind == "string_type" and isinstance(value, bool | int | float):
        return f"put quotes around it: '{found(value)}'"
    if kind == "tuple_type" and isinstance(value, str | int | float):
        return f"write [{dump(value, flow=True).strip()}]"
    if kind == "bool_type" and isinstance(value, str):
        return bool_hint(value)
    if kind in ("int_type", "float_type"):
        return number_hint(value, whole=kind == "int_type")
    return None


def bool_hint(text: str) -> str | None:
    """Return which of true and false `text` means, as a hint; None if neither."""
    words = {"yes": "true", "on": "true", "true": "true"}
    words |= {"no": "false", "off": "false", "false": "false"}
    word = words.get(text.lower())
    return f"write {word}" if word else None


def number_hint(value: Any, *, whole: bool) -> str | None:
    """Return the number that `value` means, as a hint; None if it means none."""
    if isinstance(value, str):  # quoted, or with the underscores of YAML 1.1
        value = plain_scalar(value.strip().replace("_", ""))
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if whole and isinstance(value, float):
        return f"write {int(value)}" if value.is_integer() else None
    return f"write {found(value)}"


def _unknown_key(path: Keys, location: Sequence[str | int]) -> Problem:
    key, fields = str(path[-1]), _fields(location)
    if key in REFUSED_KEYS:
        return Problem(path, f"'{key}' is not provided here", REFUSED_KEYS[key], key=True)
    method = method_meant(location)
    if method is not None and methods_with(key):
        return _option_of_another_method(path, key, method)
    elsewhere = _homes(key)
    hint = (
        nearest(key, fields)
        or (f"'{key}' is a key of {' and of '.join(elsewhere)}" if elsewhere else None)
        or f"known keys here: {', '.join(fields)}"
    )
    return Problem(path, f"unknown key '{key}'", hint, key=True)


def _option_of_another_method(path: Keys, key: str, method: str) -> Problem:
    others = methods_with(key)
    *most, last = others
    have = f"{', '.join(most)} and {last} have" if most else f"{last} has"
    near = suggest(key, options_of(method), cutoff=0.75).strip(" ()")
    hint = near or f"write method: {others[0]}, or remove it"
    return Problem(path, f"{method} has no option '{key}'; {have}", hint, key=True)


def _homes(key: str) -> list[str]:
    """Return the sections that have `key`."""
    methods = methods_with(key)
    homes = []
    for place, section in SECTIONS.items():
        if place and key in section.model_fields:
            homes.append(_section_name(place))
        elif section is AlignSpec and methods:
            every = len(methods) == len(ALIGNMENTS)
            homes.append("align" if every else f"align with method {' or '.join(methods)}")
        elif section is merge_models.MergeParameters and any(
            key in r.options for r in RECIPES.values()
        ):
            homes.append("merge[].parameters")
    return homes


def _fields(location: Sequence[str | int]) -> list[str]:
    """Return the keys that are known where the last of `location` stands."""
    method = method_meant(location)
    section = SECTIONS[_pattern(_path(location)[:-1])] if method is None else ALIGNMENTS[method]
    return list(section.model_fields)


def _pattern(path: Keys) -> Keys:
    """Return `path` with the name or index of an entry as `*`."""
    repeated = len(path) > 1 and path[0] in ("networks", "merge", "gates")
    return (path[0], "*", *path[2:]) if repeated else path


def _section_name(pattern: Keys) -> str:
    entry = "NAME" if pattern[0] == "networks" else "[]"
    return ".".join(entry if key == "*" else str(key) for key in pattern).replace(".[]", "[]")
