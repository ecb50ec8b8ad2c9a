"""Recipes that other distributions bring: entry points of the group ``perm_merge.recipes``.

A distribution declares one in its ``pyproject.toml``::

    [project.entry-points."perm_merge.recipes"]
    halfway = "my_package.recipes:halfway"

and `halfway` is a function with the signature of a recipe (see `options`). Names of recipes here
are taken: an entry point of such a name is never looked at. Listing names loads no code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mergekit_perm.errors import MergeError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "perm_merge.recipes"


def names() -> tuple[str, ...]:
    """Return the names of the recipes of other distributions."""
    return tuple(sorted({point.name for point in _points()}))


def load(name: str) -> Callable[..., Any]:
    """Return the recipe called `name` of another distribution.

    Raises:
        MergeError: several distributions have it, or it cannot be loaded, or is no function.
    """
    found = [point for point in _points() if point.name == name]
    if len(found) > 1:
        homes = " and ".join(sorted(map(_home, found)))
        raise MergeError(f"merge method '{name}' is in {homes}; uninstall all but one")
    try:
        function = found[0].load()
    except Exception as error:  # whatever the code of others raises
        raise MergeError(
            f"merge method '{name}' of {_home(found[0])} cannot be loaded: {error}"
        ) from error
    if not callable(function):
        raise MergeError(f"merge method '{name}' of {_home(found[0])} is no function")
    return function  # type: ignore[no-any-return]


def _points() -> list[EntryPoint]:
    from importlib.metadata import entry_points  # slow to load, and seldom needed

    return list(entry_points(group=GROUP))


def _home(point: EntryPoint) -> str:
    name = "an unknown distribution" if point.dist is None else f"'{point.dist.name}'"
    return f"{name} ({point.value})"
