"""Task vectors trimmed, their signs elected, and what agrees averaged."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated

from torch import Tensor

from mergekit_perm.merge.options import AsStored, PerNetwork, Share, each
from mergekit_perm.merge.signs import agreeing_total
from mergekit_perm.merge.sparsify import middle
from mergekit_perm.merge.task_vectors import moved


def ties(
    tensors: Annotated[Sequence[Tensor], AsStored()],
    *,
    base: Tensor,
    weight: PerNetwork = 1.0,
    density: Share = 1.0,
    lambda_: float = 1.0,
    normalize: bool = True,
    rescale: bool = False,
) -> Tensor:
    """Return `base` plus the agreeing part of the trimmed task vectors (arXiv 2306.01708).

    Args:
        tensors: one of each network, of the shape of `base`.
        base: of the base model, which the task vectors start from.
        weight: of each network.
        density: the share of elements, largest first, that stay in a task vector.
        lambda_: the length of the step from `base`.
        normalize: divide each element by the weights that had a part in it.
        rescale: scale each trimmed vector until its L1 norm is that from before.
    """
    trimmed = [
        middle(tensor, base, kept, rescale=rescale)
        for tensor, kept in zip(tensors, each(density, len(tensors)), strict=True)
    ]
    agreeing = partial(agreeing_total, weights=each(weight, len(tensors)), normalize=normalize)
    return moved(base, trimmed, agreeing, lambda_)
