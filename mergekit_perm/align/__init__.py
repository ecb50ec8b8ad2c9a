"""Alignment: one member of the symmetry group per network, so that the networks lie together."""

import inspect
import sys
from types import ModuleType

from mergekit_perm.align.family import Family, align, moved_along
from mergekit_perm.align.given import JOINT
from mergekit_perm.align.methods import METHODS
from mergekit_perm.align.sequences import Sequences, align_sequences
from mergekit_perm.align.stacked import stacked

__all__ = [
    "JOINT",
    "METHODS",
    "Family",
    "Sequences",
    "align",
    "align_sequences",
    "moved_along",
    "stacked",
]


class _CallableModule(ModuleType):
    """Lets `mergekit_perm.align(...)` be called: the package and its function share a name."""

    __call__ = staticmethod(align)
    __signature__ = inspect.signature(align)


sys.modules[__name__].__class__ = _CallableModule
