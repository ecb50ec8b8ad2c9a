"""Why axes stay fixed: the operation that froze them, and its source line."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mergekit_perm.derive.cells import Cells
from mergekit_perm.derive.facts import Facts
from mergekit_perm.permutation import Indices


class Reasons:
    """The reason for every element that stays where it is."""

    def __init__(self, facts: Facts, cells: Cells) -> None:
        self.still = np.array(cells.sizes)[cells.cell] == 1
        self.texts = [text for _, text in facts.frozen]
        self.cause = self._spread(facts, cells)

    def text(self, axes: Sequence[Indices | None]) -> str:
        """Return why axes of one tensor stay, or "" when all of them move.

        Args:
            axes: the elements of every axis; None for an axis of length 1.
        """
        reasons: dict[str, list[int]] = {}
        for axis, elements in enumerate(axes):
            if elements is not None and self.still[elements].any():
                causes = self.cause[elements][self.still[elements]]
                found = causes[causes >= 0]
                reason = self.texts[found.min()] if len(found) else "stands alone"
                reasons.setdefault(reason, []).append(axis)
        return "; ".join(
            f"{'axis' if len(at) == 1 else 'axes'} {', '.join(map(str, at))}: {reason}"
            for reason, at in reasons.items()
        )

    def _spread(self, facts: Facts, cells: Cells) -> Indices:
        """Return the number of the freezing fact for every element; that of neighbours if none."""
        node = cells.cell  # still elements of one cell are one node
        cause = np.full(len(cells.sizes), len(self.texts))
        for number in range(len(facts.frozen) - 1, -1, -1):
            cause[node[facts.frozen[number][0]]] = number
        still = np.array(cells.sizes) == 1
        pairs = [np.stack([node[a], node[b]]) for a, b in facts.projections]
        a, b = np.concatenate(pairs, axis=1) if pairs else np.empty((2, 0), dtype=np.int64)
        both = still[a] & still[b]
        a, b = a[both], b[both]
        while True:
            before = cause.copy()
            np.minimum.at(cause, a, np.where(cause[a] == len(self.texts), before[b], cause[a]))
            np.minimum.at(cause, b, np.where(cause[b] == len(self.texts), before[a], cause[b]))
            if np.array_equal(cause, before):
                break
        cause[cause == len(self.texts)] = -1
        result: Indices = cause[node]
        return result
