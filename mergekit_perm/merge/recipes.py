"""The table of merge recipes, and the one way to call any of them by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from mergekit_perm.errors import MergeError, suggest
from mergekit_perm.merge.linear import linear
from mergekit_perm.mergekit import MERGEKIT_METHODS
from mergekit_perm.weighted import State

RECIPES: Mapping[str, Callable[..., State]] = MappingProxyType({"linear": linear})
"""Recipe by mergekit id; a recipe's keyword-only parameters are its option table."""


def merge(states: Mapping[str, State], *, method: str, **parameters: Any) -> State:
    """Return one state dict merged from `states` by a recipe of `RECIPES`.

    Args:
        states: state dicts by network name, with the same tensor names and shapes.
        method: a mergekit id, such as ``"linear"``.
        parameters: the recipe's own options (see its docstring).

    Raises:
        MergeError: unknown method or parameter, or whatever the recipe itself refuses.
    """
    recipe = _recipe(method)
    known = parameters_of(method)
    for name in parameters:
        if name not in known:
            raise MergeError(
                f"{method}: no parameter '{name}'{suggest(name, known)}; "
                f"it takes {', '.join(known)}"
            )
    return recipe(states, **parameters)


def parameters_of(method: str) -> tuple[str, ...]:
    """Return the names of the options that recipe `method` takes, in signature order.

    Raises:
        MergeError: unknown method.
    """
    signature = inspect.signature(_recipe(method))
    return tuple(
        name
        for name, parameter in signature.parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    )


def _recipe(method: str) -> Callable[..., State]:
    if method in RECIPES:
        return RECIPES[method]
    here = f"recipes here: {', '.join(RECIPES)}"
    if method in MERGEKIT_METHODS:
        raise MergeError(f"merge method '{method}' is known to mergekit, not provided here; {here}")
    raise MergeError(f"no merge method '{method}'{suggest(method, RECIPES)}; {here}")
