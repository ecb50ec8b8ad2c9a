"""Task vectors without their largest and their smallest elements."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated

from torch import Tensor

from mergekit_perm.merge.options import AsStored, PerNetwork, Share, each
from mergekit_perm.merge.signs import agreeing_total
from mergekit_perm.merge.sparsify import middle
from mergekit_perm.merge.task_vectors import TaskVector, moved, total


def breadcrumbs(
    tensors: Annotated[Sequence[Tensor], AsStored()],
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
    added = partial(total, weights=each(weight, len(tensors)), normalize=normalize)
    return moved(base, thinned, added, lambda_)


def breadcrumbs_ties(
    tensors: Annotated[Sequence[Tensor], AsStored()],
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
    agreeing = partial(agreeing_total, weights=each(weight, len(tensors)), normalize=normalize)
    return moved(base, thinned, agreeing, lambda_)


def _thinned(
    tensors: Sequence[Tensor],
    base: Tensor,
    density: float | Sequence[float],
    gamma: float | Sequence[float],
    *,
    rescale: bool,
) -> list[TaskVector]:
    shares, tops = each(density, len(tensors)), each(gamma, len(tensors))
    return [
        middle(tensor, base, share, top, rescale=rescale)
        for tensor, share, top in zip(tensors, shares, tops, strict=True)
    ]
