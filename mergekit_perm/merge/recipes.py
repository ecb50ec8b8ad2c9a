"""The table of merge recipes under mergekit's names, and those that other distributions bring."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor

from mergekit_perm.errors import MergeError, suggest
from mergekit_perm.merge import plugins
from mergekit_perm.merge.breadcrumbs import breadcrumbs, breadcrumbs_ties
from mergekit_perm.merge.dare import dare_linear, dare_ties
from mergekit_perm.merge.della import della, della_linear
from mergekit_perm.merge.karcher import karcher
from mergekit_perm.merge.linear import linear
from mergekit_perm.merge.model_stock import model_stock
from mergekit_perm.merge.multislerp import multislerp
from mergekit_perm.merge.options import Table, table_of, takes_stored
from mergekit_perm.merge.passthrough import passthrough
from mergekit_perm.merge.ram import ram, ramplus_tl
from mergekit_perm.merge.sce import sce
from mergekit_perm.merge.slerp import nuslerp, slerp
from mergekit_perm.merge.task_arithmetic import task_arithmetic
from mergekit_perm.merge.ties import ties
from mergekit_perm.mergekit import MERGEKIT_METHODS

Function = Callable[..., Tensor]

RECIPES: Mapping[str, Function] = MappingProxyType(
    {
        "linear": linear,
        "slerp": slerp,
        "nuslerp": nuslerp,
        "multislerp": multislerp,
        "karcher": karcher,
        "task_arithmetic": task_arithmetic,
        "ties": ties,
        "dare_linear": dare_linear,
        "dare_ties": dare_ties,
        "breadcrumbs": breadcrumbs,
        "breadcrumbs_ties": breadcrumbs_ties,
        "della": della,
        "della_linear": della_linear,
        "model_stock": model_stock,
        "sce": sce,
        "ram": ram,
        "ramplus_tl": ramplus_tl,
        "passthrough": passthrough,
    }
)
"""Recipe by mergekit id: a pure function on tensors, whose signature is its option table."""


DATA = ("fisher", "regmean", "greedy_soup")
"""Recipes that look at data, which are functions of whole networks."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe by name, with what it takes.

    Attributes:
        name: what specs call it.
        function: what merges one tensor of each network.
        table: its options.
        as_stored: whether it is given tensors in their own dtype, or in float64.
    """

    name: str
    function: Function
    table: Table
    as_stored: bool


def find(method: str) -> Recipe:
    """Return the recipe called `method`, of this package or of another.

    Raises:
        MergeError: there is none, or it is none.
    """
    if method in RECIPES:
        return _recipe(method, RECIPES[method])
    if method in DATA:
        raise MergeError(
            f"'{method}' looks at data: name it in a run spec, or call "
            f"mergekit_perm.merge.{method}.{method}"
        )
    others = plugins.names()
    if method in others:
        return _recipe(method, plugins.load(method))
    known = (*RECIPES, *others)
    here = f"recipes here: {', '.join(known)}"
    if method in MERGEKIT_METHODS:
        raise MergeError(f"merge method '{method}' is known to mergekit, not provided here; {here}")
    raise MergeError(f"no merge method '{method}'{suggest(method, known)}; {here}")


def _recipe(method: str, function: Function) -> Recipe:
    return Recipe(method, function, table_of(function), takes_stored(function))


def parameters_of(method: str) -> tuple[str, ...]:
    """Return the names of the options that recipe `method` takes, in signature order.

    Raises:
        MergeError: unknown method.
    """
    return tuple(find(method).table.options)
