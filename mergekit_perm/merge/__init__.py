"""Merge recipes: pure functions on tensors under mergekit's names, and what applies them.

Names are loaded on first use (PEP 562), so that `values` and `options` can be had without torch.
"""

from __future__ import annotations

import inspect
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mergekit_perm import lazy

if TYPE_CHECKING:
    from mergekit_perm.merge.depth import depths
    from mergekit_perm.merge.options import AsStored, PerNetwork, Share, Within
    from mergekit_perm.merge.recipes import RECIPES, find, parameters_of
    from mergekit_perm.merge.streaming import explain, merge, merge_tensors

__all__ = [
    "RECIPES",
    "AsStored",
    "PerNetwork",
    "Share",
    "Within",
    "depths",
    "explain",
    "find",
    "merge",
    "merge_tensors",
    "parameters_of",
]

_HOMES = {
    "RECIPES": "recipes",
    "AsStored": "options",
    "PerNetwork": "options",
    "Share": "options",
    "Within": "options",
    "depths": "depth",
    "explain": "streaming",
    "find": "recipes",
    "merge": "streaming",
    "merge_tensors": "streaming",
    "parameters_of": "recipes",
}


__getattr__, __dir__ = lazy.names(__name__, _HOMES)


class _CallableModule(ModuleType):
    """Lets `mergekit_perm.merge(...)` be called: the package and its function share a name."""

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        return __getattr__("merge")(*args, **keywords)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(__getattr__("merge"))


sys.modules[__name__].__class__ = _CallableModule
