"""Weight matching: permute every network so that its weights correlate with the others'."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from mergekit_perm.align.deadline import Deadline
from mergekit_perm.align.descent import Order, Settings
from mergekit_perm.align.evidence import of_weights
from mergekit_perm.align.options import check_options
from mergekit_perm.align.solution import Solution
from mergekit_perm.align.starts import Search
from mergekit_perm.align.views import State
from mergekit_perm.permspec import PermutationSpec
from mergekit_perm.progress import Progress, silent


def weight_matching(
    states: Mapping[str, State],
    spec: PermutationSpec,
    *,
    reference: str = "joint",
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
    """Return one member per network, found by coordinate descent on the weights.

    To a named reference it maximises the inner product with each network (Git Re-Basin, arXiv
    2209.04836, Algorithm 1). With `reference="joint"` it maximises the sum of all pairwise inner
    products, matching one group of one network at a time to the sum of the other networks;
    `merge_many` (same paper, Algorithm 3) visits networks one by one instead.

    Args:
        states: at least two state dicts that bound `spec` fits, by name.
        spec: a bound permutation spec.
        reference: the network that stays as it is, or "joint".
        seed: decides the order of visits and the random starts; equal seeds, equal results.
        restarts: how many starts go to the end, of which the best wins. Matching to one network
            starts from settled groups (see below) if they are clearly ahead of one sweep from the
            identity, else from the identity; then from the other one, then from random members.
            Matching jointly starts from one sweep of matching to the first network, then from the
            best so far; without cooling, from matching to another network each time.
        cooling: with "joint", for how many sweeps every start is shaken by noise that dies away,
            before it descends (simulated annealing); 0 for none. Two networks are matched jointly
            by matching one to the other, without it.
        order: visit groups in "random" order, anew each sweep, or "forward" as the spec has them,
            which takes fewer sweeps of deep networks with little in common, and of trained ResNets
            ends lower.
        tolerance: stop when a sweep raises the objective by less than this fraction of it; None is
            1e-9 to one network, and 2e-5 with "joint".
        max_sweeps: stop after so many sweeps at the latest.
        max_seconds: stop after so many seconds; the best so far is kept.
        device: where similarities are computed; the device of the states by default.
        progress: told after every sweep.

    Settling takes one group after another, always the one that has most to be recognised
    by in tensors whose other axes are fixed or settled already: from the inputs and the outputs
    inwards. Only then is everything matched to everything. Starting from the identity instead, the
    first assignments are made against neighbours that still stand in the wrong order.

    A permuted copy of a network comes back exactly, with noise of up to the weights' own standard
    deviation on it too, as long as no other permutation has a higher objective: measured on all
    shipped specs of timm architectures up to 30 M parameters, with one start, and with six on the
    one that asks for more (tests/benchmarks/RESULTS.md).

    Similarities are summed in the dtype of the weights (float32 at least). Gains are read from them
    where they are plain, and computed in float64 where rounding might decide.
    On top of the networks it holds one permuted copy of that which is matched, with "joint" of all
    and their sum in float64, besides the similarities of one network's groups.
    Running statistics are moved but not matched. With "joint", F is never below that of the
    networks as given, and the first network is the one that stays.

    Raises:
        AlignmentError: an option out of range.
    """
    check_options(restarts=restarts, cooling=cooling, order=order, max_sweeps=max_sweeps, seed=seed)
    check_options(tolerance=tolerance, max_seconds=max_seconds)
    settings = Settings(order, tolerance, max_sweeps, Deadline(max_seconds), progress)
    search = Search(of_weights(states, spec, device=device), settings, seed, cooling)
    return search.match(reference, restarts=restarts)
