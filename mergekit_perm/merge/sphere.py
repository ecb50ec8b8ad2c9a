"""Geometry of spheres: directions and lengths of tensors that are taken for vectors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

PARALLEL = 0.9995
"""Vectors of a higher cosine are parallel to `slerp`; below its opposite there is no one arc."""


def along_arc(
    first: Tensor, second: Tensor, t: float, *, dim: int, parallel: float = PARALLEL
) -> Tensor:
    """Return the vectors at `t` of the arcs from `first` to `second` (Shoemake 1985).

    Where two vectors are nearly parallel or opposite, or one is 0, the point is on the straight
    line between them instead.

    Args:
        first, second: of one shape; the vectors run along the axis `dim`.
        t: 0 is `first`, 1 is `second`.
        dim: an axis.
        parallel: the cosine beyond which vectors are parallel.
    """
    lengths = [torch.linalg.vector_norm(v, dim=dim, keepdim=True) for v in (first, second)]
    product = lengths[0] * lengths[1]
    empty = product == 0
    safe = product.masked_fill(empty, 1.0)
    cosine = ((first * second).sum(dim, keepdim=True) / safe).clamp(-1, 1)
    straight = empty | (cosine > parallel) | (cosine < -PARALLEL)
    angle = torch.acos(cosine)
    sine = angle.sin().masked_fill(straight, 1.0)
    one = torch.where(straight, 1 - t, ((1 - t) * angle).sin() / sine)
    other = torch.where(straight, t, (t * angle).sin() / sine)
    return one * first + other * second


def split(tensors: Sequence[Tensor]) -> tuple[list[Tensor], list[float]]:
    """Return the directions of `tensors`, of length 1 (or 0 where all is 0), and their lengths."""
    lengths = [float(torch.linalg.vector_norm(tensor)) for tensor in tensors]
    directions = [t / n if n else t for t, n in zip(tensors, lengths, strict=True)]
    return directions, lengths


def towards(start: Tensor, end: Tensor) -> Tensor:
    """Return the tangent at `start` that leads to `end`, as long as the arc (logarithm map).

    Both are directions of length 1; none leads to the opposite or to a tensor of zeros.
    """
    cosine = float((start * end).sum().clamp(-1, 1))
    side = end - cosine * start
    length = torch.linalg.vector_norm(side)
    if length < 1e-12 or not bool(end.any()):
        return torch.zeros_like(start)
    tangent: Tensor = side * (torch.atan2(length, length.new_tensor(cosine)) / length)
    return tangent


def walk(start: Tensor, tangent: Tensor) -> Tensor:
    """Return where a walk from `start` along `tangent` ends, on the sphere (exponential map)."""
    length = torch.linalg.vector_norm(tangent)
    if length == 0:
        return start
    end: Tensor = length.cos() * start + (length.sin() / length) * tangent
    return end
