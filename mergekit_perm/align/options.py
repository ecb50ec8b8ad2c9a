"""Checks of the options that solvers share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from mergekit_perm.errors import AlignmentError

# The least that a number may be.
_LEAST: Mapping[str, float] = MappingProxyType(
    dict.fromkeys(("restarts", "batch_size", "patience", "iterations"), 1)
    | dict.fromkeys(("seed", "tolerance", "max_sweeps", "max_seconds", "max_iterations"), 0)
    | dict.fromkeys(("cooling", "exchanges", "steps", "strength", "ratio"), 0)
    | dict.fromkeys(("count", "rows"), 2)
)
# What is a number above 0, and not infinite.
_POSITIVE = ("learning_rate", "temperature")


def check_options(**options: float | str | None) -> None:
    """Check options by name.

    Raises:
        AlignmentError: one is out of range.
    """
    for option, given in options.items():
        if option == "order":
            check_choice("order", str(given), ("random", "forward"))
        elif not isinstance(given, int | float):
            continue
        elif option in _POSITIVE:
            if not 0 < given < math.inf:
                raise AlignmentError(f"{option} must be above 0, found {given}")
        elif not given >= _LEAST[option]:
            raise AlignmentError(f"{option} must be at least {_LEAST[option]}, found {given}")


def check_choice(option: str, given: str, known: Sequence[str]) -> None:
    """Check that `option` is one of a few words.

    Raises:
        AlignmentError: it is another one.
    """
    if given not in known:
        *most, last = (f"'{name}'" for name in known)
        raise AlignmentError(f"{option} is {', '.join(most)} or {last}, not '{given}'")
