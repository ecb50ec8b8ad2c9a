"""Linear assignment: the permutation that gathers the most similarity."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

from mergekit_perm.permutation import Indices

Similarity = npt.NDArray[np.floating[Any]]

# So many elements have few enough permutations to look at each: 24.
_FEW = 4

# From so many elements on, of which this share would rather stand elsewhere, prices pay: they end
# with this share of rows left, or after so many rounds (pairs of ResNet-50; also rank-two
# similarities, where many want the same).
_MANY = 1024
_FAR = 0.1
_LAST = 0.02
_ROUNDS = 50


def assign(similarity: Similarity) -> Indices:
    """Return `p` maximising `sum(similarity[i, p[i]])`; `similarity` has shape (n, n).

    Among equally good assignments the solver's own order decides, so ties (dead units, say) may
    move; callers keep a move only if it gains.
    """
    # Rows and columns may be shifted without another assignment becoming best. The solver has least
    # to do when the assignment that there is, the identity, costs nothing, and nothing less.
    if not similarity.size:
        return np.arange(0)
    half = np.diagonal(similarity) / 2
    cost = half[:, None] + half - similarity
    if cost.min() >= 0:
        return np.arange(len(cost))
    cost -= cost.min(axis=1, keepdims=True)
    cost -= cost.min(axis=0, keepdims=True)
    if len(cost) >= _MANY and np.mean(cost.diagonal() > 0) > _FAR:
        cost += _prices(cost)
        cost -= cost.min(axis=1, keepdims=True)
    from scipy.optimize import linear_sum_assignment  # which takes long to load

    _, columns = linear_sum_assignment(cost)
    return np.asarray(columns, dtype=np.int64)


def _prices(cost: Similarity) -> Similarity:
    """Return prices of columns at which nearly every row has one of its own that is cheapest.

    An auction (Bertsekas, "A distributed algorithm for the assignment problem", 1979): every row
    without a column bids for its cheapest, as much as makes it no cheaper than the next. The last
    rows would bid for long; shortest paths are the quicker way for them.
    """
    size = len(cost)
    prices = np.zeros(size, cost.dtype)
    owners = np.full(size, -1)
    free = np.arange(size)
    for _ in range(_ROUNDS):
        offers = cost[free] + prices
        every = np.arange(len(free))
        wanted = offers.argmin(axis=1)
        cheapest = offers[every, wanted]
        offers[every, wanted] = np.inf
        bids = offers.min(axis=1) - cheapest
        # The highest bid for a column is written last.
        rising = np.argsort(bids, kind="stable")
        winners = np.full(size, -1)
        winners[wanted[rising]] = rising
        sold = np.flatnonzero(winners >= 0)
        winners = winners[sold]
        prices[sold] += bids[winners]
        outbid = owners[sold]
        owners[sold] = free[winners]
        free = np.concatenate([np.delete(free, winners), outbid[outbid >= 0]])
        if len(free) <= _LAST * size:
            break
    return prices


def assign_blocks(similarity: Similarity) -> Indices:
    """Return the best inner assignment for every pair of blocks.

    Args:
        similarity: shape (a, s, b, s): inner element i of block x against j of block y.

    Returns:
        Indices of shape (a, b, s).
    """
    a, size, b, _ = similarity.shape
    if size <= _FEW:
        return _best_of_all(similarity)
    result = np.empty((a, b, size), dtype=np.int64)
    for x in range(a):
        for y in range(b):
            result[x, y] = assign(similarity[x, :, y, :])
    return result


def _best_of_all(similarity: Similarity) -> Indices:
    """Return what `assign_blocks` does, by looking at every permutation for all pairs at once."""
    size = similarity.shape[1]
    permutations = np.array(list(itertools.permutations(range(size))), dtype=np.int64)
    by_pair = similarity.transpose(0, 2, 1, 3)
    worth = by_pair[:, :, np.arange(size), permutations].sum(axis=-1)
    chosen: Indices = permutations[worth.argmax(axis=-1)]
    return chosen


def gathered(similarity: Similarity, choice: Indices) -> Similarity:
    """Return what `choice` (a, b, s) gathers from `similarity` (a, s, b, s): shape (a, b)."""
    by_pair = similarity.transpose(0, 2, 1, 3)
    value: Similarity = np.take_along_axis(by_pair, choice[..., None], axis=3).sum(axis=(2, 3))
    return value
