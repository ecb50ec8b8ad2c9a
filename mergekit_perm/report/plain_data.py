"""Frozen records as plain data that JSON can hold, and back.

JSON has no infinities, so they and NaN are written as the strings "inf", "-inf" and "nan".
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from mergekit_perm.errors import RunError


def plain(value: Any) -> Any:
    """Return `value` with tuples as lists and what JSON has no number for as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value


def read(kind: Any, value: Any, place: str) -> Any:
    """Return `value` as an instance of the annotation `kind`."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _read_fields(kind, value, place)
    if origin is Literal:
        return _expect(value in arguments, value, place, " or ".join(map(repr, arguments)))
    if origin in (typing.Union, types.UnionType):
        return None if value is None else read(arguments[0], value, place)
    if origin is tuple:
        _expect(isinstance(value, list | tuple), value, place, "a list")
        return tuple(read(arguments[0], item, f"{place}[{i}]") for i, item in enumerate(value))
    if origin is Mapping:
        _expect(isinstance(value, Mapping), value, place, "a mapping")
        return {key: read(arguments[1], item, f"{place}.{key}") for key, item in value.items()}
    if kind is float:
        if value in ("inf", "-inf", "nan"):
            return float(value)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return _float(_expect(number, value, place, "a number"), place)
    matches = isinstance(value, kind) and not (kind is int and isinstance(value, bool))
    return _expect(matches, value, place, f"a value of type {getattr(kind, '__name__', kind)}")


def _read_fields(kind: Any, value: Any, place: str) -> Any:
    _expect(isinstance(value, Mapping), value, place, "a mapping")
    hints = typing.get_type_hints(kind)
    optional = {
        each.name
        for each in dataclasses.fields(kind)
        if (each.default, each.default_factory) != (dataclasses.MISSING, dataclasses.MISSING)
    }
    missing = hints.keys() - value.keys() - optional
    if missing:
        raise RunError(f"{place}: '{sorted(missing)[0]}' is missing")
    return kind(
        **{
            name: read(hints[name], value[name], f"{place}.{name}")
            for name in hints.keys() & value.keys()
        }
    )


def _float(value: float, place: str) -> float:
    try:
        return float(value)
    except OverflowError as error:
        raise RunError(f"{place}: expected a number of at most 1.8e308, found a larger") from error


def _expect(good: bool, value: Any, place: str, wanted: str) -> Any:
    if not good:
        raise RunError(f"{place}: expected {wanted}, found {value!r}")
    return value
