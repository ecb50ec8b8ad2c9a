"""Data sets by name, ready to be gone through in batches on any device."""

from __future__ import annotations

from mergekit_perm.data.loading import load
from mergekit_perm.data.splits import Data, InMemory, Split

__all__ = ["Data", "InMemory", "Split", "load"]
