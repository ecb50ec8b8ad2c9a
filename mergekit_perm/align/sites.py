"""Where each group shows in a forward pass.

Which tensor carries which group on which axis is found by experiment, so it holds for every
permutation spec: a network and permuted copies of it run on the same inputs in float64, and an axis
belongs to an expression of the spec if permuting it gives the copies' tensors from the network's.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from mergekit_perm import axes, axis_action
from mergekit_perm.align.examples import Examples
from mergekit_perm.align.views import State
from mergekit_perm.axes import Axis
from mergekit_perm.members import Member
from mergekit_perm.permspec import PermutationSpec
from mergekit_perm.permutation import Indices

# A module's name, what it takes ("in") or gives ("out"), which of those, and which call of it.
Key = tuple[str, str, int, int]

# How many examples the experiment takes, how many members at most, and how far apart two float64
# passes may be.
_PROBES = 3
_MOST_MEMBERS = 32
_ROUNDING = 1e-7


@dataclass(frozen=True, slots=True)
class Site:
    """A tensor in the forward pass that carries groups.

    Attributes:
        key: where it is met: module, "in" or "out", its place among them, the number of the call.
        dim: the axis that carries the groups; axis 0 is the batch.
        axis: the expression of that axis.
    """

    key: Key
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


def _all_sites(
    spec: PermutationSpec, examples: Examples, state: State
) -> Iterator[tuple[Site, torch.Tensor]]:
    """Yield every place and axis that carries groups, and the tensor met there."""
    module = copy.deepcopy(examples.module).to("cpu", torch.float64).eval()
    inputs = next(examples.batches(_PROBES, _PROBES))[0].cpu().double()
    wide = {k: t.cpu().double() if t.is_floating_point() else t.cpu() for k, t in state.items()}
    members = _telling_members(spec)
    plain = _recorded(module, wide, inputs)
    moved = [_recorded(module, spec.act(member, wide), inputs) for member in members]
    moves = _moves(spec, members)
    for key, before in plain.items():
        afters = [each[key] for each in moved if key in each and each[key].shape == before.shape]
        if len(afters) < len(moved):
            continue
        for dim in range(1, before.ndim):
            axis = _expression(before, afters, dim, moves.get(before.shape[dim], ()))
            if axis is not None:
                yield Site(key, dim, axis), before


def _telling_members(spec: PermutationSpec) -> list[dict[str, Indices]]:
    """Return random members, as many as it takes to tell all groups from one another.

    One does unless groups are small: of two elements, every other member moves neither.
    """
    generator = np.random.default_rng(0)
    members: list[dict[str, Indices]] = []
    while len(members) < _MOST_MEMBERS:
        drawn = spec.random(generator=generator)
        members.append({group: permutation.indices for group, permutation in drawn.items()})
        moves = {name: np.stack([member[name] for member in members]) for name in spec.groups}
        moves = {name: move for name, move in moves.items() if move.shape[1] > 1}
        still = {
            move.shape: np.broadcast_to(np.arange(move.shape[1]), move.shape)
            for move in moves.values()
        }
        kinds = {move.tobytes() for move in (*moves.values(), *still.values())}
        if len(kinds) == len(moves) + len(still):
            break
    return members


def _moves(
    spec: PermutationSpec, members: Sequence[Member]
) -> dict[int, list[tuple[Axis, torch.Tensor]]]:
    """Return by size the expressions of the spec and how `members` move them: (members, size)."""
    found: dict[Axis, torch.Tensor] = {}
    for row in spec.axes.values():
        for axis in row:
            if axis in found or not axes.names(axis) or axes.has_inner(axis):
                continue
            moves = [axis_action.source(axis, spec.groups, member) for member in members]
            found[axis] = torch.from_numpy(np.stack(moves))
    by_size: dict[int, list[tuple[Axis, torch.Tensor]]] = {}
    for axis, move in found.items():
        if not (move == torch.arange(move.shape[1])).all():
            by_size.setdefault(move.shape[1], []).append((axis, move))
    return by_size


def _expression(
    before: torch.Tensor,
    afters: Sequence[torch.Tensor],
    dim: int,
    candidates: Iterable[tuple[Axis, torch.Tensor]],
) -> Axis | None:
    """Return the expression that explains how `afters` differ from `before` along `dim`.

    None where that may be one or another: of few units all but one may be dead.
    """
    size = float(before.abs().max())

    def equal(left: torch.Tensor, right: torch.Tensor) -> bool:
        return float((left - right).abs().max()) <= _ROUNDING * size

    if not size or all(equal(before, after) for after in afters):
        return None
    found: list[tuple[Axis, torch.Tensor]] = []
    for axis, moves in candidates:
        pairs = zip(moves, afters, strict=True)
        if all(equal(before.index_select(dim, move), after) for move, after in pairs):
            found.append((axis, moves))
    alike = all(torch.equal(moves, found[0][1]) for _, moves in found)
    return found[0][0] if found and alike else None


def _recorded(module: nn.Module, state: State, inputs: torch.Tensor) -> dict[Key, torch.Tensor]:
    found: dict[Key, torch.Tensor] = {}

    def take(key: Key, tensor: torch.Tensor) -> None:
        found[key] = tensor.clone()  # a nonlinearity may work in place

    with torch.no_grad(), listening(module, take) as start:
        start()
        torch.func.functional_call(module, dict(state), (inputs,))
    return found


def _layers(spec: PermutationSpec) -> set[str]:
    """Return the modules with a parameter of two axes or more in the spec."""
    return {name.rpartition(".")[0] for name, row in spec.axes.items() if len(row) > 1}


def _groups(spec: PermutationSpec, axis: Axis) -> frozenset[str]:
    return frozenset(g.name for name in axes.names(axis) for g in spec.groups.chain(name))


@contextmanager
def listening(
    module: nn.Module, take: Callable[[Key, torch.Tensor], None]
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
