"""Aligning several networks to one reference: the entry point, its methods, and its result."""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from mergekit_perm.align.views import State
from mergekit_perm.align.weight_matching import (
    matched_tensors,
    pairwise_objective,
    weight_matching,
)
from mergekit_perm.errors import AlignmentError, suggest
from mergekit_perm.permspec import PermutationSpec
from mergekit_perm.permutation import Permutation
from mergekit_perm.progress import Progress, silent

JOINT = "joint"

METHODS = {"weight_matching": weight_matching}


@dataclass(frozen=True, slots=True)
class Family:
    """Networks after alignment to one reference.

    Attributes:
        reference: the name of the reference network, or "joint".
        method: the name of the method.
        permutations: by network, one whole permutation per group.
        states: by network, the permuted state dict; it computes what the network computed.
        objective_before: the sum of pairwise inner products of the networks' weights as given.
        objective: the same sum after alignment.
        traces: the objective after every sweep, as the method reports it.
        seconds: wall time of the alignment.
    """

    reference: str
    method: str
    permutations: dict[str, dict[str, Permutation]]
    states: dict[str, dict[str, torch.Tensor]]
    objective_before: float
    objective: float
    traces: dict[str, list[float]]
    seconds: float


def align(
    states: Mapping[str, State],
    spec: PermutationSpec,
    *,
    reference: str = JOINT,
    method: str = "weight_matching",
    progress: Progress = silent,
    **options: Any,
) -> Family:
    """Permute the neurons of every network so that all lie as close together as can be found.

    Args:
        states: at least two state dicts of one architecture, by name; left as they are.
        spec: the permutation spec of the architecture.
        reference: the network that stays as it is; with "joint" all are aligned to one another at
            once, and the first is the one that stays as it is.
        method: a key of `METHODS`.
        progress: told how far the method is.
        options: the method's own options; see its signature.

    Raises:
        AlignmentError: fewer than two networks, networks of different shapes, weights that are
            not finite, an unknown reference, method or option, an option out of range.
        PermutationSpecError: the spec does not fit the networks.
    """
    _check(states, reference, method, options)
    first = next(iter(states.values()))
    bound = spec.bind({name: tuple(tensor.shape) for name, tensor in first.items()})
    began = time.perf_counter()
    solution = METHODS[method](states, bound, reference=reference, progress=progress, **options)
    permuted = {name: bound.act(solution.members[name], state) for name, state in states.items()}
    weights = matched_tensors(bound, first)
    return Family(
        reference=reference,
        method=method,
        permutations={
            name: {group: Permutation(indices) for group, indices in solution.members[name].items()}
            for name in states
        },
        states=permuted,
        objective_before=_objective(states, weights),
        objective=_objective(permuted, weights),
        traces=solution.traces,
        seconds=time.perf_counter() - began,
    )


def _objective(states: Mapping[str, State], weights: list[str]) -> float:
    return pairwise_objective(
        {name: {w: state[w].double() for w in weights} for name, state in states.items()}
    )


def _check(
    states: Mapping[str, State], reference: str, method: str, options: Mapping[str, Any]
) -> None:
    if len(states) < 2:
        raise AlignmentError(f"alignment needs at least two networks, found {len(states)}")
    if JOINT in states:
        raise AlignmentError(f"a network cannot be called '{JOINT}': that names the reference")
    if reference != JOINT and reference not in states:
        raise AlignmentError(
            f"reference '{reference}' is no network of this run{suggest(reference, states)}; "
            f"known: {', '.join(states)}, or {JOINT}"
        )
    if method not in METHODS:
        raise AlignmentError(
            f"unknown alignment method '{method}'{suggest(method, METHODS)}; "
            f"known: {', '.join(METHODS)}"
        )
    known = inspect.signature(METHODS[method]).parameters.keys() - {"states", "spec", "progress"}
    for option in options:
        if option not in known:
            raise AlignmentError(f"{method} has no option '{option}'{suggest(option, known)}")
    _check_shapes(states)
    _check_finite(states)


def _check_shapes(states: Mapping[str, State]) -> None:
    (first, reference), *rest = states.items()
    shapes = {name: tuple(tensor.shape) for name, tensor in reference.items()}
    for network, state in rest:
        if state.keys() != shapes.keys():
            different = sorted(state.keys() ^ shapes.keys())
            raise AlignmentError(
                f"networks '{first}' and '{network}' have different tensors: {different[:5]}"
            )
        for name, tensor in state.items():
            if tuple(tensor.shape) != shapes[name]:
                raise AlignmentError(
                    f"networks '{first}' and '{network}' have different shapes of {name}: "
                    f"{list(shapes[name])} and {list(tensor.shape)}"
                )


def _check_finite(states: Mapping[str, State]) -> None:
    for network, state in states.items():
        for name, tensor in state.items():
            wrong = int((~torch.isfinite(tensor)).sum())
            if wrong:
                raise AlignmentError(
                    f"network '{network}': {wrong} of {tensor.numel()} values of {name} are not "
                    "finite; such a network cannot be aligned"
                )
