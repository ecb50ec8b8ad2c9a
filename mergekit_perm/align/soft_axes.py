"""How a soft member moves one axis: which matrices multiply which of its coordinates."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mergekit_perm import axis_action
from mergekit_perm.axes import (
    Axis,
    Block,
    Concatenation,
    Fixed,
    Inner,
    Interleaving,
    Pick,
    Product,
    Slice,
    Whole,
    leaves,
    names,
)
from mergekit_perm.axis_size import chosen, interleaved, size
from mergekit_perm.groups import Groups
from mergekit_perm.members import generators
from mergekit_perm.permutation import Indices

Moving = Whole | Inner
MatrixOf = Callable[[Moving], torch.Tensor]


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

    def matrix(self, of: MatrixOf) -> torch.Tensor:
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

    def apply(self, tensor: torch.Tensor, of: MatrixOf) -> torch.Tensor:
        """Return `tensor` (..., size, columns) moved."""
        before, columns = tensor.shape[:-2], tensor.shape[-1]
        parts = []
        for piece in self.pieces:
            rows = taken(tensor, piece.coordinates).reshape(*before, piece.rows, -1)
            parts.append((piece.matrix(of) @ rows).reshape(*before, -1, columns))
        if len(self.rest):
            parts.append(taken(tensor, self.rest))
        return taken(torch.cat(parts, dim=-2) if len(parts) > 1 else parts[0], self.back)


@dataclass(frozen=True, slots=True)
class AxisPlan:
    """What multiplies one axis: layers one after another, and the highest number of factors."""

    layers: tuple[_Layer, ...]
    degree: int


def taken(tensor: torch.Tensor, coordinates: torch.Tensor | None) -> torch.Tensor:
    """Return `tensor` (..., size, columns) at `coordinates`."""
    if coordinates is None:
        return tensor
    return tensor.index_select(tensor.dim() - 2, coordinates.to(tensor.device))


def axis_plan(axis: Axis, groups: Groups) -> AxisPlan:
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
        axis_action.source(axis, groups, member, block=0)
        for member in generators(groups, list(dict.fromkeys(involved)))
    ]
    ends = np.concatenate([np.arange(0), *steps])
    starts = np.tile(np.arange(length), len(steps))
    from scipy.sparse import coo_array  # which take long to load
    from scipy.sparse.csgraph import connected_components

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
        case Block():
            raise TypeError("soft members move sections, which have no inner(n, a)")
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
