"""Where each group shows in a forward pass.

Which tensor carries which group on which axis is found by experiment, so it holds for every
permutation spec: a network and permuted copies of it run on the same inputs in float64, and an axis
belongs to an expression of the spec if permuting it gives the copies' tensors from the network's.
"""

from __future__ import annotations

import copy
import math
import weakref
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
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

# Sees what modules take and give.
Take = Callable[[Key, torch.Tensor], None]

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
        numbers: how many numbers one example shows there.
    """

    key: Key
    dim: int
    axis: Axis
    numbers: int

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
    """Yield every place and axis that carries groups, and the tensor met there.

    Holds the module in float64, one permuted copy of `state`, and what a pass shows.
    """
    module = copy.deepcopy(examples.module).to("cpu", torch.float64).eval()
    inputs = next(examples.batches(_PROBES, _PROBES))[0].cpu().double()
    members = _telling_members(spec)
    moves = _moves(spec, members)
    _load(module, state)
    tried = {
        key: [_Tried(before, dim, moves[before.shape[dim]]) for dim in _dims(before, moves)]
        for key, before in _recorded(module, inputs, moves).items()
    }
    for number, member in enumerate(members):
        _load(module, spec.act(member, state))
        _run(module, inputs, partial(_compare, tried, number))
    for key, axes_tried in tried.items():
        for each in axes_tried:
            axis = each.expression(len(members))
            if axis is not None:
                numbers = math.ceil(each.before.numel() / len(inputs))
                yield Site(key, each.dim, axis, numbers), each.before


@dataclass(slots=True)
class _Tried:
    """One axis of a tensor met, and the expressions that explain how it moves.

    Attributes:
        before: the tensor that the network itself shows.
        dim: the axis.
        candidates: expressions and their moves, (members, size): those that explained all so far.
        compared: how many members have been looked at.
        differs: whether one of them has changed the tensor.
        size: the largest absolute value in the tensor.
    """

    before: torch.Tensor
    dim: int
    candidates: list[tuple[Axis, torch.Tensor]]
    compared: int = 0
    differs: bool = False
    size: float = field(init=False)

    def __post_init__(self) -> None:
        self.size = float(self.before.abs().max())

    def compare(self, number: int, after: torch.Tensor) -> None:
        """Keep what explains how member `number` has made the tensor `after`."""
        self.compared += 1
        self.differs = self.differs or not self._equal(self.before.clone(), after)
        self.candidates = [
            (axis, moves)
            for axis, moves in self.candidates
            if self._equal(self.before.index_select(self.dim, moves[number]), after)
        ]

    def expression(self, members: int) -> Axis | None:
        """Return the expression that explains how all `members` differ from the network.

        None where that may be one or another: of few units all but one may be dead.
        """
        if self.compared < members or not self.size or not self.differs or not self.candidates:
            return None
        (axis, first), *others = self.candidates
        return axis if all(torch.equal(moves, first) for _, moves in others) else None

    def _equal(self, own: torch.Tensor, after: torch.Tensor) -> bool:
        """Tell whether `own`, which is lost, equals `after` but for rounding."""
        return float(own.sub_(after).abs_().max()) <= _ROUNDING * self.size


def _compare(
    tried: Mapping[Key, Sequence[_Tried]], number: int, key: Key, after: torch.Tensor
) -> None:
    for each in tried.get(key, ()):
        if each.before.shape == after.shape:
            each.compare(number, after)


def _load(module: nn.Module, state: State) -> None:
    """Let `module` have the weights `state`, in the dtype that it has."""
    own = {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }
    with torch.no_grad():
        for name, value in state.items():
            own[name].copy_(value)


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


def _dims(tensor: torch.Tensor, sizes: Container[int]) -> Iterator[int]:
    """Yield the axes but the batch that are of one of `sizes`."""
    return (dim for dim in range(1, tensor.ndim) if tensor.shape[dim] in sizes)


def _recorded(
    module: nn.Module, inputs: torch.Tensor, sizes: Container[int]
) -> dict[Key, torch.Tensor]:
    """Return what is met that has an axis of one of `sizes`; what is met twice is kept once."""
    found: dict[Key, torch.Tensor] = {}
    seen: dict[int, tuple[weakref.ref[torch.Tensor], int, torch.Tensor]] = {}

    def take(key: Key, tensor: torch.Tensor) -> None:
        if not any(True for _ in _dims(tensor, sizes)):
            return
        known = seen.get(id(tensor))
        # A nonlinearity may work in place: then the tensor is the same, and its version another.
        if known is None or known[0]() is not tensor or known[1] != tensor._version:
            known = weakref.ref(tensor), tensor._version, tensor.clone()
            seen[id(tensor)] = known
        found[key] = known[2]

    _run(module, inputs, take)
    return found


def _run(module: nn.Module, inputs: torch.Tensor, take: Take) -> None:
    with torch.no_grad(), listening(module, take) as start:
        start()
        module(inputs)


def _layers(spec: PermutationSpec) -> set[str]:
    """Return the modules with a parameter of two axes or more in the spec."""
    return {name.rpartition(".")[0] for name, row in spec.axes.items() if len(row) > 1}


def _groups(spec: PermutationSpec, axis: Axis) -> frozenset[str]:
    return frozenset(g.name for name in axes.names(axis) for g in spec.groups.chain(name))


@contextmanager
def listening(module: nn.Module, take: Take) -> Iterator[Callable[[], None]]:
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
