"""Soft members: the action of the symmetry group continued from permutations to matrices.

A permutation in gather form, `p[i]` the source of target i, is the matrix with X[i, p[i]] = 1, and
permutes by y = X x. A *soft member* gives every group any matrix over its whole length, as convex
combinations of members do (of wreath products where groups are nested: whole blocks move with the
outer group). Each permuted coordinate of a tensor is multiplied by the matrices of the groups that
move it, so the action is a polynomial, linear in each group that moves a coordinate once, and at
permutations it equals `PermutationSpec.act`. C2M3 (arXiv 2405.17897) and Sinkhorn re-basin (arXiv
2212.12042) do this for groups that are whole axes.

On a tensor with `inner(g)`, entry (i, a), (i, b) of block i is the sum over source blocks j of
M_out[(i, a), (j, a')] M_in[(i, b), (j, b')] theta[(j, a'), b']: right at permutations, where one j
counts; between them a block that is spread over several j loses weight.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mergekit_perm import tensor_action
from mergekit_perm.align.soft_axes import AxisPlan, MatrixOf, Moving, axis_plan, taken
from mergekit_perm.align.soft_members import Matrices
from mergekit_perm.axes import Axis, Whole, inner_group
from mergekit_perm.axis_elements import elements
from mergekit_perm.groups import Groups
from mergekit_perm.permspec import PermutationSpec
from mergekit_perm.sections import Section, sections


@dataclass(frozen=True, slots=True)
class SoftAction:
    """How soft members act on the tensors of a spec.

    Attributes:
        plans: by tensor, what multiplies the axes of each of its sections.
    """

    plans: Mapping[str, Sequence[tuple[Section, TensorPlan]]]

    @property
    def degree(self) -> int:
        """The highest degree in the entries of the matrices that an entry of a tensor reaches."""
        return max((plan.degree for parts in self.plans.values() for _, plan in parts), default=0)

    def act(self, name: str, tensors: torch.Tensor, matrices: Matrices) -> torch.Tensor:
        """Return one tensor of every network moved, differentiably.

        Args:
            name: the tensor's name; one without permuted axes comes back as it is.
            tensors: shape (networks, *shape of the tensor).
            matrices: a soft member per network, of the dtype and on the device of `tensors`.

        Returns:
            The shape of `tensors`.
        """
        if name not in self.plans:
            return tensors
        result = tensors
        for section, plan in self.plans[name]:
            result = section.replaced(result, plan.act(section.of(tensors, 1), matrices), 1)
        return result


def soft_action(spec: PermutationSpec, tensors: Collection[str]) -> SoftAction:
    """Return how soft members act on those of `tensors` that bound `spec` permutes."""
    known: dict[Axis, AxisPlan] = {}
    plans = {}
    for name, row in spec.axes.items():
        if name in tensors:
            parts = sections(row, spec.groups)
            planned = [(part, _tensor_plan(part.axes, spec.groups, known)) for part in parts]
            plans[name] = [(part, plan) for part, plan in planned if plan.degree]
    return SoftAction({name: parts for name, parts in plans.items() if parts})


@dataclass(frozen=True, slots=True, eq=False)
class _NestedPlan:
    """Axes with `inner`, and the axis whose coordinates choose their blocks.

    Attributes:
        dim: the dimension that chooses.
        axis: its plan.
        order: its coordinates, block by block.
        blocks: how many blocks there are.
        inner: the dimensions with `inner`, and their plans.
    """

    dim: int
    axis: AxisPlan
    order: torch.Tensor
    blocks: int
    inner: tuple[tuple[int, AxisPlan], ...]


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """What multiplies the axes of one tensor.

    Attributes:
        plain: the dimensions that move on their own, and their plans.
        nested: the dimensions with `inner`, by the dimension that chooses their blocks.
        degree: the highest number of matrices whose entries multiply one entry of the tensor.
    """

    plain: tuple[tuple[int, AxisPlan], ...]
    nested: tuple[_NestedPlan, ...]
    degree: int

    def act(self, tensors: torch.Tensor, matrices: Matrices) -> torch.Tensor:
        """Return `tensors` (networks, ...) moved."""
        result = tensors
        for dim, axis in self.plain:
            result = _along(axis, result, dim + 1, lambda leaf: matrices[leaf.group])
        for nested in self.nested:
            result = _with_inner(nested, result, matrices)
        return result


def _along(plan: AxisPlan, tensor: torch.Tensor, dim: int, of: MatrixOf) -> torch.Tensor:
    """Return `tensor` (networks, ...) with dimension `dim` moved."""
    moved = tensor.movedim(dim, 1)
    rows = moved.reshape(*moved.shape[:2], -1)
    for layer in plan.layers:
        rows = layer.apply(rows, of)
    return rows.reshape(moved.shape).movedim(1, dim)


def _with_inner(plan: _NestedPlan, tensor: torch.Tensor, matrices: Matrices) -> torch.Tensor:
    """Return `tensor` moved along the axis that chooses blocks and those with `inner` at once."""
    count, blocks = len(tensor), plan.blocks
    first = tensor.movedim(plan.dim + 1, 1)
    length, shape = first.shape[1], first.shape
    rows = taken(first.reshape(count, length, -1), plan.order)
    # Every target block sees every source block through its own inner matrices.
    seen = rows.reshape(count, 1, blocks, length // blocks, *shape[2:])
    seen = seen.expand(count, blocks, *seen.shape[2:])
    for dim, axis in plan.inner:
        place = dim + (4 if dim < plan.dim else 3)
        moved = seen.movedim(place, 3)
        flat = moved.reshape(*moved.shape[:4], -1)
        for layer in axis.layers:
            flat = layer.apply(flat, lambda leaf: _by_blocks(leaf, matrices, blocks))
        seen = flat.reshape(moved.shape).movedim(3, place)
    outer = _matrix(plan.axis, length, matrices, tensor)[:, plan.order[:, None], plan.order]
    outer = outer.reshape(count, blocks, length // blocks, length)
    mixed = (outer @ seen.reshape(count, blocks, length, -1)).reshape(count, length, -1)
    return taken(mixed, plan.order.argsort()).reshape(shape).movedim(1, plan.dim + 1)


def _by_blocks(leaf: Moving, matrices: Matrices, blocks: int) -> torch.Tensor:
    """Return a matrix for every pair of a target and a source block, after the networks."""
    matrix = matrices[leaf.group]
    if isinstance(leaf, Whole):
        return matrix[:, None, None]
    inner = matrix.shape[-1] // blocks
    return matrix.reshape(-1, blocks, inner, blocks, inner).transpose(2, 3)


def _matrix(plan: AxisPlan, length: int, matrices: Matrices, like: torch.Tensor) -> torch.Tensor:
    """Return what multiplies an axis of `length` coordinates as one matrix per network."""
    still = torch.eye(length, dtype=like.dtype, device=like.device)
    return _along(plan, still.expand(len(like), -1, -1), 1, lambda leaf: matrices[leaf.group])


def _tensor_plan(row: Sequence[Axis], groups: Groups, known: dict[Axis, AxisPlan]) -> TensorPlan:
    for axis in row:
        if axis not in known:
            known[axis] = axis_plan(axis, groups)
    inner: dict[int, list[tuple[int, AxisPlan]]] = {}
    for dim, axis in enumerate(row):
        group = inner_group(axis)
        if group is not None and known[axis].degree:
            by = tensor_action.carrier(row, groups, group)
            inner.setdefault(by, []).append((dim, known[axis]))
    nested = {dim for parts in inner.values() for dim, _ in parts} | set(inner)
    plain = [(dim, known[axis]) for dim, axis in enumerate(row) if dim not in nested]
    return TensorPlan(
        plain=tuple((dim, plan) for dim, plan in plain if plan.degree),
        nested=tuple(_nested_plan(by, row, groups, known, parts) for by, parts in inner.items()),
        degree=sum(known[axis].degree for axis in row),
    )


def _nested_plan(
    dim: int,
    row: Sequence[Axis],
    groups: Groups,
    known: Mapping[Axis, AxisPlan],
    inner: list[tuple[int, AxisPlan]],
) -> _NestedPlan:
    outer = groups[inner_group(row[inner[0][0]]) or ""].within or ""
    block = elements(row[dim], groups, outer)
    order = torch.from_numpy(np.argsort(block, kind="stable"))
    return _NestedPlan(dim, known[row[dim]], order, groups.length(outer), tuple(inner))
