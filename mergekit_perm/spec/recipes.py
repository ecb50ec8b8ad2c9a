"""The options of every merge recipe, for checking without torch.

The tables repeat the signatures of the recipes in `merge`, because checking a spec must not load
torch; a test holds them together. Recipes of other distributions are loaded where a spec names one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from mergekit_perm.merge import plugins
from mergekit_perm.merge.options import SEED, Option, Table, table_of

_WEIGHT = {"weight": Option("number", 1.0, each=True)}
_DENSITY = {"density": Option("number", 1.0, each=True, least=0, most=1)}
_GAMMA = {"gamma": Option("number", 0.01, each=True, least=0, most=1)}
_REACH = {"epsilon": Option("number", 0.15, each=True, least=0, most=1)}
_MOVED = {"epsilon": Option("number", 1e-5, least=0)}
_LAMBDA = {"lambda": Option("number", 1.0)}


def _flag(name: str, default: bool) -> dict[str, Option]:
    return {name: Option("flag", default)}


def _thinning(own: Mapping[str, Option], *, normalize: bool, rescale: bool) -> Table:
    flags = {**_flag("normalize", normalize), **_flag("rescale", rescale)}
    return Table({**_WEIGHT, **_DENSITY, **own, **_LAMBDA, **flags}, base="required")


def _by_chance(own: Mapping[str, Option], *, normalize: bool) -> Table:
    table = _thinning(own, normalize=normalize, rescale=True)
    return replace(table, options={**table.options, "seed": SEED}, random=True)


RECIPES: Mapping[str, Table] = MappingProxyType(
    {
        "linear": Table({**_WEIGHT, **_flag("normalize", True)}),
        "slerp": Table(
            {"t": Option("number", None, least=0, most=1)}, base="required", fewest=1, most=1
        ),
        "nuslerp": Table(
            {**_WEIGHT, **_flag("nuslerp_row_wise", False), **_flag("nuslerp_flatten", True)},
            base="optional",
            fewest=2,
            most=2,
        ),
        "multislerp": Table(
            {
                **_WEIGHT,
                **_flag("normalize_weights", True),
                "eps": Option("number", 1e-8, least=0),
            },
            base="optional",
        ),
        "karcher": Table(
            {"max_iter": Option("whole", 10, least=0), "tol": Option("number", 1e-5, least=0)}
        ),
        "task_arithmetic": Table(
            {**_WEIGHT, **_LAMBDA, **_flag("normalize", False)}, base="required"
        ),
        "ties": _thinning({}, normalize=True, rescale=False),
        "dare_linear": _by_chance({}, normalize=False),
        "dare_ties": _by_chance({}, normalize=False),
        "breadcrumbs": _thinning(_GAMMA, normalize=False, rescale=False),
        "breadcrumbs_ties": _thinning(_GAMMA, normalize=False, rescale=False),
        "della": _by_chance(_REACH, normalize=True),
        "della_linear": _by_chance(_REACH, normalize=False),
        "model_stock": Table(_flag("filter_wise", False), base="required", fewest=2),
        "sce": Table({"select_topk": Option("number", 1.0, least=0, most=1)}, base="required"),
        "ram": Table(_MOVED, base="required"),
        "ramplus_tl": Table(
            {
                "r": Option("number", 0.1, least=0),
                "alpha": Option("number", 0.2, least=0),
                **_MOVED,
            },
            base="required",
        ),
        "passthrough": Table({"scale": Option("number", 1.0, each=True)}, most=1),
    }
)
"""What every recipe takes."""

DATA_RECIPES: Mapping[str, Table] = MappingProxyType(
    {
        "fisher": Table(
            {
                **_WEIGHT,
                "count": Option("whole", 512, least=1),
                "floor": Option("number", 1e-6, least=0),
                "seed": Option("whole", 0, least=0),
            }
        ),
        "regmean": Table(
            {
                **_WEIGHT,
                "alpha": Option("number", 0.9, least=0, most=1),
                "count": Option("whole", 512, least=1),
                "seed": Option("whole", 0, least=0),
            }
        ),
        "greedy_soup": Table({}),
    }
)
"""What recipes take that look at data; they are ours, not mergekit's."""

DIVIDED: Mapping[str, str | None] = MappingProxyType(
    {
        "linear": "normalize",
        "nuslerp": None,
        "multislerp": None,
        "task_arithmetic": "normalize",
        "dare_linear": "normalize",
        "breadcrumbs": "normalize",
        "della_linear": "normalize",
    }
)
"""Recipes that divide weights by their sum, with the option that says so; None: they always do."""


def recipe_table(method: str) -> Table:
    """Return what the recipe `method` takes; of another distribution, its code is loaded.

    Raises:
        MergeError: it cannot be loaded, or is none.
    """
    own = {**RECIPES, **DATA_RECIPES}
    return own[method] if method in own else table_of(plugins.load(method))


def known_methods() -> tuple[str, ...]:
    """Return the names of all recipes, those of other distributions last."""
    own = (*RECIPES, *DATA_RECIPES)
    return (*own, *(name for name in plugins.names() if name not in own))


def filled(given: Mapping[str, Any], table: Table) -> dict[str, Any]:
    """Return the parameters `given` in the order of `table`, with every default among them."""
    defaults = {n: option.default for n, option in table.options.items()}
    values = {
        name: _as_number(given[name], table.options[name]) if name in given else default
        for name, default in defaults.items()
        if name in given or default is not None
    }
    return {**values, **{name: value for name, value in given.items() if name not in values}}


def _as_number(value: Any, option: Option) -> Any:
    """Return `value` with 1 as 1.0 wherever a number is meant, so that equal specs are equal."""
    if option.kind != "number" or isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) < 2**53:
        return float(value)
    if isinstance(value, list):
        return [_as_number(one, option) for one in value]
    if isinstance(value, dict):
        return {key: _as_number(one, option) for key, one in value.items()}
    return value


def counted(table: Table) -> str:
    """Return in words how many networks are merged."""
    more = " or more" if table.most == math.inf else ""
    several = f"{table.fewest:g} network{'s' * (table.fewest != 1)}{more}"
    return several + (" besides the base model" if table.base == "required" else "")
