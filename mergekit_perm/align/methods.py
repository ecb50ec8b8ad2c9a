"""The solvers by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from mergekit_perm.align.activation_matching import activation_matching
from mergekit_perm.align.frank_wolfe import frank_wolfe
from mergekit_perm.align.merge_many import merge_many
from mergekit_perm.align.mixed import mixed
from mergekit_perm.align.sinkhorn import sinkhorn
from mergekit_perm.align.solution import Solution
from mergekit_perm.align.straight_through import straight_through
from mergekit_perm.align.weight_matching import weight_matching

METHODS: Mapping[str, Callable[..., Solution]] = MappingProxyType(
    {
        solver.__name__: solver
        for solver in (
            weight_matching,
            merge_many,
            activation_matching,
            mixed,
            frank_wolfe,
            sinkhorn,
            straight_through,
        )
    }
)
"""Every solver. Its keyword arguments but `reference`, `progress` and `examples` are its options;
one that has `examples` looks at data."""
