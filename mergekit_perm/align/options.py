"""Checks of the options that solvers share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from mergekit_perm.errors import AlignmentError

# The least that a number may be.
_LEAST: Mapping[str, float] = MappingProxyType(
    {"restarts": 1, "max_sweeps": 0, "seed": 0, "tolerance": 0, "count": 2, "rows": 2}
    | {"batch_size": 1}
)


def check_options(**options: float | str | None) -> None:
    """Check options by name.

    Raises:
        AlignmentError: one is out of range.
    """
    for option, given in options.items():
        if option == "order":
            check_choice("order", str(given), ("random", "forward"))
        elif isinstance(given, int | float) and not given >= _LEAST[option]:
            raise AlignmentError(f"{option} must be at least {_LEAST[option]}, found {given}")


def check_choice(option: str, given: str, known: Sequence[str]) -> None:
    """Check that `option` is one of a few words.

    Raises:
        AlignmentError: it is another one.
    """
    if given not in known:
        *most, last = (f"'{name}'" for name in known)
        raise AlignmentError(f"{option} is {', '.join(most)} or {last}, not '{given}'")
