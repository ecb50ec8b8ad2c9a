"""The sum of task vectors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated

from torch import Tensor

from mergekit_perm.merge.options import AsStored, PerNetwork, each
from mergekit_perm.merge.task_vectors import TaskVector, moved, total


def task_arithmetic(
    tensors: Annotated[Sequence[Tensor], AsStored()],
    *,
    base: Tensor,
    weight: PerNetwork = 1.0,
    lambda_: float = 1.0,
    normalize: bool = False,
) -> Tensor:
    """Return `base` plus the weighted sum of the task vectors (arXiv 2212.04089).

    Args:
        tensors: one of each network, of the shape of `base`.
        base: of the base model, which the task vectors start from.
        weight: of each network.
        lambda_: the length of the step from `base`.
        normalize: divide the weights by their sum.

    Raises:
        MergeError: weights that sum to 0 while `normalize` is set.
    """
    vectors = [TaskVector(tensor) for tensor in tensors]
    added = partial(total, weights=each(weight, len(tensors)), normalize=normalize)
    return moved(base, vectors, added, lambda_)
