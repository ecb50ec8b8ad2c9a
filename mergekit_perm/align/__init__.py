"""Alignment: one member of the symmetry group per network, so that the networks lie together."""

from mergekit_perm.align.family import JOINT, METHODS, Family, align

__all__ = ["JOINT", "METHODS", "Family", "align"]
