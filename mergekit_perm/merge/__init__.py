"""Merge recipes: pure functions from several state dicts to one, under mergekit's names."""

import inspect
import sys
from types import ModuleType

from mergekit_perm.merge.linear import linear
from mergekit_perm.merge.recipes import RECIPES, merge, parameters_of

__all__ = ["RECIPES", "linear", "merge", "parameters_of"]


class _CallableModule(ModuleType):
    """Lets `mergekit_perm.merge(...)` be called: the package and its function share a name."""

    __call__ = staticmethod(merge)
    __signature__ = inspect.signature(merge)


sys.modules[__name__].__class__ = _CallableModule
