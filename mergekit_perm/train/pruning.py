"""Iterative magnitude pruning with weight rewinding (Frankle et al., arXiv 1912.05671).

A network is trained, its weights of lowest magnitude are removed, those that are left go back to
what they were early in training, and it is trained again; level by level.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from mergekit_perm.errors import EvaluationError, suggest

Mask = dict[str, torch.Tensor]


def prunable(module: nn.Module, exclude: Sequence[str] = ()) -> list[str]:
    """Return the names of the tensors that are pruned: weights of linear layers and convolutions.

    Args:
        module: the network.
        exclude: names that are not pruned; `*` stands for any part of one.

    Raises:
        EvaluationError: a name that no weight has, or nothing is left to prune.
    """
    weights = [
        f"{name}.weight" if name else "weight"
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear | _ConvNd)
    ]
    for pattern in exclude:
        if not any(fnmatchcase(name, pattern) for name in weights):
            raise EvaluationError(
                f"prune.exclude: no weight is called '{pattern}'{suggest(pattern, weights)}; "
                f"weights here: {', '.join(weights[:8])}{', ...' * (len(weights) > 8)}"
            )
    kept = [name for name in weights if not any(fnmatchcase(name, each) for each in exclude)]
    if not kept:
        raise EvaluationError("nothing to prune: the network has no weights, or all are excluded")
    return kept


def next_mask(state: Mapping[str, torch.Tensor], mask: Mask, fraction: float) -> Mask:
    """Return `mask` without the weights of lowest magnitude among those that it keeps.

    Args:
        state: the trained network, whose tensors of the mask are looked at.
        mask: by tensor, of its shape, True where a weight is kept.
        fraction: of the kept weights, rounded down, that are removed.

    Raises:
        EvaluationError: so few weights are left that none would go.
    """
    left = kept_count(mask)
    count = int(fraction * left)
    if not count:
        raise EvaluationError(
            f"no weight to prune: {fraction:g} of the {left} that are left is less than one; "
            "use fewer levels"
        )
    return without_lowest(state, mask, count)


def without_lowest(state: Mapping[str, torch.Tensor], mask: Mask, count: int) -> Mask:
    """Return `mask` without the `count` weights of lowest magnitude among those that it keeps.

    Magnitudes of all tensors are compared with one another (global pruning); of equal ones the
    first go first.
    """
    sizes = [int(kept.sum()) for kept in mask.values()]
    magnitudes = torch.cat([state[name][kept].abs().flatten() for name, kept in mask.items()])
    left = torch.ones(len(magnitudes), dtype=torch.bool)
    left[magnitudes.argsort(stable=True)[:count]] = False
    found: Mask = {}
    for (name, kept), own in zip(mask.items(), torch.split(left, sizes), strict=True):
        found[name] = kept.clone()
        found[name][kept] = own
    return found


def whole_mask(state: Mapping[str, torch.Tensor], names: Sequence[str]) -> Mask:
    """Return the mask that keeps every weight of the tensors `names` of `state`."""
    return {name: torch.ones_like(state[name], dtype=torch.bool) for name in names}


def kept_count(mask: Mask) -> int:
    """Return how many weights `mask` keeps."""
    return sum(int(own.sum()) for own in mask.values())


def kept_share(mask: Mask) -> float:
    """Return the share of weights that `mask` keeps, of the tensors that it has."""
    return kept_count(mask) / sum(own.numel() for own in mask.values())
