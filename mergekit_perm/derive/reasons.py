"""Why axes stay fixed: the operation that froze them, and its source line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mergekit_perm.derive.cells import Cells
from mergekit_perm.derive.facts import UNREAD, Facts
from mergekit_perm.permutation import Indices

_ALONE = "nothing may take its place"


class Reasons:
    """The reason for every element that stays where it is."""

    def __init__(self, facts: Facts, cells: Cells, readers: Mapping[str, str]) -> None:
        """Find the causes.

        Args:
            facts: of the network.
            cells: that they leave.
            readers: by tensor, the first operation that computes with it, for people.
        """
        self.readers = readers
        self.still = np.array(cells.sizes)[cells.cell] == 1
        self.frozen = [(reason, where) for _, reason, where in facts.frozen]
        self.frozen += [("set apart", where) for _, where in facts.parts]
        meetings = _meetings(facts)
        self.frozen += [(_ALONE, where) for _, where in meetings]
        self.cause = _causes(facts, cells, [elements for elements, _ in meetings])

    def text(self, tensor: str, axes: Sequence[Indices | None]) -> str:
        """Return why axes of one tensor stay, or "" when all of them move.

        Args:
            tensor: its name.
            axes: the elements of every axis; None for an axis of length 1.
        """
        reasons: dict[str, list[int]] = {}
        for axis, elements in enumerate(axes):
            if elements is not None and self.still[elements].any():
                causes = self.cause[elements][self.still[elements]]
                found = causes[causes >= 0]
                reason, where = self.frozen[found.min()] if len(found) else (_ALONE, "")
                reasons.setdefault(self._worded(tensor, reason, where), []).append(axis)
        return "; ".join(
            f"{'axis' if len(at) == 1 else 'axes'} {', '.join(map(str, at))}: {reason}"
            for reason, at in reasons.items()
        )

    def _worded(self, tensor: str, reason: str, where: str) -> str:
        if where or reason == UNREAD:
            return f"{reason}{where and f' in {where}'}"
        reader = self.readers.get(tensor, "")
        return f"{reason}{reader and f', read by {reader}'}"


def _meetings(facts: Facts) -> list[tuple[Indices, str]]:
    """Return elements that meet others, and where; those of one axis that meet come first."""
    starts = np.array([origin.start for origin in facts.origins])

    def of_one_axis(pair: tuple[Indices, Indices]) -> bool:
        one, other = (np.searchsorted(starts, side, side="right") for side in pair)
        return bool((one == other).any())

    found = list(zip(facts.matches, facts.met, strict=True))
    found.sort(key=lambda entry: not of_one_axis(entry[0]))
    return [(pair[0], where) for pair, where in found]


def _causes(facts: Facts, cells: Cells, meetings: Sequence[Indices]) -> Indices:
    """Return for every element the number of the fact that keeps it where it is, or -1.

    Those that freeze come first, then those that set a part apart, then those by which elements
    meet. What no fact speaks of has the cause of a neighbour, or of what lies beside it in a block.
    """
    node, still = cells.cell, np.array(cells.sizes) == 1
    freezing, parting = ([entry[0] for entry in found] for found in (facts.frozen, facts.parts))
    none = len(freezing) + len(parting) + len(meetings)
    cause = np.full(len(cells.sizes), none)
    for number, elements in reversed([*enumerate(freezing)]):
        cause[node[elements]] = number
    pairs = [np.stack([node[a], node[b]]) for a, b in facts.projections]
    child, parent = np.concatenate(pairs, axis=1) if pairs else np.empty((2, 0), dtype=np.int64)
    both = still[child] & still[parent]
    _spread(cause, child[both], parent[both], none)
    # A block in its place keeps beside it what else its elements lie in.
    beside = np.full(len(cause), none)
    np.minimum.at(beside, child, cause[parent])
    _take(cause, parent[still[parent]], beside[child[still[parent]]], none)
    given = cause.copy()
    for number, elements in enumerate([*parting, *meetings], len(freezing)):
        np.minimum.at(given, node[elements], number)
    _take(cause, np.flatnonzero(still), given[still], none)
    _spread(cause, child[both], parent[both], none)
    cause[cause == none] = -1
    result: Indices = cause[node]
    return result


def _spread(cause: Indices, a: Indices, b: Indices, none: int) -> None:
    """Give the cause of neighbours to those that have none, until all have one that can."""
    while True:
        before = cause.copy()
        _take(cause, a, before[b], none)
        _take(cause, b, before[a], none)
        if np.array_equal(cause, before):
            return


def _take(cause: Indices, nodes: Indices, given: Indices, none: int) -> None:
    """Give each of `nodes` that has no cause the earliest one that is `given`."""
    np.minimum.at(cause, nodes, np.where(cause[nodes] == none, given, cause[nodes]))
