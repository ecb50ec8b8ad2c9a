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
    sign = total(vectors, votes or weights, normalize=False).ge_(0).mul_(2).sub_(1)
    result = torch.zeros_like(vectors[0])
    shares = torch.zeros_like(vectors[0])
    for vector, weight in zip(vectors, weights, strict=True):
        if weight:
            agreeing = torch.mul(vector, sign).mul_(weight).clamp_min_(0)
            result += agreeing
            shares.add_(agreeing.sign_(), alpha=weight)
    result *= sign
    if normalize:
        # Weights of both signs may cancel; there the sum stays as it is.
        result /= shares.masked_fill_(shares.abs() <= 1e-8, 1.0)
    return result
