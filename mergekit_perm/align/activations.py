"""Activations as evidence: where each group shows in a forward pass, and what it shows there.

Which tensor carries which group on which axis is found by experiment, so it holds for every
permutation spec: a network and a permuted copy of it run on the same inputs in float64, and an axis
belongs to an expression of the spec if permuting it gives one run's tensor from the other's.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import nn

from mergekit_perm import action, axes
from mergekit_perm.align.evidence import Evidence, of_tensors
from mergekit_perm.align.examples import Examples
from mergekit_perm.align.views import State
from mergekit_perm.axes import Axis, Fixed
from mergekit_perm.permspec import PermutationSpec

Kernel = Literal["correlation", "covariance", "inner_product"]
KERNELS = get_args(Kernel)

# A module's name, what it takes ("in") or gives ("out"), which of those, and which call of it.
_Key = tuple[str, str, int, int]

# How many examples the experiment takes, and how far apart two float64 passes may be.
_PROBES = 3
_ROUNDING = 1e-7


@dataclass(frozen=True, slots=True)
class Site:
    """A tensor in the forward pass that carries groups.

    Attributes:
        key: where it is met: module, "in" or "out", its place among them, the number of the call.
        dim: the axis that carries the groups; axis 0 is the batch.
        axis: the expression of that axis.
    """

    key: _Key
    dim: int
    axis: Axis

    @property
    def name(self) -> str:
        """A name to show, and to keep its tensor under."""
        module, side, place, call = self.key
        return f"{module}:{side}{place or ''}{f'@{call}' if call else ''}"

    def rows(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a tensor met here as (examples and positions, coordinates of the axis)."""
        moved = tensor.movedim(self.dim, -1)
        return moved.reshape(-1, moved.shape[-1])


def find_sites(spec: PermutationSpec, examples: Examples, state: State) -> tuple[Site, ...]:
    """Return where the groups of bound `spec` show, for every group the best places there are.

    These are the inputs of layers with weights of two axes or more, that is, activations behind
    norm and nonlinearity; for groups that no such layer takes, what modules give.

    Args:
        spec: a bound permutation spec.
        examples: the module, and inputs.
        state: weights to try with: every network has the same sites.
    """
    layers = _layers(spec)
    chosen: list[Site] = []
    tensors: list[torch.Tensor] = []
    shown: set[str] = set()

    def choose(site: Site, tensor: torch.Tensor) -> None:
        known = (t for s, t in zip(chosen, tensors, strict=True) if s.axis == site.axis)
        if not any(tensor.shape == other.shape and tensor.equal(other) for other in known):
            chosen.append(site)
            tensors.append(tensor)

    found = list(_all_sites(spec, examples, state))
    for site, tensor in found:
        if site.key[1] == "in" and site.key[0] in layers:
            choose(site, tensor)
            shown |= _groups(spec, site.axis)
    for site, tensor in found:
        if not _groups(spec, site.axis) <= shown:
            choose(site, tensor)
    return tuple(chosen)


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
        rows: about how many examples and positions are kept for a site, the same of all networks.
        seed: which examples, and which positions.
    """
    sites = find_sites(spec, examples, next(iter(states.values())))
    positions = _Positions(max(1, rows // min(count, len(examples.split))), seed)
    kept: dict[str, dict[str, list[torch.Tensor]]] = {
        name: {site.name: [] for site in sites} for name in states
    }
    for name, site, met in _met(states, sites, examples, count, batch_size, seed):
        kept[name][site.name].append(positions.chosen(site, met))
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
    for name, site, met in _met(in_order, sites, examples, count, batch_size, seed):
        rows = site.rows(met).double()
        if name == reference:
            ours[site.name] = rows
        else:
            sums[name][site.name].add(ours[site.name], rows)
    tensors = {
        name: {
            site.name: torch.eye(axes.size(site.axis, spec.groups), device=examples.device)
            if name == reference
            else sums[name][site.name].kernel(kernel).T.float()
            for site in sites
        }
        for name in states
    }  # fmt: skip
    axes_of = {site.name: (site.axis, Fixed(axes.size(site.axis, spec.groups))) for site in sites}
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
    """Which positions of an example are kept: so many, the same ones of all examples."""

    most: int
    seed: int

    def chosen(self, site: Site, tensor: torch.Tensor) -> torch.Tensor:
        """Return rows of a tensor met at `site`, float32 or wider."""
        rows = site.rows(tensor)
        each = len(rows) // len(tensor)
        if each > self.most:
            generator = np.random.default_rng([self.seed, *site.name.encode()])
            index = np.sort(generator.permutation(each)[: self.most])
            at = torch.from_numpy(index).to(rows.device)
            rows = rows.reshape(len(tensor), each, -1)[:, at].flatten(0, 1)
        return rows if rows.dtype == torch.float64 else rows.float()


def _met(
    states: Mapping[str, State],
    sites: Sequence[Site],
    examples: Examples,
    count: int,
    batch_size: int,
    seed: int,
) -> Iterator[tuple[str, Site, torch.Tensor]]:
    """Yield, batch by batch, what every network shows at every site."""
    placed = {
        name: {tensor: value.to(examples.device) for tensor, value in state.items()}
        for name, state in states.items()
    }
    by_key = {site.key: site for site in sites}
    met: dict[Site, torch.Tensor] = {}

    def take(key: _Key, tensor: torch.Tensor) -> None:
        if key in by_key:
            met[by_key[key]] = tensor.clone()

    with torch.no_grad(), _listening(examples.module, take) as start:
        for inputs, _ in examples.batches(count, batch_size, seed=seed):
            for name, state in placed.items():
                start()
                examples.run(state, inputs)
                for site in sites:
                    yield name, site, met.pop(site)


# ---------------------------------------------------------------------------------- the experiment


def _all_sites(
    spec: PermutationSpec, examples: Examples, state: State
) -> Iterator[tuple[Site, torch.Tensor]]:
    """Yield every place and axis that carries groups, and the tensor met there."""
    module = copy.deepcopy(examples.module).to("cpu", torch.float64).eval()
    inputs = next(examples.batches(_PROBES, _PROBES))[0].cpu().double()
    wide = {k: t.cpu().double() if t.is_floating_point() else t.cpu() for k, t in state.items()}
    member = spec.random(generator=np.random.default_rng(0))
    indices = {group: permutation.indices for group, permutation in member.items()}
    plain, moved = (_recorded(module, each, inputs) for each in (wide, spec.act(indices, wide)))
    moves = _moves(spec, indices)
    for key, before in plain.items():
        after = moved.get(key)
        if after is None or after.shape != before.shape:
            continue
        for dim in range(1, before.ndim):
            axis = _expression(before, after, dim, moves.get(before.shape[dim], ()))
            if axis is not None:
                yield Site(key, dim, axis), before


def _moves(
    spec: PermutationSpec, member: action.Member
) -> dict[int, list[tuple[Axis, torch.Tensor]]]:
    """Return by size the expressions of the spec and how `member` moves their coordinates."""
    found: dict[Axis, torch.Tensor] = {}
    for row in spec.axes.values():
        for axis in row:
            if axis in found or not axes.names(axis) or axes.inner_group(axis) is not None:
                continue
            found[axis] = torch.from_numpy(action.source(axis, spec.groups, member))
    by_size: dict[int, list[tuple[Axis, torch.Tensor]]] = {}
    for axis, move in found.items():
        if not torch.equal(move, torch.arange(len(move))):
            by_size.setdefault(len(move), []).append((axis, move))
    return by_size


def _expression(
    before: torch.Tensor,
    after: torch.Tensor,
    dim: int,
    candidates: Iterable[tuple[Axis, torch.Tensor]],
) -> Axis | None:
    """Return the expression that explains how `after` differs from `before` along `dim`."""
    size = float(before.abs().max())
    if not size or float((after - before).abs().max()) <= _ROUNDING * size:
        return None
    for axis, move in candidates:
        if float((before.index_select(dim, move) - after).abs().max()) <= _ROUNDING * size:
            return axis
    return None


def _recorded(module: nn.Module, state: State, inputs: torch.Tensor) -> dict[_Key, torch.Tensor]:
    found: dict[_Key, torch.Tensor] = {}

    def take(key: _Key, tensor: torch.Tensor) -> None:
        found[key] = tensor.clone()  # a nonlinearity may work in place

    with torch.no_grad(), _listening(module, take) as start:
        start()
        torch.func.functional_call(module, dict(state), (inputs,))
    return found


def _layers(spec: PermutationSpec) -> set[str]:
    """Return the modules with a parameter of two axes or more in the spec."""
    return {name.rpartition(".")[0] for name, row in spec.axes.items() if len(row) > 1}


def _groups(spec: PermutationSpec, axis: Axis) -> frozenset[str]:
    return frozenset(g.name for name in axes.names(axis) for g in spec.groups.chain(name))


@contextmanager
def _listening(
    module: nn.Module, take: Callable[[_Key, torch.Tensor], None]
) -> Iterator[Callable[[], None]]:
    """Let `take` see what every module within `module` takes and gives.

    Yields a function to call before every pass.
    """
    calls: Counter[str] = Counter()
    hooks = []

    def hear(name: str, side: str, values: Any) -> None:
        values = values if isinstance(values, tuple | list) else (values,)
        for place, value in enumerate(values):
            if isinstance(value, torch.Tensor) and value.is_floating_point() and value.ndim > 1:
                take((name, side, place, calls[name]), value)

    def before(name: str, _: nn.Module, given: Any) -> None:
        hear(name, "in", given)

    def after(name: str, _: nn.Module, __: Any, given: Any) -> None:
        hear(name, "out", given)
        calls[name] += 1

    for name, part in module.named_modules():
        if name:
            hooks.append(part.register_forward_pre_hook(partial(before, name)))
            hooks.append(part.register_forward_hook(partial(after, name)))
    try:
        yield calls.clear
    finally:
        for hook in hooks:
            hook.remove()
