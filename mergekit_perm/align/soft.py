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

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mergekit_perm import action
from mergekit_perm.align.soft_members import Matrices
from mergekit_perm.axes import (
    Axis,
    Concatenation,
    Fixed,
    Inner,
    Interleaving,
    Pick,
    Product,
    Slice,
    Whole,
    chosen,
    inner_group,
    interleaved,
    leaves,
    names,
    size,
)
from mergekit_perm.groups import Groups
from mergekit_perm.permspec import PermutationSpec
from mergekit_perm.permutation import Indices

Moving = Whole | Inner
_MatrixOf = Callable[[Moving], torch.Tensor]


# --------------------------------------------------------------------------------- soft action


@dataclass(frozen=True, slots=True)
class SoftAction:
    """How soft members act on the tensors of a spec.

    Attributes:
        plans: by tensor, what multiplies its axes.
    """

    plans: Mapping[str, TensorPlan]

    @property
    def degree(self) -> int:
        """The highest degree in the entries of the matrices that an entry of a tensor reaches."""
        return max((plan.degree for plan in self.plans.values()), default=0)

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
        plan = self.plans[name]
        result = tensors
        for dim, axis in plan.plain:
            result = _along(axis, result, dim + 1, lambda leaf: matrices[leaf.group])
        for nested in plan.nested:
            result = _with_inner(nested, result, matrices)
        return result


def soft_action(spec: PermutationSpec, tensors: Collection[str]) -> SoftAction:
    """Return how soft members act on those of `tensors` that bound `spec` permutes."""
    known: dict[Axis, AxisPlan] = {}
    plans = {}
    for name, row in spec.axes.items():
        if name in tensors:
            for axis in row:
                if axis not in known:
                    known[axis] = _axis_plan(axis, spec.groups)
            plans[name] = _tensor_plan(row, spec.groups, known)
    return SoftAction({name: plan for name, plan in plans.items() if plan.degree})


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    """Coordinates that one matrix moves: the entrywise product of its factors.

    Attributes:
        factors: the group of each factor, and its element for every row of the matrix; None when
            these are all elements in order.
        rows: how many rows the matrix has.
        coordinates: of the axis, row by row; None when all of the axis is in order. However many
            there are for each row, they are moved alike.
    """

    factors: tuple[tuple[Moving, torch.Tensor | None], ...]
    rows: int
    coordinates: torch.Tensor | None

    def matrix(self, of: _MatrixOf) -> torch.Tensor:
        """Return what multiplies the rows, shape (..., rows, rows)."""
        parts = [
            of(leaf) if elements is None else of(leaf)[..., elements[:, None], elements]
            for leaf, elements in self.factors
        ]
        return math.prod(parts[1:], start=parts[0])


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    """Pieces that share no coordinate.

    Attributes:
        pieces: what moves.
        rest: the coordinates that stay.
        back: where each coordinate stands when the pieces and then the rest are put together;
            None when that is where it stood.
    """

    pieces: tuple[_Piece, ...]
    rest: torch.Tensor
    back: torch.Tensor | None

    def apply(self, tensor: torch.Tensor, of: _MatrixOf) -> torch.Tensor:
        """Return `tensor` (..., size, columns) moved."""
        before, columns = tensor.shape[:-2], tensor.shape[-1]
        parts = []
        for piece in self.pieces:
            rows = _taken(tensor, piece.coordinates).reshape(*before, piece.rows, -1)
            parts.append((piece.matrix(of) @ rows).reshape(*before, -1, columns))
        if len(self.rest):
            parts.append(_taken(tensor, self.rest))
        return _taken(torch.cat(parts, dim=-2) if len(parts) > 1 else parts[0], self.back)


@dataclass(frozen=True, slots=True)
class AxisPlan:
    """What multiplies one axis: layers one after another, and the highest number of factors."""

    layers: tuple[_Layer, ...]
    degree: int


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


def _taken(tensor: torch.Tensor, coordinates: torch.Tensor | None) -> torch.Tensor:
    """Return `tensor` (..., size, columns) at `coordinates`."""
    if coordinates is None:
        return tensor
    return tensor.index_select(tensor.dim() - 2, coordinates.to(tensor.device))


def _along(plan: AxisPlan, tensor: torch.Tensor, dim: int, of: _MatrixOf) -> torch.Tensor:
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
    rows = _taken(first.reshape(count, length, -1), plan.order)
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
    return _taken(mixed, plan.order.argsort()).reshape(shape).movedim(1, plan.dim + 1)


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


# ------------------------------------------------------------------------------------- planning


def _tensor_plan(row: Sequence[Axis], groups: Groups, known: Mapping[Axis, AxisPlan]) -> TensorPlan:
    inner: dict[int, list[tuple[int, AxisPlan]]] = {}
    for dim, axis in enumerate(row):
        group = inner_group(axis)
        if group is not None and known[axis].degree:
            by = action.carrier(row, groups, group)
            inner.setdefault(by, []).append((dim, known[axis]))
    taken = {dim for parts in inner.values() for dim, _ in parts} | set(inner)
    plain = [(dim, known[axis]) for dim, axis in enumerate(row) if dim not in taken]
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
    block = action.elements(row[dim], groups, outer)
    order = torch.from_numpy(np.argsort(block, kind="stable"))
    return _NestedPlan(dim, known[row[dim]], order, groups.length(outer), tuple(inner))


def _axis_plan(axis: Axis, groups: Groups) -> AxisPlan:
    """Return how `axis` moves, orbit by orbit.

    The members carry a coordinate to every coordinate of its orbit and to no other, and within an
    orbit the elements of the groups that stand on a coordinate tell which one it is. So where a
    group has one element for each coordinate, or several have one pair, triple and so on for each,
    their matrices say what moves where.
    """
    moving = list(dict.fromkeys(leaf for leaf in leaves(axis) if not isinstance(leaf, Fixed)))
    if not moving:
        return AxisPlan((), 0)
    standing = _standing(axis, groups, moving)
    tables: dict[tuple[int, Moving], list[Indices]] = {}
    odd: list[_Piece] = []
    degree = 0
    for orbit in _orbits(axis, groups):
        leaf_of = standing[:, 0, orbit[0]]
        kept = _telling(standing[:, 1, orbit], leaf_of)
        degree = max(degree, len(kept))
        found = [moving[leaf_of[place]] for place in kept]
        elements = standing[kept][:, 1, orbit]
        extents = [int(row.max()) + 1 for row in elements]
        if math.prod(extents) != len(orbit):
            factors = zip(found, map(torch.from_numpy, elements), strict=True)
            odd.append(_Piece(tuple(factors), len(orbit), torch.from_numpy(orbit)))
            continue
        grid = orbit[np.lexsort(elements[::-1])].reshape(extents) if kept else orbit
        for layer, leaf in enumerate(found):
            columns = np.moveaxis(grid, layer, 0).reshape(extents[layer], -1)
            tables.setdefault((layer, leaf), []).append(columns)
    return AxisPlan(_layers(tables, odd, size(axis, groups)), degree)


def _layers(
    tables: Mapping[tuple[int, Moving], list[Indices]], odd: list[_Piece], length: int
) -> tuple[_Layer, ...]:
    pieces: dict[int, list[_Piece]] = {0: list(odd)}
    for (layer, leaf), columns in sorted(tables.items(), key=lambda item: item[0][0]):
        table = np.concatenate(columns, axis=1)
        piece = _Piece(((leaf, None),), len(table), _unless_in_order(table.reshape(-1), length))
        pieces.setdefault(layer, []).append(piece)
    return tuple(_layer(those, length) for those in pieces.values() if those)


def _layer(pieces: Sequence[_Piece], length: int) -> _Layer:
    every = np.arange(length)
    moved = [every if piece.coordinates is None else piece.coordinates.numpy() for piece in pieces]
    rest = np.setdiff1d(every, np.concatenate(moved))
    back = np.argsort(np.concatenate([*moved, rest]))
    return _Layer(tuple(pieces), torch.from_numpy(rest), _unless_in_order(back, length))


def _unless_in_order(coordinates: Indices, length: int) -> torch.Tensor | None:
    in_order = np.array_equal(coordinates, np.arange(length))
    return None if in_order else torch.from_numpy(coordinates)


def _telling(elements: Indices, leaf_of: Indices) -> list[int]:
    """Return the rows of `elements` (places, coordinates) that are needed to tell columns apart."""
    kept = [place for place in range(len(elements)) if leaf_of[place] >= 0]
    for place in list(kept):
        fewer = [other for other in kept if other != place]
        distinct = np.unique(elements[fewer], axis=1).shape[1] if fewer else 1
        if distinct == elements.shape[1]:
            kept = fewer
    return kept


def _orbits(axis: Axis, groups: Groups) -> list[Indices]:
    """Return the coordinates of `axis` that members carry to one another, each set in order."""
    length = size(axis, groups)
    involved = [group.name for name in sorted(names(axis)) for group in groups.chain(name)]
    steps = [
        action.source(axis, groups, member, block=0)
        for member in action.generators(groups, list(dict.fromkeys(involved)))
    ]
    ends = np.concatenate([np.arange(0), *steps])
    starts = np.tile(np.arange(length), len(steps))
    edges = coo_array((np.ones(len(ends)), (starts, ends)), shape=(length, length))
    count, label = connected_components(edges, directed=False)
    order = np.argsort(label, kind="stable")
    return np.split(order, np.cumsum(np.bincount(label, minlength=count))[:-1])


def _standing(axis: Axis, groups: Groups, moving: list[Moving]) -> Indices:
    """Return which group references stand on each coordinate, and with which of their elements.

    Shape (places, 2, size): a product has a place for each factor. Where a place is empty, -1.
    """
    match axis:
        case Fixed():
            return np.empty((0, 2, size(axis, groups)), dtype=np.int64)
        case Concatenation(terms):
            return _side_by_side([_standing(term, groups, moving) for term in terms])
        case Interleaving(blocks, terms):
            joined = _standing(Concatenation(terms), groups, moving)
            return joined[:, :, interleaved(blocks, [size(term, groups) for term in terms])]
        case Slice(base) | Pick(base):
            every = _standing(base, groups, moving)
            return every[:, :, chosen(axis, every.shape[2])]
        case Product(factors):
            return _paired([_standing(factor, groups, moving) for factor in factors])
        case _:
            count = size(axis, groups)
            return np.stack([np.full(count, moving.index(axis)), np.arange(count)])[None]


def _side_by_side(parts: list[Indices]) -> Indices:
    places = max(len(part) for part in parts)
    return np.concatenate(
        [
            np.pad(part, ((0, places - len(part)), (0, 0), (0, 0)), constant_values=-1)
            for part in parts
        ],
        axis=2,
    )


def _paired(parts: list[Indices]) -> Indices:
    result = parts[0]
    for part in parts[1:]:
        outer = np.repeat(result, part.shape[2], axis=2)
        result = np.concatenate([outer, np.tile(part, (1, 1, result.shape[2]))])
    return result
