"""perm-merge: align networks by permuting neurons, merge them, report loss barriers."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Public name -> the module that defines it; loaded on first use (PEP 562), so that importing the
# package, `perm-merge --help` and `perm-merge check` stay fast and load no torch.
_HOMES = {
    "Alignment": "alignment",
    "Family": "align",
    "METHODS": "align",
    "PermMergeError": "errors",
    "Permutation": "permutation",
    "PermutationSpec": "permspec",
    "Proof": "derive",
    "RECIPES": "merge",
    "Report": "report",
    "align": "align",
    "barrier": "evaluate",
    "derive": "derive",
    "merge": "merge",
    "run": "pipeline",
    "verify": "derive",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mergekit_perm' has no attribute '{name}'")
    return getattr(import_module(f"mergekit_perm.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
