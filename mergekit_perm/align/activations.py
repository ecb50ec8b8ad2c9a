"""Activations as evidence: what each group shows where it is met in a forward pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch

from mergekit_perm import axis_size
from mergekit_perm.align.deadline import Deadline
from mergekit_perm.align.evidence import Evidence, of_tensors
from mergekit_perm.align.examples import Examples
from mergekit_perm.align.precision import entries_in_double
from mergekit_perm.align.sites import Key, Site, listening
from mergekit_perm.align.views import State
from mergekit_perm.axes import Fixed
from mergekit_perm.permspec import PermutationSpec
from mergekit_perm.progress import Progress, silent

Kernel = Literal["correlation", "covariance", "inner_product"]
KERNELS = get_args(Kernel)

# How many numbers the reference may show at all sites at once: 256 MiB.
_AT_ONCE = 2**26


def of_activations(
    states: Mapping[str, State],
    spec: PermutationSpec,
    examples: Examples,
    sites: Sequence[Site],
    *,
    kernel: Kernel = "correlation",
    count: int,
    batch_size: int,
    rows: int,
    seed: int,
    deadline: Deadline,
    progress: Progress = silent,
) -> Evidence:
    """Return the activations of networks on up to `count` examples as evidence.

    The tensor of a site has the shape (coordinates of its axis, rows). Inner products of units of
    two networks are means over rows; all sites count alike.

    Nothing else is kept of a pass: besides these tensors, of all networks and in float32 where
    activations are no wider, it holds a second copy of one of them, and a pass of one network.

    Args:
        states: state dicts by network.
        spec: a bound permutation spec.
        examples: where the inputs come from; labels are not read.
        sites: where to look.
        kernel: "correlation" gives every unit mean 0 and variance 1, "covariance" mean 0;
            "inner_product" leaves activations as they are.
        count: examples at most.
        batch_size: examples at a time; decides memory, not the result.
        rows: about how many examples and positions are kept for a site, the same of all networks:
            at least one position of every example.
        seed: which examples, and which positions.
        deadline: take no further examples after it.
        progress: told how many examples have been run.
    """
    number = min(count, len(examples.split))
    positions = _Positions(max(1, rows // number), number, seed)
    kept: dict[str, dict[Site, list[torch.Tensor]]] = {
        name: {site: [] for site in sites} for name in states
    }

    def take(name: str, site: Site, met: torch.Tensor, which: range) -> None:
        kept[name][site].append(positions.chosen(site, met, which))

    _run(states, sites, examples, count, batch_size, batch_size, seed, deadline, progress, take)
    # Of the parts, those of one site at a time are there twice.
    tensors = {
        name: {site.name: standardise(torch.cat(found.pop(site)), kernel).T for site in sites}
        for name, found in kept.items()
    }
    first = next(iter(tensors.values()))
    axes_of = {site.name: (site.axis, Fixed(first[site.name].shape[1])) for site in sites}
    return of_tensors(spec, axes_of, tensors)


def of_covariances(
    states: Mapping[str, State],
    spec: PermutationSpec,
    examples: Examples,
    sites: Sequence[Site],
    *,
    reference: str,
    kernel: Kernel = "correlation",
    count: int,
    batch_size: int,
    seed: int,
    deadline: Deadline,
    progress: Progress = silent,
) -> Evidence:
    """Return how activations vary with those of network `reference`, summed over a stream.

    The evidence is, for every site, the matrix of covariances of the other network with the
    reference, in float32, as a tensor whose inner product with the identity, which stands for the
    reference, is theirs. Arguments as in `of_activations`, but `states` are two, and every position
    counts.

    Nothing but sums over examples and positions is kept, for every site one matrix in float64. On
    top of them it holds what the reference shows at all sites, until the other network has shown
    the same: up to 64 M numbers, for which a batch is run in parts.
    """
    sums = {site: _Sums(axis_size.size(site.axis, spec.groups), examples.device) for site in sites}
    ours: dict[Site, torch.Tensor] = {}

    def take(name: str, site: Site, met: torch.Tensor, _: range) -> None:
        if name == reference:
            ours[site] = met.clone()
        else:
            sums[site].add(site, ours.pop(site), met)

    in_order = {reference: states[reference], **states}
    at_once = max(1, _AT_ONCE // max(1, sum(site.numbers for site in sites)))
    _run(in_order, sites, examples, count, batch_size, at_once, seed, deadline, progress, take)
    sizes = {len(each.products) for each in sums.values()}
    identities = {size: torch.eye(size, device=examples.device) for size in sizes}
    axes_of = {site.name: (site.axis, Fixed(len(sums[site].products))) for site in sites}
    own = {site.name: identities[len(sums[site].products)] for site in sites}
    theirs = {site.name: sums.pop(site).kernel(kernel).T.float() for site in sites}
    return of_tensors(
        spec, axes_of, {name: own if name == reference else theirs for name in states}
    )


def standardise(rows: torch.Tensor, kernel: Kernel) -> torch.Tensor:
    """Return `rows`, (rows, units), changed so that inner products of columns are the kernel.

    That is a mean over rows.
    """
    if kernel != "inner_product":
        rows.sub_(rows.mean(dim=0))
    if kernel == "correlation":
        rows.mul_(_inverse(rows.square().mean(dim=0).sqrt()))
    return rows.div_(math.sqrt(len(rows)))


def _inverse(deviation: torch.Tensor) -> torch.Tensor:
    """Return 1 / `deviation`, and 0 for units that never change: they say nothing."""
    dead = deviation <= 1e-6 * deviation.max()
    return torch.where(dead, torch.zeros_like(deviation), deviation.reciprocal())


class _Sums:
    """Sums over rows of the activations of two networks, and of their products, in float64.

    Attributes:
        products: (units of ours, units of theirs).
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self.count = 0
        self.products = torch.zeros(size, size, dtype=torch.float64, device=device)
        # Of ours, of theirs, and of the squares of either.
        self._each = torch.zeros(4, size, dtype=torch.float64, device=device)

    def add(self, site: Site, ours: torch.Tensor, theirs: torch.Tensor) -> None:
        """Add what two networks show at `site`, of which parts are turned into float64."""
        for parts in entries_in_double(ours, theirs):
            left, right = map(site.rows, parts)
            self.count += len(left)
            self.products.addmm_(left.T, right)
            for place, rows in enumerate((left, right)):
                self._each[place] += rows.sum(0)
                self._each[place + 2] += rows.square_().sum(0)

    def kernel(self, kernel: Kernel) -> torch.Tensor:
        """Return `products`, changed into the kernel."""
        products = self.products.div_(self.count)
        ours, theirs, our_squares, their_squares = self._each / self.count
        if kernel == "inner_product":
            return products
        products.addr_(ours, theirs, alpha=-1)
        if kernel == "covariance":
            return products
        left, right = (
            _inverse((squares - mean.square()).clamp(min=0).sqrt())
            for squares, mean in ((our_squares, ours), (their_squares, theirs))
        )
        return products.mul_(left[:, None]).mul_(right)


@dataclass(frozen=True, slots=True)
class _Positions:
    """Which positions are kept: so many of each of `number` examples, evenly from a random one on.

    Drawn anew for every example, so that however few they are, none stands for all examples.
    """

    most: int
    number: int
    seed: int

    def chosen(self, site: Site, tensor: torch.Tensor, which: range) -> torch.Tensor:
        """Return rows of what examples `which` show at `site`, float32 or wider, as a copy."""
        moved = tensor.movedim(site.dim, -1)
        moved = moved.reshape(len(moved), -1, moved.shape[-1])
        each, parts = moved.shape[1], len(moved) // len(which)
        if each > self.most:
            generator = np.random.default_rng([self.seed, *site.name.encode()])
            # Windows and the like make several entries of one example; a table of positions, say,
            # has entries of its own, the same for all examples.
            if parts * len(which) == len(moved):
                starts = generator.integers(each, size=(self.number, parts))[which].reshape(-1, 1)
            else:
                starts = generator.integers(each, size=(len(moved), 1))
            places = torch.from_numpy((starts + np.arange(self.most) * each // self.most) % each)
            entries = torch.arange(len(moved), device=moved.device)[:, None]
            moved = moved[entries, places.to(moved.device)]
        wide = torch.float64 if moved.dtype == torch.float64 else torch.float32
        return moved.flatten(0, 1).to(wide, copy=True)


def _run(
    states: Mapping[str, State],
    sites: Sequence[Site],
    examples: Examples,
    count: int,
    batch_size: int,
    at_once: int,
    seed: int,
    deadline: Deadline,
    progress: Progress,
    take: Callable[[str, Site, torch.Tensor, range], None],
) -> None:
    """Run all networks on batch after batch, each of them `at_once` examples at a time.

    `take` is told the network, the site, the tensor met there, which may change after that, and
    which examples these are.
    """
    placed = {
        name: {tensor: value.to(examples.device) for tensor, value in state.items()}
        for name, state in states.items()
    }
    by_key = {site.key: site for site in sites}
    now = "", range(0)

    def hear(key: Key, tensor: torch.Tensor) -> None:
        name, which = now
        if key in by_key:
            take(name, by_key[key], tensor, which)

    task = f"running {' and '.join(states)}" if len(states) == 2 else "running the networks"
    number = min(count, len(examples.split))
    with torch.no_grad(), listening(examples.module, hear) as start:
        for inputs, _ in examples.batches(count, batch_size, seed=seed):
            progress(task, now[1].stop, number)
            for part in torch.split(inputs, at_once):
                which = range(now[1].stop, now[1].stop + len(part))
                for name, state in placed.items():
                    now = name, which
                    start()
                    examples.run(state, part)
            if deadline.passed():
                break
        progress(task, number, number)
