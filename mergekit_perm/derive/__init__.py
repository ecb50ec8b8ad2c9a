"""Permutation specs of networks: finding them and proving them."""

from mergekit_perm.derive.find import Found, find, from_file
from mergekit_perm.derive.probe import probe
from mergekit_perm.derive.proofs import is_proven, proven
from mergekit_perm.derive.verify import Proof, verify

__all__ = ["Found", "Proof", "find", "from_file", "is_proven", "probe", "proven", "verify"]
