"""Task vectors with elements dropped by chance, small ones more often than large ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mergekit_perm.merge.options import PerNetwork, Share, each
from mergekit_perm.merge.signs import agreeing_total
from mergekit_perm.merge.sparsify import chances_by_rank, keep_by_chance
from mergekit_perm.merge.task_vectors import differences, total


def della(
    tensors: Sequence[Tensor],
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
    return base + lambda_ * agreeing_total(thinned, each(weight, len(tensors)), normalize=normalize)


def della_linear(
    tensors: Sequence[Tensor],
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
    return base + lambda_ * total(thinned, each(weight, len(tensors)), normalize=normalize)


def _thinned(
    tensors: Sequence[Tensor],
    base: Tensor,
    generators: Sequence[torch.Generator],
    density: float | Sequence[float],
    epsilon: float | Sequence[float],
    *,
    rescale: bool,
) -> list[Tensor]:
    vectors, count = differences(tensors, base), len(tensors)
    thinned = []
    for vector, share, reach, generator in zip(
        vectors, each(density, count), each(epsilon, count), generators, strict=True
    ):
        chances = chances_by_rank(vector, share, reach)
        kept = keep_by_chance(vector, chances, generator)
        thinned.append(kept / chances.clamp_min(1e-12) if rescale else kept)
    return thinned
