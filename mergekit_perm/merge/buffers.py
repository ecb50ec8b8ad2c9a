"""What no recipe treats as weights: counters, and statistics of normalisation layers.

Counters (`num_batches_tracked`) and other tensors that are no floating-point numbers have no mean:
they are copied.

Statistics (`running_mean`, `running_var`) are measurements of activations. Dropping elements of
them, electing signs or turning them on a sphere means nothing, and extrapolating makes variances
negative. So every recipe that mixes merges them in the same way: by the plain sum that its own
`weight`, `normalize`, `lambda` and `t` say, without its other steps, and within the range that the
networks have, element by element. Calibration estimates them anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mergekit_perm.merge.options import each
from mergekit_perm.merge.task_vectors import differences, divided, sum_to_zero, total

STATISTICS = ("running_mean", "running_var")


def is_counter(tensor: Tensor) -> bool:
    """Tell whether `tensor` has no meaningful average."""
    return not (tensor.is_floating_point() or tensor.is_complex())


def is_statistic(name: str) -> bool:
    """Tell whether the tensor called `name` is a statistic of a normalisation layer."""
    return name.rpartition(".")[2] in STATISTICS


def copied(tensors: Sequence[Tensor], base: Tensor | None, options: Mapping[str, Any]) -> Tensor:
    """Return a copy of the counter of the base model, or of the first network with a weight."""
    weights = each(options.get("weight", 1.0), len(tensors))
    used = [tensor for tensor, weight in zip(tensors, weights, strict=True) if weight]
    return (base if base is not None else [*used, *tensors][0]).clone()


def merged_statistic(
    tensors: Sequence[Tensor], base: Tensor | None, options: Mapping[str, Any]
) -> Tensor:
    """Return a statistic, merged by the plain sum of a recipe, in the range of the networks.

    Args:
        tensors: that of each network, of one shape.
        base: that of the base model, or None.
        options: of the recipe, for this tensor.
    """
    weights = each(options.get("weight", 1.0), len(tensors))
    normalize = options.get("normalize", options.get("normalize_weights", True))
    if normalize and not sum_to_zero(weights):
        weights = divided(weights)
    step = options.get("t", options.get("lambda", 1.0))
    if base is None:
        result, known = total(tensors, weights, normalize=False), list(tensors)
    else:
        moved = total(differences(tensors, base), weights, normalize=False)
        result, known = base + step * moved, [base, *tensors]
    stacked = torch.stack(known)
    return result.clamp(stacked.amin(0), stacked.amax(0))
