"""Alignments as durable things: kept in files, composed, inverted, applied to what has the names.

An alignment goes with the names of a network, not with its weights: another checkpoint, a copy
averaged during training, a pruning mask and the state of an optimizer are permuted by it as well.
"""

from __future__ import annotations

from mergekit_perm.alignment.durable import Alignment
from mergekit_perm.alignment.files import Permuted, applied, default_output, permute_file

__all__ = ["Alignment", "Permuted", "applied", "default_output", "permute_file"]
