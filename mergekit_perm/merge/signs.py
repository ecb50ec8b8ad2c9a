"""Sign election: where networks pull a number both ways, only one side counts (TIES)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mergekit_perm.merge.task_vectors import total


def agreeing_total(
    vectors: Sequence[Tensor],
    weights: Sequence[float],
    *,
    normalize: bool,
    votes: Sequence[float] | None = None,
) -> Tensor:
    """Return the sum of what agrees with the elected sign, element by element.

    The sign of an element is that of the weighted sum, plus where this is 0 (arXiv 2306.01708,
    section 3). What is 0 in a vector has no part in its sum.

    Args:
        vectors: task vectors of one shape; those of weight 0 are never read.
        weights: of each; a weight below 0 turns its vector round.
        normalize: divide each element by the sum of the weights that had a part in it: the
            disjoint mean of the paper.
        votes: weights for the election alone; None takes `weights`.
    """
    positive = total(vectors, votes or weights, normalize=False) >= 0
    result = torch.zeros_like(vectors[0])
    shares = torch.zeros_like(vectors[0])
    for vector, weight in zip(vectors, weights, strict=True):
        if weight:
            scaled = vector * weight
            mask = _agrees(scaled, positive).to(vector.dtype)  # a bool times a float is float32
            result += scaled * mask
            shares += mask * weight
    if not normalize:
        return result
    # Weights of both signs may cancel; there the sum stays as it is.
    return result / shares.where(shares.abs() > 1e-8, torch.ones_like(shares))


def _agrees(vector: Tensor, positive: Tensor) -> Tensor:
    return ((vector > 0) & positive) | ((vector < 0) & ~positive)
