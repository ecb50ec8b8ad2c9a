"""Aligning several networks to one reference: the entry point, its methods, and its result."""

from __future__ import annotations

import copy
import inspect
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mergekit_perm import devices
from mergekit_perm.align.effect import Effect, effects, inner_products
from mergekit_perm.align.evidence import matched_tensors
from mergekit_perm.align.examples import Examples
from mergekit_perm.align.given import JOINT, check_finite, check_known, check_names
from mergekit_perm.align.methods import METHODS
from mergekit_perm.align.sequences import Sequences
from mergekit_perm.align.solution import Saw
from mergekit_perm.align.views import State
from mergekit_perm.data import Data, Split
from mergekit_perm.data.layout import quickest_layout
from mergekit_perm.errors import AlignmentError, suggest
from mergekit_perm.permspec import PermutationSpec
from mergekit_perm.permutation import Permutation
from mergekit_perm.progress import Progress, silent

# What every method takes, or may take, that is no option of its own.
_NO_OPTIONS = frozenset({"states", "spec", "reference", "progress", "examples", "device"})


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
        cut_off: whether `max_seconds` ended it, with the best found by then.
        saw: what the method looked at: "weights", "inputs", or "labels" too.
        groups: by group, what alignment did to it.
    """

    reference: str
    method: str
    permutations: dict[str, dict[str, Permutation]]
    states: dict[str, dict[str, torch.Tensor]]
    objective_before: float
    objective: float
    traces: dict[str, list[float]]
    seconds: float
    saw: Saw
    groups: dict[str, Effect]
    cut_off: bool = False


def align(
    states: Mapping[str, State],
    spec: PermutationSpec,
    *,
    reference: str = JOINT,
    method: str | None = None,
    model: nn.Module | None = None,
    data: Data | Split | None = None,
    device: str | torch.device | None = None,
    progress: Progress = silent,
    **options: Any,
) -> Family:
    """Permute the neurons of every network so that all lie as close together as can be found.

    Args:
        states: at least two state dicts of one architecture, by name; left as they are.
        spec: the permutation spec of the architecture.
        reference: the network that stays as it is; with "joint" all are aligned to one another at
            once, and the first is the one that stays as it is.
        method: a key of `METHODS`. None is the best that what is given allows: "mixed" where all
            are aligned to one another and there are data, "weight_matching" otherwise.
        model: a network of the architecture, for methods that look at data; its weights do not
            matter, and stay.
        data: the examples such methods look at: a split, or data with a split "train".
        device: where to compute, or its name as `devices.device` knows it. None is the CPU for
            methods that look at data, and where the networks are for others.
        progress: told how far the method is.
        options: the method's own options; see its signature.

    Raises:
        AlignmentError: fewer than two networks, networks of different shapes, weights that are
            not finite, an unknown reference, method or option, an option out of range.
        PermutationSpecError: the spec does not fit the networks.
    """
    if method is None:
        method = "mixed" if reference == JOINT and data is not None else "weight_matching"
    _check(states, reference)
    _check_method(method, options)
    first = next(iter(states.values()))
    bound = spec.bind({name: tuple(tensor.shape) for name, tensor in first.items()})
    began = time.perf_counter()
    where = None if device is None else devices.device(device)
    taken = inspect.signature(METHODS[method]).parameters
    if "examples" in taken:
        options["examples"] = _examples(method, model, data, where or torch.device("cpu"))
    if "device" in taken:
        options["device"] = where
    solution = METHODS[method](states, bound, reference=reference, progress=progress, **options)
    limit = options.get("max_seconds")
    cut_off = limit is not None and time.perf_counter() - began > limit
    permuted = {name: bound.act(solution.members[name], state) for name, state in states.items()}
    seconds = time.perf_counter() - began
    permutations = {
        name: {group: Permutation(indices) for group, indices in solution.members[name].items()}
        for name in states
    }
    return Family(
        reference=reference,
        method=method,
        permutations=permutations,
        states=permuted,
        traces=solution.traces,
        seconds=seconds,
        saw=solution.saw,
        cut_off=cut_off,
        **_effects(bound, permutations, states, permuted),
    )


def moved_along(
    found: Family | Sequences, states: Mapping[str, State], spec: PermutationSpec
) -> Family:
    """Return other networks permuted as those of `found` were, other checkpoints of them, say.

    Args:
        found: the result of an alignment.
        states: as many networks of the same architecture, by the same names; left as they are.
        spec: the permutation spec of the architecture.

    Returns:
        The family of `states`: its objectives and groups say what the permutations do to these;
        its traces are of the networks that they were found with.

    Raises:
        AlignmentError: networks of other names or shapes, or weights that are not finite.
        PermutationSpecError: the spec does not fit the networks.
    """
    _check(states, found.reference)
    if states.keys() != found.permutations.keys():
        raise AlignmentError(
            f"permutations were found for {', '.join(found.permutations)}, "
            f"not for {', '.join(states)}"
        )
    first = next(iter(states.values()))
    bound = spec.bind({name: tuple(tensor.shape) for name, tensor in first.items()})
    permuted = {name: bound.apply(found.permutations[name], states[name]) for name in states}
    return Family(
        reference=found.reference,
        method=found.method,
        permutations=found.permutations,
        states=permuted,
        traces=found.traces,
        seconds=found.seconds,
        saw=found.saw,
        cut_off=found.cut_off,
        **_effects(bound, found.permutations, states, permuted),
    )


def _effects(
    bound: PermutationSpec,
    permutations: Mapping[str, Mapping[str, Permutation]],
    states: Mapping[str, State],
    permuted: Mapping[str, State],
) -> dict[str, Any]:
    """Return what permutations did to the objective, and to every group."""
    weights = matched_tensors(bound, next(iter(states.values())))
    before, after = (inner_products(each, weights) for each in (states, permuted))
    return {
        "objective_before": math.fsum(before.values()),
        "objective": math.fsum(after.values()),
        "groups": effects(bound, permutations, states, permuted, before, after),
    }


def _examples(
    method: str, model: nn.Module | None, data: Data | Split | None, device: torch.device
) -> Examples | None:
    """Return what a data-aware method looks at; None where nothing was given."""
    if data is None:
        return None
    if model is None:
        raise AlignmentError(f"{method} looks at data, so it needs `model`, a network to run")
    if isinstance(data, Data) and "train" not in data.splits:
        raise AlignmentError(f"{method} looks at training data; {data.name} has no split 'train'")
    split = data.splits["train"] if isinstance(data, Data) else data
    module = copy.deepcopy(model).eval().to(device)
    inputs, _ = next(iter(split.batches(2, device=device)))
    return Examples(module, split, device, quickest_layout(module, inputs))


def _check(states: Mapping[str, State], reference: str) -> None:
    check_names(states, reference)
    _check_shapes(states)
    for network, state in states.items():
        check_finite(f"network '{network}'", state)


def _check_method(method: str, options: Mapping[str, Any]) -> None:
    if method not in METHODS:
        raise AlignmentError(
            f"unknown alignment method '{method}'{suggest(method, METHODS)}; "
            f"known: {', '.join(METHODS)}"
        )
    check_known(METHODS[method], options, but=_NO_OPTIONS)


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
