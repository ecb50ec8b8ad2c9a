"""Aligning sequences of checkpoints: the entry point of stacked alignment, and its result."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mergekit_perm import devices
from mergekit_perm.align.given import JOINT, check_finite, check_known, check_names
from mergekit_perm.align.solution import Saw
from mergekit_perm.align.stacked import CheckpointWeights, common_length, stacked
from mergekit_perm.align.views import State
from mergekit_perm.errors import AlignmentError
from mergekit_perm.permspec import PermutationSpec
from mergekit_perm.permutation import Permutation
from mergekit_perm.progress import Progress, silent
from mergekit_perm.weighted import mismatch


@dataclass(frozen=True, slots=True)
class Sequences:
    """Sequences of checkpoints after alignment to one reference.

    What that did to the groups of one checkpoint of every network, `moved_along` tells.

    Attributes:
        reference: the name of the reference network, or "joint".
        weights: how checkpoints counted: "equal" or "norm".
        permutations: by network, one whole permutation per group, the same for all checkpoints.
        states: by network, the permuted state dicts in the order given; each computes what the
            checkpoint computed.
        traces: the objective after every sweep, by network or under "joint".
        seconds: wall time of the alignment.
        cut_off: whether `max_seconds` ended it, with the best found by then.
        method: "weight_matching", of which this is the form for sequences.
        saw: "weights": it looks at no data.
    """

    reference: str
    weights: CheckpointWeights
    permutations: dict[str, dict[str, Permutation]]
    states: dict[str, tuple[dict[str, torch.Tensor], ...]]
    traces: dict[str, list[float]]
    seconds: float
    cut_off: bool = False
    method: str = "weight_matching"
    saw: Saw = "weights"


def align_sequences(
    sequences: Mapping[str, Sequence[State]],
    spec: PermutationSpec,
    *,
    reference: str = JOINT,
    weights: CheckpointWeights = "equal",
    device: str | torch.device | None = None,
    progress: Progress = silent,
    **options: Any,
) -> Sequences:
    """Permute the neurons of every network, all its checkpoints alike, by stacked alignment.

    Args:
        sequences: by name, at least two networks, each a sequence of state dicts in training or
            pruning order; all of one architecture and one length. They are left as they are.
        spec: the permutation spec of the architecture.
        reference: the network that stays as it is; with "joint" all are aligned to one another at
            once, and the first is the one that stays as it is.
        weights: "equal" takes the checkpoints as they are; "norm" lets all count the same.
        device: where to compute, or its name as `devices.device` knows it; where the networks are
            by default.
        progress: told how far it is.
        options: further options of `stacked`; see its signature.

    Example:
        found = align_sequences({"a": [a_early, a_late], "b": [b_early, b_late]}, spec)
        b_early, b_late = found.states["b"]

    Raises:
        AlignmentError: fewer than two networks, networks with different numbers of checkpoints,
            checkpoints of different shapes, weights that are not finite, an unknown reference or
            option, an option out of range.
        PermutationSpecError: the spec does not fit the networks.
    """
    _check(sequences, reference, options)
    first = next(iter(sequences.values()))[0]
    bound = spec.bind({name: tuple(tensor.shape) for name, tensor in first.items()})
    began = time.perf_counter()
    found = stacked(
        sequences,
        bound,
        reference=reference,
        weights=weights,
        device=None if device is None else devices.device(device),
        progress=progress,
        **options,
    )
    members = {name: found.members[name] for name in sequences}
    limit = options.get("max_seconds")
    return Sequences(
        reference=reference,
        weights=weights,
        permutations={
            name: {group: Permutation(indices) for group, indices in member.items()}
            for name, member in members.items()
        },
        states={
            name: tuple(bound.act(members[name], state) for state in sequence)
            for name, sequence in sequences.items()
        },
        traces=found.traces,
        cut_off=limit is not None and time.perf_counter() - began > limit,
        seconds=time.perf_counter() - began,
    )


def _check(
    sequences: Mapping[str, Sequence[State]], reference: str, options: Mapping[str, Any]
) -> None:
    check_names(sequences, reference)
    check_known(stacked, options, but=("sequences", "spec"))
    common_length(sequences)
    different = mismatch(dict(_checkpoints(sequences)))
    if different:
        raise AlignmentError(different)
    for checkpoint, state in _checkpoints(sequences):
        check_finite(f"checkpoint '{checkpoint}'", state)


def _checkpoints(sequences: Mapping[str, Sequence[State]]) -> Iterator[tuple[str, State]]:
    """Yield every checkpoint and what to call it."""
    for name, sequence in sequences.items():
        for s, state in enumerate(sequence):
            yield f"{name}[{s}]", state
