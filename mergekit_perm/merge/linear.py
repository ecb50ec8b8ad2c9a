"""The weighted mean of several networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor

from mergekit_perm.merge.options import AsStored, PerNetwork, each
from mergekit_perm.merge.task_vectors import divided
from mergekit_perm.weighted import weighted_sum


def linear(
    tensors: Annotated[Sequence[Tensor], AsStored()],
    *,
    weight: PerNetwork = 1.0,
    normalize: bool = True,
) -> Tensor:
    """Return the weighted sum of `tensors` (Model Soups, arXiv 2203.05482).

    Args:
        tensors: one of each network, of one shape.
        weight: of each network.
        normalize: divide the weights by their sum, so that 1 for each gives the mean.

    Raises:
        MergeError: weights that sum to 0 while `normalize` is set.
    """
    weights = each(weight, len(tensors))
    return weighted_sum(tensors, divided(weights) if normalize else weights)
