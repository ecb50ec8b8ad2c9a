"""Checks of the options that solvers share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from mergekit_perm.errors import AlignmentError

# The least that whole numbers may be, and that other numbers may be.
_WHOLE: Mapping[str, int] = MappingProxyType(
    dict.fromkeys(("restarts", "batch_size", "patience", "iterations"), 1)
    | dict.fromkeys(("seed", "max_sweeps", "max_iterations", "cooling", "exchanges", "steps"), 0)
    | dict.fromkeys(("count", "rows"), 2)
)
_LEAST: Mapping[str, float] = MappingProxyType(
    dict.fromkeys(("tolerance", "max_seconds", "strength", "ratio"), 0)
)
# What is a number above 0.
_POSITIVE = ("learning_rate", "temperature")


def check_options(**options: float | str | None) -> None:
    """Check options by name; None is in order.

    Raises:
        AlignmentError: one is out of range, or no whole number where it has to be one.
    """
    for option, given in options.items():
        if given is None:
            continue
        if option == "order":
            check_choice("order", str(given), ("random", "forward"))
        elif option in _WHOLE:
            _check_whole(option, given)
        elif not isinstance(given, int | float) or (given == math.inf and option != "max_seconds"):
            raise AlignmentError(f"{option} must be a number, found {given}")
        elif option in _POSITIVE:
            if not given > 0:
                raise AlignmentError(f"{option} must be above 0, found {given}")
        elif not given >= _LEAST[option]:
            raise AlignmentError(f"{option} must be at least {_LEAST[option]}, found {given}")


def _check_whole(option: str, given: float | str) -> None:
    if isinstance(given, bool) or not isinstance(given, int):
        raise AlignmentError(f"{option} must be a whole number, found {given}")
    if given < _WHOLE[option]:
        raise AlignmentError(f"{option} must be at least {_WHOLE[option]}, found {given}")


def check_choice(option: str, given: str, known: Sequence[str]) -> None:
    """Check that `option` is one of a few words.

    Raises:
        AlignmentError: it is another one.
    """
    if given not in known:
        *most, last = (f"'{name}'" for name in known)
        raise AlignmentError(f"{option} is {', '.join(most)} or {last}, not '{given}'")
