"""Task vectors without their largest and their smallest elements."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mergekit_perm.merge.options import PerNetwork, Share, each
from mergekit_perm.merge.signs import agreeing_total
from mergekit_perm.merge.sparsify import keep_middle, same_size
from mergekit_perm.merge.task_vectors import differences, total


def breadcrumbs(
    tensors: Sequence[Tensor],
    *,
    base: Tensor,
    weight: PerNetwork = 1.0,
    density: Share = 1.0,
    gamma: Share = 0.01,
    lambda_: float = 1.0,
    normalize: bool = False,
    rescale: bool = False,
) -> Tensor:
    """Return `base` plus the sum of the middles of the task vectors (arXiv 2312.06795).

    Args:
        tensors: one of each network, of the shape of `base`.
        base: of the base model, which the task vectors start from.
        weight: of each network.
        density: the share of elements that stay in a task vector.
        gamma: the share of the largest elements that go; fewer where `density` leaves no room,
            so that the default density of 1 keeps everything.
        lambda_: the length of the step from `base`.
        normalize: divide the weights by their sum.
        rescale: scale each thinned vector until its L1 norm is that from before.

    Raises:
        MergeError: weights that sum to 0 while `normalize` is set.
    """
    thinned = _thinned(tensors, base, density, gamma, rescale=rescale)
    return base + lambda_ * total(thinned, each(weight, len(tensors)), normalize=normalize)


def breadcrumbs_ties(
    tensors: Sequence[Tensor],
    *,
    base: Tensor,
    weight: PerNetwork = 1.0,
    density: Share = 1.0,
    gamma: Share = 0.01,
    lambda_: float = 1.0,
    normalize: bool = False,
    rescale: bool = False,
) -> Tensor:
    """Return `base` plus what agrees in the middles of task vectors (arXiv 2312.06795, 2306.01708).

    The arguments are those of `breadcrumbs`; `normalize` divides each element by the weights that
    had a part in it.
    """
    thinned = _thinned(tensors, base, density, gamma, rescale=rescale)
    return base + lambda_ * agreeing_total(thinned, each(weight, len(tensors)), normalize=normalize)


def _thinned(
    tensors: Sequence[Tensor],
    base: Tensor,
    density: float | Sequence[float],
    gamma: float | Sequence[float],
    *,
    rescale: bool,
) -> list[Tensor]:
    thinned, count = [], len(tensors)
    for vector, share, top in zip(
        differences(tensors, base), each(density, count), each(gamma, count), strict=True
    ):
        thin = keep_middle(vector, share, top)
        thinned.append(same_size(thin, vector) if rescale else thin)
    return thinned
