"""Task vectors averaged where several networks moved, and whole where only one did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from mergekit_perm.merge.options import Within
from mergekit_perm.merge.task_vectors import differences

AtLeastZero = Annotated[float, Within(0)]


def ram(tensors: Sequence[Tensor], *, base: Tensor, epsilon: AtLeastZero = 1e-5) -> Tensor:
    """Return `base` plus the mean of the task vectors over the networks that moved (RAM).

    An element that only one network moved keeps its whole change (arXiv 2601.13572).

    Args:
        tensors: one of each network, of the shape of `base`.
        base: of the base model, which the task vectors start from.
        epsilon: an element has moved when it differs from `base` by more.
    """
    return _merged(tensors, base, epsilon, r=0.0, alpha=0.0)


def ramplus_tl(
    tensors: Sequence[Tensor],
    *,
    base: Tensor,
    r: AtLeastZero = 0.1,
    alpha: AtLeastZero = 0.2,
    epsilon: AtLeastZero = 1e-5,
) -> Tensor:
    """Return what `ram` does, with what only one network moved made larger (RAM+).

    The factor of a network is 1 + `r` min(s, `alpha`), with s how many elements it shares over
    how many are its own (arXiv 2601.13572); here, tensor by tensor.

    Args:
        tensors: one of each network, of the shape of `base`.
        base: of the base model, which the task vectors start from.
        r: how much larger for each unit of s.
        alpha: the most that s counts for.
        epsilon: an element has moved when it differs from `base` by more.
    """
    return _merged(tensors, base, epsilon, r=r, alpha=alpha)


def _merged(
    tensors: Sequence[Tensor], base: Tensor, epsilon: float, *, r: float, alpha: float
) -> Tensor:
    vectors = list(differences(tensors, base))
    moved = [vector.abs() > epsilon for vector in vectors]
    count = torch.stack(moved).sum(0)
    result = torch.zeros_like(base)
    for vector, mask in zip(vectors, moved, strict=True):
        own, shared = mask & (count == 1), mask & (count > 1)
        ratio = int(shared.sum()) / max(int(own.sum()), 1)
        result += vector * own * (1 + r * min(ratio, alpha)) + vector * shared / count.clamp_min(1)
    return base + result
