"""How tensors look from one group: which entries each of its elements carries.

A solver that updates one group sees every tensor that carries it as a matrix of elements by
everything else. Groups nested directly within it see, inside each element (a head, a convolution
group), the same thing again.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from mergekit_perm import axes, axis_size, tensor_action
from mergekit_perm.axes import Axis
from mergekit_perm.axis_elements import inner_occurrences, occurrences
from mergekit_perm.groups import Groups
from mergekit_perm.permspec import PermutationSpec
from mergekit_perm.permutation import Indices
from mergekit_perm.sections import Section, sections

State = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Nested:
    """Where the inner elements of one nested group stand, seen from an element of its outer group.

    Attributes:
        group: the nested group.
        dim: -1 when they stand among the columns of the carrier, else the dimension of the tensor
            that has `inner(group)`.
        table: coordinates of shape (size, m).
    """

    group: str
    dim: int
    table: Indices


@dataclass(frozen=True, slots=True)
class Carrier:
    """One axis of one tensor that carries the group.

    Attributes:
        tensor: the name of the tensor.
        section: the part of it that is looked at: all of it, unless it has `inner(n, a)`.
        dim: the dimension that carries the group.
        table: the coordinates of every element in the section, shape (elements, m).
        in_order: whether these are all coordinates of the section as they stand.
        nested: the nested groups that move along with it.
        others: the outermost groups of others that the tensor carries.
        weight: how many entries of the tensor each element carries.
    """

    tensor: str
    section: Section
    dim: int
    table: Indices
    in_order: bool
    nested: tuple[Nested, ...]
    others: frozenset[str]
    weight: int

    def blocks(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return `tensor` as (elements, m, other axes in order)."""
        first = self.section.of(tensor).movedim(self.dim, 0)
        if self.in_order:  # no copy
            return first.reshape(*self.table.shape, *first.shape[1:])
        return _take(first, self.table)

    def rows(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return `tensor` as (elements, all that each of them carries)."""
        count = len(self.table)
        if not self.in_order:
            return self.blocks(tensor).reshape(count, -1)
        first = self.section.of(tensor)
        return (first.movedim(self.dim, 0) if self.dim else first).reshape(count, -1)

    def coordinates(self, elements: Indices) -> Indices:
        """Return where `elements` stand along `dim` of the whole tensor."""
        places: Indices = self.table[elements].reshape(-1)
        return self.section.coordinates[places] if self.section.dim == self.dim else places

    @property
    def inner_axes(self) -> tuple[Nested, ...]:
        """The nested groups that permute another dimension of the tensor, by `inner`."""
        return tuple(nested for nested in self.nested if nested.dim >= 0)

    @property
    def columns(self) -> tuple[Nested, ...]:
        """The nested groups that permute the columns of the carrier itself."""
        return tuple(nested for nested in self.nested if nested.dim < 0)

    def place(self, nested: Nested) -> int:
        """Return the dimension of `blocks` that the `inner` axis of `nested` became."""
        return nested.dim + 1 if nested.dim > self.dim else nested.dim + 2


@dataclass(frozen=True, slots=True)
class View:
    """All that one group carries.

    Attributes:
        group: an outermost group, or a nested one that has nested groups of its own.
        size: how many elements it has in all.
        children: the groups nested directly within it.
        carriers: the axes that carry it, of the tensors that are matched.
        moved: all tensors that change when it moves.
        stays: whether only the children move in this view, because the group itself is nested
            and moves in the view of the group that it lies within.
    """

    group: str
    size: int
    children: tuple[str, ...]
    carriers: tuple[Carrier, ...]
    moved: tuple[str, ...]
    stays: bool

    @property
    def tensors(self) -> tuple[str, ...]:
        """The tensors that carry the group, each once."""
        return tuple(dict.fromkeys(carrier.tensor for carrier in self.carriers))

    @property
    def is_linear(self) -> bool:
        """Whether one assignment is exact: no group within it, no tensor that carries it twice."""
        return not self.children and len(self.tensors) == len(self.carriers)

    def seen_from(self, settled: Collection[str]) -> View:
        """Return the view on those tensors only whose other groups are all among `settled`."""
        known = tuple(carrier for carrier in self.carriers if carrier.others <= set(settled))
        return replace(self, carriers=known)

    @property
    def weight(self) -> int:
        """How many entries each element carries in all: what there is to recognise it by."""
        return sum(carrier.weight for carrier in self.carriers)


def views(spec: PermutationSpec, tensors: Collection[str]) -> list[View]:
    """Return a view of every group of bound `spec` that no other view moves whole."""
    result = []
    parts = {name: sections(spec.axes[name], spec.groups) for name in tensors}
    for group in spec.groups.values():
        children = tuple(spec.groups.children(group.name))
        if group.within is not None and not children:
            continue
        moved = tuple(spec.carriers(group.name))
        carriers = [
            _carrier(spec, tensor, section, dim, group.name, children)
            for tensor in moved
            if tensor in tensors
            for section in parts[tensor]
            for dim, axis in enumerate(section.axes)
            if _carries(spec, axis, group.name)
        ]
        size, stays = spec.groups.length(group.name), group.within is not None
        result.append(View(group.name, size, children, tuple(carriers), moved, stays))
    return result


def _carries(spec: PermutationSpec, axis: Axis, group: str) -> bool:
    whole = {leaf.group for leaf in axes.leaves(axis) if isinstance(leaf, axes.Whole)}
    return any(group == outer.name for name in whole for outer in spec.groups.chain(name))


def _carrier(
    spec: PermutationSpec,
    tensor: str,
    section: Section,
    dim: int,
    group: str,
    children: tuple[str, ...],
) -> Carrier:
    row, nested = section.axes, []
    axis = row[dim]
    for child in children:
        if _carries(spec, axis, child):
            nested.append(Nested(child, -1, inner_occurrences(axis, spec.groups, child)))
        for other, expression in enumerate(row):
            if axes.Inner(child) not in axes.leaves(expression):
                continue
            if tensor_action.carrier(row, spec.groups, child) == dim:
                inside = inner_occurrences(expression, spec.groups, child)
                nested.append(Nested(child, other, inside))
    table = occurrences(axis, spec.groups, group)
    return Carrier(
        tensor,
        section,
        dim,
        table,
        np.array_equal(table.reshape(-1), np.arange(axis_size.size(axis, spec.groups))),
        tuple(nested),
        others=frozenset(_outermost(spec.groups, row) - {spec.groups.chain(group)[-1].name}),
        weight=_entries(spec, row) // spec.groups.length(group),
    )


def _outermost(groups: Groups, row: Sequence[Axis]) -> set[str]:
    named = {name for axis in row for name in axes.names(axis)}
    return {groups.chain(name)[-1].name for name in named}


def _entries(spec: PermutationSpec, row: Sequence[Axis]) -> int:
    return math.prod(axis_size.size(axis, spec.groups) for axis in row)


def _take(tensor: torch.Tensor, table: Indices) -> torch.Tensor:
    """Return the leading axis of `tensor` taken at `table`: shape (*table.shape, ...)."""
    flat = tensor.index_select(0, torch.from_numpy(table.reshape(-1)).to(tensor.device))
    return flat.reshape(*table.shape, *tensor.shape[1:])


def element_rows(blocks: torch.Tensor, place: int, table: Indices) -> torch.Tensor:
    """Return `blocks` (elements, m, ...) as (elements, inner elements, rest), rest flattened.

    The inner elements are those that `table` finds along dimension `place` of `blocks`.
    """
    moved = blocks.movedim(place, 0)
    taken = _take(moved, table).movedim(2, 0)
    return taken.reshape(taken.shape[0], table.shape[0], -1)
