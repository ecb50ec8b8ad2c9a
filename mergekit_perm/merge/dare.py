"""Task vectors with elements dropped by chance, and the rest scaled up."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated

import torch
from torch import Tensor

from mergekit_perm.merge.options import AsStored, PerNetwork, Share, each
from mergekit_perm.merge.signs import agreeing_total
from mergekit_perm.merge.sparsify import by_chance
from mergekit_perm.merge.task_vectors import TaskVector, moved, total


def dare_linear(
    tensors: Annotated[Sequence[Tensor], AsStored()],
    *,
    base: Tensor,
    generators: Sequence[torch.Generator],
    weight: PerNetwork = 1.0,
    density: Share = 1.0,
    lambda_: float = 1.0,
    normalize: bool = False,
    rescale: bool = True,
) -> Tensor:
    """Return `base` plus the weighted sum of thinned task vectors (DARE, arXiv 2311.03099).

    Args:
        tensors: one of each network, of the shape of `base`.
        base: of the base model, which the task vectors start from.
        generators: one on the CPU for each network; decides which elements are dropped.
        weight: of each network.
        density: the chance of an element of a task vector to be kept.
        lambda_: the length of the step from `base`.
        normalize: divide the weights by their sum.
        rescale: divide what is kept by `density`, as the paper does: the mean over all draws is
            the task vector. mergekit restores the L1 norm instead, which is the same in
            expectation.

    Raises:
        MergeError: weights that sum to 0 while `normalize` is set.
    """
    thinned = _thinned(tensors, generators, density, rescale=rescale)
    added = partial(total, weights=each(weight, len(tensors)), normalize=normalize)
    return moved(base, thinned, added, lambda_)


def dare_ties(
    tensors: Annotated[Sequence[Tensor], AsStored()],
    *,
    base: Tensor,
    generators: Sequence[torch.Generator],
    weight: PerNetwork = 1.0,
    density: Share = 1.0,
    lambda_: float = 1.0,
    normalize: bool = False,
    rescale: bool = True,
) -> Tensor:
    """Return `base` plus the agreeing part of thinned task vectors (arXiv 2311.03099, 2306.01708).

    The arguments are those of `dare_linear`; `normalize` divides each element by the weights that
    had a part in it.
    """
    thinned = _thinned(tensors, generators, density, rescale=rescale)
    agreeing = partial(agreeing_total, weights=each(weight, len(tensors)), normalize=normalize)
    return moved(base, thinned, agreeing, lambda_)


def _thinned(
    tensors: Sequence[Tensor],
    generators: Sequence[torch.Generator],
    density: float | Sequence[float],
    *,
    rescale: bool,
) -> list[TaskVector]:
    return [
        TaskVector(
            tensor,
            by_chance(tensor, share, generator),
            1 / share if rescale and share > 0 else 1.0,
        )
        for tensor, share, generator in zip(
            tensors, each(density, len(tensors)), generators, strict=True
        )
    ]
