"""The mean of several networks along the arcs of a sphere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from mergekit_perm.merge.options import Within
from mergekit_perm.merge.sphere import split, towards, walk
from mergekit_perm.merge.task_vectors import total


def karcher(
    tensors: Sequence[Tensor],
    *,
    max_iter: Annotated[int, Within(0)] = 10,
    tol: Annotated[float, Within(0)] = 1e-5,
) -> Tensor:
    """Return the Karcher mean of the directions, as long as the mean of the lengths.

    The Karcher mean is the point from which the arcs to all networks cancel (arXiv 2603.04972); it
    is found by walking the mean of the arcs, again and again, from the mean of the directions.
    Tensors of zeros have no direction and count for the length alone. Where the directions cancel,
    there is no such point, and the plain mean is taken.

    Args:
        tensors: one of each network, of one shape; each is taken for one flat vector.
        max_iter: walks at most.
        tol: a walk shorter than this is the last.
    """
    directions, lengths = split(tensors)
    pointing = [one for one, length in zip(directions, lengths, strict=True) if length]
    if not pointing:
        return tensors[0].clone()
    equal = [1 / len(pointing)] * len(pointing)
    point = total(pointing, equal, normalize=False)
    size = float(torch.linalg.vector_norm(point))
    if size < 1e-8:
        return total(tensors, [1 / len(tensors)] * len(tensors), normalize=False)
    point = point / size
    for _ in range(max_iter):
        step = total([towards(point, one) for one in pointing], equal, normalize=False)
        point = walk(point, step)
        if float(torch.linalg.vector_norm(step)) < tol:
            break
    return point * (math.fsum(lengths) / len(lengths))
