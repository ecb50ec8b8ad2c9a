"""Permutation specs of networks: deriving them, finding them and proving them."""

import inspect
import sys
from types import ModuleType

from mergekit_perm.derive.engine import Derivation, derivation, derive
from mergekit_perm.derive.find import Found, find, from_file
from mergekit_perm.derive.probe import Probe, probe
from mergekit_perm.derive.proofs import is_proven, proven, record_of
from mergekit_perm.derive.verify import Proof, verify

__all__ = [
    "Derivation",
    "Found",
    "Probe",
    "Proof",
    "derivation",
    "derive",
    "find",
    "from_file",
    "is_proven",
    "probe",
    "proven",
    "record_of",
    "verify",
]


class _CallableModule(ModuleType):
    """Lets `mergekit_perm.derive(...)` be called: the package and its function share a name."""

    __call__ = staticmethod(derive)
    __signature__ = inspect.signature(derive)


sys.modules[__name__].__class__ = _CallableModule
