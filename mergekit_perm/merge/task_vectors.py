"""What recipes on task vectors share: differences from a base model, weighted and added up."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from mergekit_perm.errors import MergeError


def differences(tensors: Iterable[Tensor], base: Tensor) -> Iterator[Tensor]:
    """Yield the task vectors: how each of `tensors` differs from `base` (of the same shape)."""
    return (tensor - base for tensor in tensors)


def total(vectors: Iterable[Tensor], weights: Sequence[float], *, normalize: bool) -> Tensor:
    """Return the weighted sum of `vectors` (one or more, of one shape).

    Args:
        vectors: to be added up, one or more; those of weight 0 are never read.
        weights: as many numbers.
        normalize: divide the weights by their sum.

    Raises:
        MergeError: weights that sum to 0 while `normalize` is set.
    """
    factors = divided(weights) if normalize else weights
    result = None
    for vector, factor in zip(vectors, factors, strict=True):
        result = torch.zeros_like(vector) if result is None else result
        if factor:
            result.add_(vector, alpha=factor)
    if result is None:
        raise MergeError("there are no vectors to add up")
    return result


def divided(weights: Sequence[float]) -> list[float]:
    """Return `weights` divided by their sum.

    Raises:
        MergeError: they sum to 0.
    """
    whole = math.fsum(weights)
    if sum_to_zero(weights):
        shown = ", ".join(f"{weight:g}" for weight in weights)
        raise MergeError(
            f"the weights sum to 0 ({shown}), so they cannot be normalised; change them, "
            "or switch normalising off where the recipe has an option for that"
        )
    return [weight / whole for weight in weights]


def sum_to_zero(weights: Sequence[float]) -> bool:
    """Tell whether `weights` cancel, up to rounding."""
    return abs(math.fsum(weights)) <= 1e-12 * math.fsum(map(abs, weights))
