"""Activations as evidence: what each group shows where it is met in a forward pass."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch

from mergekit_perm import axis_size
from mergekit_perm.align.deadline import Deadline
from mergekit_perm.align.evidence import Evidence, of_tensors
from mergekit_perm.align.examples import Examples
from mergekit_perm.align.sites import Key, Site, find_sites, listening
from mergekit_perm.align.views import State
from mergekit_perm.axes import Fixed
from mergekit_perm.permspec import PermutationSpec
from mergekit_perm.progress import Progress, silent

Kernel = Literal["correlation", "covariance", "inner_product"]
KERNELS = get_args(Kernel)


def of_activations(
    states: Mapping[str, State],
    spec: PermutationSpec,
    examples: Examples,
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

    Args:
        states: state dicts by network.
        spec: a bound permutation spec.
        examples: where the inputs come from; labels are not read.
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
    sites = find_sites(spec, examples, next(iter(states.values())))
    number = min(count, len(examples.split))
    positions = _Positions(max(1, rows // number), number, seed)
    kept: dict[str, dict[str, list[torch.Tensor]]] = {
        name: {site.name: [] for site in sites} for name in states
    }
    for name, site, met, which in _met(
        states, sites, examples, count, batch_size, seed, deadline, progress
    ):
        kept[name][site.name].append(positions.chosen(site, met, which))
    tensors = {
        name: {site: standardised(torch.cat(parts), kernel).T for site, parts in found.items()}
        for name, found in kept.items()
    }
    first = next(iter(tensors.values()))
    axes_of = {site.name: (site.axis, Fixed(first[site.name].shape[1])) for site in sites}
    return of_tensors(spec, axes_of, tensors)


def of_covariances(
    states: Mapping[str, State],
    spec: PermutationSpec,
    examples: Examples,
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

    Nothing but sums over examples and positions is kept: for every site and network the matrix of
    covariances with the reference, as a tensor whose inner product with the identity, which stands
    for the reference, is theirs. Arguments as in `of_activations`, but every position counts.
    """
    sites = find_sites(spec, examples, next(iter(states.values())))
    sums = {name: {site.name: _Sums() for site in sites} for name in states}
    ours: dict[str, torch.Tensor] = {}
    in_order = {reference: states[reference], **states}
    for name, site, met, _ in _met(
        in_order, sites, examples, count, batch_size, seed, deadline, progress
    ):
        rows = site.rows(met).double()
        if name == reference:
            ours[site.name] = rows
        else:
            sums[name][site.name].add(ours[site.name], rows)
    tensors = {
        name: {
            site.name: torch.eye(axis_size.size(site.axis, spec.groups), device=examples.device)
            if name == reference
            else sums[name][site.name].kernel(kernel).T.float()
            for site in sites
        }
        for name in states
    }  # fmt: skip
    axes_of = {
        site.name: (site.axis, Fixed(axis_size.size(site.axis, spec.groups))) for site in sites
    }
    return of_tensors(spec, axes_of, tensors)


def standardised(rows: torch.Tensor, kernel: Kernel) -> torch.Tensor:
    """Return (rows, units) such that inner products of columns are the kernel: means over rows."""
    if kernel != "inner_product":
        rows = rows - rows.mean(dim=0)
    if kernel == "correlation":
        rows = rows * _inverse(rows.square().mean(dim=0).sqrt())
    return rows / math.sqrt(len(rows))


def _inverse(deviation: torch.Tensor) -> torch.Tensor:
    """Return 1 / `deviation`, and 0 for units that never change: they say nothing."""
    dead = deviation <= 1e-6 * deviation.max()
    return torch.where(dead, torch.zeros_like(deviation), deviation.reciprocal())


class _Sums:
    """Sums over rows of the activations of two networks, and of their products."""

    def __init__(self) -> None:
        self.count = 0
        self.parts: tuple[torch.Tensor, ...] = ()

    def add(self, ours: torch.Tensor, theirs: torch.Tensor) -> None:
        """Add rows: (rows, units) of either network."""
        new = (
            ours.sum(0), theirs.sum(0), ours.square().sum(0), theirs.square().sum(0),
            ours.T @ theirs,
        )  # fmt: skip
        self.count += len(ours)
        known = self.parts or tuple(torch.zeros_like(part) for part in new)
        self.parts = tuple(old + more for old, more in zip(known, new, strict=True))

    def kernel(self, kernel: Kernel) -> torch.Tensor:
        """Return (units of ours, units of theirs)."""
        ours, theirs, our_squares, their_squares, products = (p / self.count for p in self.parts)
        if kernel == "inner_product":
            return products
        products = products - ours[:, None] * theirs
        if kernel == "covariance":
            return products
        scales = (
            _inverse((squares - mean.square()).clamp(min=0).sqrt())
            for squares, mean in ((our_squares, ours), (their_squares, theirs))
        )
        left, right = scales
        return left[:, None] * products * right


@dataclass(frozen=True, slots=True)
class _Positions:
    """Which positions are kept: so many of each of `number` examples, evenly from a random one on.

    Drawn anew for every example, so that however few they are, none stands for all examples.
    """

    most: int
    number: int
    seed: int

    def chosen(self, site: Site, tensor: torch.Tensor, which: range) -> torch.Tensor:
        """Return rows of what examples `which` show at `site`, float32 or wider."""
        rows = site.rows(tensor)
        each, parts = len(rows) // len(tensor), len(tensor) // len(which)
        if each > self.most:
            generator = np.random.default_rng([self.seed, *site.name.encode()])
            # Windows and the like make several entries of one example.
            starts = generator.integers(each, size=(self.number, parts))[which].reshape(-1, 1)
            places = (starts + np.arange(self.most) * each // self.most) % each
            at = torch.from_numpy(places + each * np.arange(len(tensor))[:, None]).to(rows.device)
            rows = rows[at.flatten()]
        return rows if rows.dtype == torch.float64 else rows.float()


def _met(
    states: Mapping[str, State],
    sites: Sequence[Site],
    examples: Examples,
    count: int,
    batch_size: int,
    seed: int,
    deadline: Deadline,
    progress: Progress,
) -> Iterator[tuple[str, Site, torch.Tensor, range]]:
    """Yield, batch by batch, what every network shows at every site, and of which examples."""
    placed = {
        name: {tensor: value.to(examples.device) for tensor, value in state.items()}
        for name, state in states.items()
    }
    by_key = {site.key: site for site in sites}
    met: dict[Site, torch.Tensor] = {}

    def take(key: Key, tensor: torch.Tensor) -> None:
        if key in by_key:
            met[by_key[key]] = tensor.clone()

    with torch.no_grad(), listening(examples.module, take) as start:
        done, number = 0, min(count, len(examples.split))
        for inputs, _ in examples.batches(count, batch_size, seed=seed):
            progress("running the networks", done, number)
            which = range(done, done + len(inputs))
            done = which.stop
            for name, state in placed.items():
                start()
                examples.run(state, inputs)
                for site in sites:
                    yield name, site, met.pop(site), which
            if deadline.passed():
                break
        progress("running the networks", number, number)
