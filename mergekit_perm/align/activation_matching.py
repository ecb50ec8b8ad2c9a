"""Activation matching: permute every network so that its units respond as the others' do."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from mergekit_perm.align.activations import KERNELS, Kernel, of_activations, of_covariances
from mergekit_perm.align.deadline import Deadline
from mergekit_perm.align.descent import Settings, anchored
from mergekit_perm.align.evidence import Evidence, of_weights
from mergekit_perm.align.examples import Examples, needed
from mergekit_perm.align.options import check_choice, check_options
from mergekit_perm.align.sites import find_sites
from mergekit_perm.align.solution import Solution
from mergekit_perm.align.starts import Search
from mergekit_perm.align.views import State
from mergekit_perm.permspec import PermutationSpec
from mergekit_perm.permutation import Indices
from mergekit_perm.progress import Progress, silent


def activation_matching(
    states: Mapping[str, State],
    spec: PermutationSpec,
    *,
    reference: str = "joint",
    examples: Examples | None = None,
    kernel: Kernel = "correlation",
    count: int = 5000,
    batch_size: int = 256,
    rows: int = 4096,
    seed: int = 0,
    restarts: int = 1,
    cooling: int = 10,
    max_sweeps: int = 100,
    max_seconds: float | None = None,
    progress: Progress = silent,
) -> Solution:
    """Return one member per network, found from activations on unlabelled inputs.

    To a named reference, every group is matched by how its units vary with those of the reference
    (Git Re-Basin, arXiv 2209.04836, section 3.1), over a stream of examples and all positions.
    Jointly, the sum over all pairs of networks is maximised, one group of one network at a time,
    over rows that are kept (an iterated shared reference, as in arXiv 2506.22712).

    Activations are taken where layers take them in, behind norm and nonlinearity; a group that
    several layers take in is matched by all of them. A group that shows nowhere (the heads within
    `nn.MultiheadAttention`) is matched by weights, after all others. The first network stays as it
    is with "joint".

    Args:
        states: at least two state dicts that bound `spec` fits, by name.
        spec: a bound permutation spec.
        reference: the network that stays as it is, or "joint".
        examples: the inputs; labels are not read.
        kernel: "correlation" (REPAIR, arXiv 2211.08403), "covariance", or "inner_product" (not
            centred, as in Git Re-Basin).
        count: examples at most.
        batch_size: examples at a time; decides memory, not the result.
        rows: with "joint", about how many examples and positions are kept for every site, and at
            least one position of every example, other ones of each.
        seed: of examples, positions, the order of visits and random starts.
        restarts: how many starts, of which the best wins; see `weight_matching`.
        cooling: with "joint", for how many sweeps every start is shaken by noise that dies away
            (see `weight_matching`). Without it, the more networks there are, the more sweeps go on
            for little.
        max_sweeps: stop after so many sweeps at the latest.
        max_seconds: stop after so many seconds; the best so far is kept. To a named reference every
            network has an equal part of them.
        progress: told after every sweep.

    Memory, on top of the networks, however many examples there are: to a named reference, one
    network at a time, four float32 matrices (units, units) for every site at most, two of which are
    one in float64 while the two networks run; and what the reference shows at all sites, up to
    256 MiB of float32, for which a batch is run in parts. Jointly, twice max(`rows`, `count`)
    float32 numbers for every unit at every site of every network, and the same of one network in
    float64. Either way the pass of one network; and where groups show is found by three examples,
    with a network in float64 and a permuted copy.

    Raises:
        AlignmentError: no examples, or an option out of range.
    """
    examples = needed(examples, "activation_matching")
    check_options(restarts=restarts, cooling=cooling, max_sweeps=max_sweeps, seed=seed)
    check_options(count=count, rows=rows, batch_size=batch_size, max_seconds=max_seconds)
    check_choice("kernel", kernel, KERNELS)
    settings = Settings(max_sweeps=max_sweeps, deadline=Deadline(max_seconds), progress=progress)
    sites = find_sites(spec, examples, next(iter(states.values())))
    how: dict[str, Any] = {
        "kernel": kernel, "count": count, "batch_size": batch_size, "seed": seed,
        "progress": progress,
    }  # fmt: skip
    hidden: set[str] = set()

    def matched(evidence: Evidence, deadline: Deadline) -> Solution:
        hidden.update(view.group for view in evidence.views if not view.carriers)
        own = replace(settings, deadline=deadline)
        return Search(evidence, own, seed, cooling).match(reference, restarts=restarts)

    if reference == "joint":
        how["deadline"] = settings.deadline
        evidence = of_activations(states, spec, examples, sites, rows=rows, **how)
        found = matched(evidence, settings.deadline)
    else:
        found = Solution({}, {})
        others = [name for name in states if name != reference]
        for place, name in enumerate(others):
            pair = {each: states[each] for each in (reference, name)}
            how["deadline"] = settings.deadline.share(len(others) - place)
            evidence = of_covariances(pair, spec, examples, sites, reference=reference, **how)
            part = matched(evidence, how["deadline"])
            del evidence  # before there is that of the next
            found.members.update(part.members)
            found.traces.update(part.traces)
    members = {name: found.members[name] for name in states}
    members = _by_weights(states, spec, hidden, members, reference, settings, seed)
    return replace(found, members=members, saw="inputs")


def _by_weights(
    states: Mapping[str, State],
    spec: PermutationSpec,
    groups: Collection[str],
    members: dict[str, dict[str, Indices]],
    reference: str,
    settings: Settings,
    seed: int,
) -> dict[str, dict[str, Indices]]:
    """Return `members` with `groups`, which no activation shows, matched by weights."""
    if not groups:
        return members
    weights = of_weights(states, spec)
    views = tuple(view for view in weights.views if view.group in groups and view.carriers)
    if not views:
        return members
    search = Search(replace(weights, views=views), settings, seed)
    if reference == "joint":
        descent = search.descent(members, "by weights")
        descent.descend("aligning by weights")
        return anchored(descent.members, next(iter(states)))
    found = {reference: members[reference]}
    for name in states:
        if name != reference:
            pair = {each: members[each] for each in (reference, name)}
            descent = search.descent(pair, "by weights", anchor=reference)
            descent.descend(f"aligning {name} to {reference} by weights")
            found[name] = descent.members[name]
    return {name: found[name] for name in states}
