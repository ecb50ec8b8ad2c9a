"""perm-merge: align networks by permuting neurons, merge them, report loss barriers."""

from __future__ import annotations

from mergekit_perm import lazy

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


__getattr__, __dir__ = lazy.names(__name__, _HOMES, "__version__")
