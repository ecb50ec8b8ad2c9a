"""Task vectors selected where networks differ, weighted by their size, and their signs elected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from mergekit_perm.merge.options import Within
from mergekit_perm.merge.signs import agreeing_total
from mergekit_perm.merge.sparsify import largest, number_kept
from mergekit_perm.merge.task_vectors import differences


def sce(
    tensors: Sequence[Tensor],
    *,
    base: Tensor,
    select_topk: Annotated[float, Within(0, 1)] = 1.0,
) -> Tensor:
    """Return `base` plus the selected, weighted, agreeing task vectors (arXiv 2408.07990).

    Select the elements that vary most between networks; calculate the weight of each network as
    its share of the sum of squares of what is selected; erase what disagrees with the elected
    sign, for which every network has the same vote.

    Args:
        tensors: one of each network, of the shape of `base`.
        base: of the base model, which the task vectors start from.
        select_topk: the share of elements that are selected; 1 takes all.
    """
    vectors = torch.stack(list(differences(tensors, base)))
    if select_topk < 1:
        vectors = vectors * _most_varying(vectors, select_topk)
    squares = vectors.square().reshape(len(tensors), -1).sum(1)
    whole = float(squares.sum())
    if whole == 0:
        return base.clone()
    weights = [float(one) / whole for one in squares]
    equal = [1.0] * len(weights)
    return base + agreeing_total(list(vectors), weights, normalize=True, votes=equal)


def _most_varying(vectors: Tensor, share: float) -> Tensor:
    """Return a mask of the elements that vary most over the first axis; none that do not vary."""
    variance = vectors.var(0, correction=0).flatten()
    mask = largest(variance, number_kept(variance.numel(), share))
    return (mask & (variance > 0)).view(vectors.shape[1:])
