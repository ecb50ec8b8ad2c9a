"""The middle of several networks on a sphere, in one step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from mergekit_perm.merge.options import PerNetwork, Within, each
from mergekit_perm.merge.sphere import split
from mergekit_perm.merge.task_vectors import differences, divided, total


def multislerp(
    tensors: Sequence[Tensor],
    *,
    base: Tensor | None = None,
    weight: PerNetwork = 1.0,
    normalize_weights: bool = True,
    eps: Annotated[float, Within(0)] = 1e-8,
) -> Tensor:
    """Return the weighted mean of the directions, as long as the weighted mean of the lengths.

    The mean of the directions is brought back to the sphere. At that point tangents towards the
    networks, taken by projection, cancel; so there is nothing left to walk, and this is also what
    mergekit computes. For the mean along arcs see `karcher`. There is no paper (no arXiv).

    Args:
        tensors: one of each network, of one shape; each is taken for one flat vector.
        base: of the base model, of the same shape, or None; then it is done with task vectors.
        weight: of each network.
        normalize_weights: divide the weights by their sum; otherwise the length grows with it.
        eps: where the mean of the directions is no longer than this, they cancel, and the
            weighted mean of the tensors is taken.

    Raises:
        MergeError: weights that sum to 0.
    """
    vectors = list(tensors) if base is None else list(differences(tensors, base))
    weights = each(weight, len(vectors))
    factors = divided(weights)
    directions, lengths = split(vectors)
    middle = total(directions, factors, normalize=False)
    size = float(torch.linalg.vector_norm(middle))
    used = factors if normalize_weights else weights
    if size > eps:
        point = middle * (_dot(used, lengths) / size)
    else:
        point = total(vectors, used, normalize=False)
    return point if base is None else base + point


def _dot(weights: Sequence[float], lengths: Sequence[float]) -> float:
    return math.fsum(weight * length for weight, length in zip(weights, lengths, strict=True))
