"""What recipes that look at data are given: the same tensors, and a weight for every network."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from mergekit_perm.errors import MergeError, suggest
from mergekit_perm.weighted import mismatch


def checked(
    method: str,
    states: Mapping[str, Mapping[str, torch.Tensor]],
    weight: Mapping[str, float] | None,
    *,
    positive: bool,
) -> dict[str, float]:
    """Return the weight of every network, 1 where none is given.

    Args:
        method: the recipe, to begin messages with.
        states: the networks.
        weight: by network, or None.
        positive: whether weights must not be negative.

    Raises:
        MergeError: no networks, networks that differ, or weights that cannot be used.
    """
    if not states:
        raise MergeError(f"{method}: there are no networks to merge; give at least one")
    if problem := mismatch(states):
        raise MergeError(f"{method}: {problem}; only networks of one architecture can be merged")
    for name in weight or ():
        if name not in states:
            raise MergeError(
                f"{method}: weight for '{name}'{suggest(name, states)}, but the networks to merge "
                f"are {', '.join(states)}"
            )
    weights = {name: float((weight or {}).get(name, 1.0)) for name in states}
    for name, value in weights.items():
        if not math.isfinite(value) or (positive and value < 0):
            wanted = "a number that is not negative" if positive else "a finite number"
            raise MergeError(f"{method}: the weight of '{name}' is {value}; give {wanted}")
    if not any(weights.values()):
        raise MergeError(f"{method}: all weights are 0; give one network another")
    return weights
