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
from mergekit_perm.python_path import code_sha256

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
    point = _point(name)
    try:
        function = point.load()
    except Exception as error:  # whatever the code of others raises
        raise MergeError(
            f"merge method '{name}' of {_home(point)} cannot be loaded: {error}"
        ) from error
    if not callable(function):
        raise MergeError(f"merge method '{name}' of {_home(point)} is no function")
    return function  # type: ignore[no-any-return]


def identity(name: str) -> list[str]:
    """Return what the results of recipe `name` of another distribution depend on, as text.

    That is the distribution, its version, and the source file of the recipe, which may change
    under one version where it is installed to be edited.

    Raises:
        MergeError: as `load`.
    """
    function, point = load(name), _point(name)
    dist = [] if point.dist is None else [point.dist.name, point.dist.version]
    return [point.value, *dist, code_sha256([point.module, function.__module__])]


def _point(name: str) -> EntryPoint:
    found = [point for point in _points() if point.name == name]
    if len(found) > 1:
        homes = " and ".join(sorted(map(_home, found)))
        raise MergeError(f"merge method '{name}' is in {homes}; uninstall all but one")
    return found[0]


def _points() -> list[EntryPoint]:
    from importlib.metadata import entry_points  # slow to load, and seldom needed

    return list(entry_points(group=GROUP))


def _home(point: EntryPoint) -> str:
    name = "an unknown distribution" if point.dist is None else f"'{point.dist.name}'"
    return f"{name} ({point.value})"
