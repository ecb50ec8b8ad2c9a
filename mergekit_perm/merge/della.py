"""Task vectors with elements dropped by chance, small ones more often than large ones."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated

import torch
from torch import Tensor

from mergekit_perm.merge.options import AsStored, PerNetwork, Share, each
from mergekit_perm.merge.signs import agreeing_total
from mergekit_perm.merge.sparsify import by_chance, chances_by_rank
from mergekit_perm.merge.task_vectors import TaskVector, moved, total
from mergekit_perm.weighted import wide


def della(
    tensors: Annotated[Sequence[Tensor], AsStored()],
    *,
    base: Tensor,
    generators: Sequence[torch.Generator],
    weight: PerNetwork = 1.0,
    density: Share = 1.0,
    epsilon: Share = 0.15,
    lambda_: float = 1.0,
    normalize: bool = True,
    rescale: bool = True,
) -> Tensor:
    """Return `base` plus the agreeing part of thinned task vectors (DELLA, arXiv 2406.11617).

    Args:
        tensors: one of each network, of the shape of `base`.
        base: of the base model, which the task vectors start from.
        generators: one on the CPU for each network; decides which elements are dropped.
        weight: of each network.
        density: the mean chance of an element of a task vector to be kept; 1 keeps everything.
        epsilon: how far the chances of the smallest and the largest element of a row lie from
            `density`; as in mergekit, half of the range that the paper calls by this letter.
        lambda_: the length of the step from `base`.
        normalize: divide each element by the weights that had a part in it.
        rescale: divide what is kept by its own chance, as the paper does: the mean over all draws
            is the task vector. mergekit restores the L1 norm instead.

    Raises:
        MergeError: `density` -+ `epsilon` not within 0 and 1.
    """
    thinned = _thinned(tensors, base, generators, density, epsilon, rescale=rescale)
    agreeing = partial(agreeing_total, weights=each(weight, len(tensors)), normalize=normalize)
    return moved(base, thinned, agreeing, lambda_)


def della_linear(
    tensors: Annotated[Sequence[Tensor], AsStored()],
    *,
    base: Tensor,
    generators: Sequence[torch.Generator],
    weight: PerNetwork = 1.0,
    density: Share = 1.0,
    epsilon: Share = 0.15,
    lambda_: float = 1.0,
    normalize: bool = False,
    rescale: bool = True,
) -> Tensor:
    """Return `base` plus the weighted sum of thinned task vectors (DELLA, arXiv 2406.11617).

    The arguments are those of `della`; `normalize` divides the weights by their sum.

    Raises:
        MergeError: as `della`, and weights that sum to 0 while `normalize` is set.
    """
    thinned = _thinned(tensors, base, generators, density, epsilon, rescale=rescale)
    added = partial(total, weights=each(weight, len(tensors)), normalize=normalize)
    return moved(base, thinned, added, lambda_)


def _thinned(
    tensors: Sequence[Tensor],
    base: Tensor,
    generators: Sequence[torch.Generator],
    density: float | Sequence[float],
    epsilon: float | Sequence[float],
    *,
    rescale: bool,
) -> list[TaskVector]:
    thinned, count, origin = [], len(tensors), base.to(wide(base))
    for tensor, share, reach, generator in zip(
        tensors, each(density, count), each(epsilon, count), generators, strict=True
    ):
        chances = chances_by_rank(TaskVector(tensor).since(origin), share, reach)
        kept = by_chance(tensor, chances, generator)
        factor = chances.clamp_min(1e-12).reciprocal_() if rescale else 1.0
        thinned.append(TaskVector(tensor, kept, factor))
    return thinned
