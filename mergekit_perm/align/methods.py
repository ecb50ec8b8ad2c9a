"""The solvers by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from mergekit_perm.align.solution import Solution
from mergekit_perm.align.weight_matching import weight_matching

METHODS: Mapping[str, Callable[..., Solution]] = MappingProxyType(
    {"weight_matching": weight_matching}
)
"""Every solver. Its keyword arguments but `reference`, `progress` and `examples` are its options;
one that has `examples` looks at data."""
