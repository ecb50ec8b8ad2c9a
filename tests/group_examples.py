"""Groups that tests look at by hand: heads with groups nested in them, and a member of those."""

from __future__ import annotations

import numpy as np

from mergekit_perm.groups import Group, Groups
from mergekit_perm.members import assemble


def groups_of(**sizes: int | tuple[int, str]) -> Groups:
    """Groups by name: a size, or a size and the outer group."""
    found = {}
    for name, entry in sizes.items():
        size, within = entry if isinstance(entry, tuple) else (entry, None)
        found[name] = Group(name, size, within)
    return Groups(found)


HEADS = groups_of(s=3, heads=2, qk=(3, "heads"), vo=(2, "heads"), deep=(2, "vo"))
SWAPPED = assemble(
    HEADS,
    {
        "s": np.array([2, 0, 1]),
        "heads": np.array([1, 0]),
        "qk": np.array([[1, 0, 2], [0, 2, 1]]),
    },
)


def some_groups() -> Groups:
    """Groups of three levels, listed in an order that is not theirs."""
    listed = [
        Group("vo", 5, "heads"),
        Group("g", 4),
        Group("heads", 3),
        Group("deep", 2, "vo"),
        Group("qk", 2, "heads"),
    ]
    return Groups({group.name: group for group in listed})
