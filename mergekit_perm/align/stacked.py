"""Stacked alignment: one member per network for several checkpoints of it at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch

from mergekit_perm.align.deadline import Deadline
from mergekit_perm.align.descent import Order, Settings
from mergekit_perm.align.evidence import Evidence, of_tensors, of_weights
from mergekit_perm.align.options import check_choice, check_options
from mergekit_perm.align.solution import Solution
from mergekit_perm.align.starts import Search
from mergekit_perm.align.views import State
from mergekit_perm.axes import Axis
from mergekit_perm.errors import AlignmentError
from mergekit_perm.permspec import PermutationSpec
from mergekit_perm.progress import Progress, silent

CheckpointWeights = Literal["equal", "norm"]


def stacked(
    sequences: Mapping[str, Sequence[State]],
    spec: PermutationSpec,
    *,
    reference: str = "joint",
    weights: CheckpointWeights = "equal",
    seed: int = 0,
    restarts: int = 1,
    cooling: int = 20,
    order: Order = "random",
    tolerance: float | None = None,
    max_sweeps: int = 100,
    max_seconds: float | None = None,
    device: torch.device | None = None,
    progress: Progress = silent,
) -> Solution:
    """Return one member per network that serves all its checkpoints, by weight matching.

    Similarities are sums over checkpoints: the s-th of one network is compared with the s-th of
    another, as if all tensors of a network were one longer tensor (arXiv 2404.06498, whose code
    concatenates checkpoints of a training run).

    Args:
        sequences: by name, at least two networks, each a sequence of state dicts in training or
            pruning order; all of one length, and bound `spec` fits every one.
        spec: a bound permutation spec.
        reference: the network that stays as it is, or "joint"; see `weight_matching`.
        weights: "equal" takes the checkpoints as they are, so that those of larger norm count
            more; "norm" divides each by its own norm, over the weights that are matched (w_s =
            1/|theta_s|^2), so that all count the same, of every network.
        seed: as of `weight_matching`, and so are all options that follow.
        restarts: how many starts, of which the best wins.
        cooling: with "joint", for how many sweeps every start is shaken by noise.
        order: visit groups in "random" order or "forward".
        tolerance: stop when a sweep raises the objective by less than this fraction of it; None is
            1e-9 to one network, and 2e-5 with "joint".
        max_sweeps: stop after so many sweeps at the latest.
        max_seconds: stop after so many seconds; the best so far is kept.
        device: where similarities are computed; the device of the states by default.
        progress: told after every sweep.

    Raises:
        AlignmentError: a network without checkpoints or with another number of them than the
            first, or an option out of range.
    """
    check_choice("weights", weights, get_args(CheckpointWeights))
    check_options(restarts=restarts, cooling=cooling, order=order, max_sweeps=max_sweeps, seed=seed)
    check_options(tolerance=tolerance, max_seconds=max_seconds)
    evidence = _evidence(sequences, spec, weights, device)
    settings = Settings(order, tolerance, max_sweeps, Deadline(max_seconds), progress)
    return Search(evidence, settings, seed, cooling).match(reference, restarts=restarts)


def common_length(sequences: Mapping[str, Sequence[State]]) -> int:
    """Return how many checkpoints every network has.

    Raises:
        AlignmentError: a network has none, or another number than the first.
    """
    (first, checkpoints), *rest = sequences.items()
    count = len(checkpoints)
    if not count:
        raise AlignmentError(f"network '{first}' has no checkpoints")
    for name, others in rest:
        if len(others) != count:
            raise AlignmentError(
                f"network '{name}' has {len(others)} checkpoints, '{first}' has {count}: "
                "stacked alignment compares them one by one"
            )
    return count


def _evidence(
    sequences: Mapping[str, Sequence[State]],
    spec: PermutationSpec,
    weights: CheckpointWeights,
    device: torch.device | None,
) -> Evidence:
    """Return the weights of every checkpoint s as tensors `s/name`."""
    rows: dict[str, tuple[Axis, ...]] = {}
    states: dict[str, dict[str, torch.Tensor]] = {name: {} for name in sequences}
    for s in range(common_length(sequences)):
        part = of_weights({n: each[s] for n, each in sequences.items()}, spec, device=device)
        for name, tensors in part.states.items():
            scale = 1.0 if weights == "equal" else 1 / (_norm(tensors) or 1.0)
            states[name] |= {f"{s}/{t}": value * scale for t, value in tensors.items()}
            rows |= {f"{s}/{t}": spec.axes[t] for t in tensors}
    return of_tensors(spec, rows, states)


def _norm(state: State) -> float:
    """Return the Euclidean norm over all tensors; that of a network of zeros is 0."""
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in state.values()))
