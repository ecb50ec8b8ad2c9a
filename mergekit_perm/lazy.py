"""Packages whose public names are loaded on first use (PEP 562)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def names(
    package: str, homes: Mapping[str, str], *more: str
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return what `package` needs as its `__getattr__` and its `__dir__`.

    Args:
        package: its name, `__name__` in its own module.
        homes: by public name, the module of the package that defines it.
        more: public names that are there at once.
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        return getattr(import_module(f"{package}.{homes[name]}"), name)

    def known() -> list[str]:
        return sorted([*homes, *more])

    return get, known
