"""The weighted mean of several networks."""

from __future__ import annotations

import math
from collections.abc import Mapping

from mergekit_perm.errors import MergeError, suggest
from mergekit_perm.weighted import State, mismatch, weighted_sum


def linear(
    states: Mapping[str, State],
    *,
    weight: float | Mapping[str, float] = 1.0,
    normalize: bool = True,
) -> State:
    """Return the weighted sum of `states`, tensor by tensor (Model Soups, arXiv 2203.05482).

    Sums are taken in float64 and rounded to the dtype of the first network. Integer and boolean
    buffers (`num_batches_tracked`) come from the first network whose weight is not 0.

    Args:
        states: state dicts by network name, with the same tensor names and shapes.
        weight: one weight for every network, or one per network name.
        normalize: divide the weights by their sum, so that 1 for each gives the mean.

    Raises:
        MergeError: no networks, networks that differ in tensors, a weight that is missing, not
            finite or for no network, or weights that sum to 0 while `normalize` is set.
    """
    if not states:
        raise MergeError("linear: there are no networks to merge; give at least one")
    if problem := mismatch(states):
        raise MergeError(f"linear: {problem}; only networks of one architecture can be merged")
    factors = _factors(tuple(states), weight, normalize=normalize)
    family = list(states.values())
    return {
        tensor: weighted_sum([state[tensor] for state in family], factors) for tensor in family[0]
    }


def _factors(
    names: tuple[str, ...], weight: float | Mapping[str, float], *, normalize: bool
) -> list[float]:
    weights = _per_network(names, weight)
    for name, value in weights.items():
        if not math.isfinite(value):
            raise MergeError(f"linear: the weight of '{name}' is {value}; give a finite number")
    total = math.fsum(weights.values())
    if not normalize:
        return list(weights.values())
    if abs(total) <= 1e-12 * math.fsum(map(abs, weights.values())):
        shown = ", ".join(f"{name} {value:g}" for name, value in weights.items())
        raise MergeError(
            f"linear: the weights sum to 0 ({shown}), so they cannot be normalised; "
            "change them or set normalize: false"
        )
    return [value / total for value in weights.values()]


def _per_network(names: tuple[str, ...], weight: float | Mapping[str, float]) -> dict[str, float]:
    if not isinstance(weight, Mapping):
        return {name: float(weight) for name in names}
    for name in weight:
        if name not in names:
            raise MergeError(
                f"linear: weight for '{name}'{suggest(name, names)}, but the networks to merge "
                f"are {', '.join(names)}"
            )
    for name in names:
        if name not in weight:
            raise MergeError(f"linear: no weight for '{name}'; give one, 0 leaves a network out")
    return {name: float(weight[name]) for name in names}
