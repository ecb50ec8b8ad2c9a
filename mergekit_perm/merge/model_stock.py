"""As far from the base model towards the mean as the angle between networks says."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from mergekit_perm.merge.options import Within
from mergekit_perm.merge.task_vectors import differences, total

Several = Annotated[Sequence[Tensor], Within(2)]


def model_stock(tensors: Several, *, base: Tensor, filter_wise: bool = False) -> Tensor:
    """Return the point between `base` and the mean that is nearest to the centre of networks.

    With n networks and the mean cosine c of their task vectors in pairs, that is at
    t = n c / (1 + (n - 1) c) from `base` to the mean (Model Stock, arXiv 2403.19522). Task vectors
    that point apart (c below 0) hold nothing in common: t is 0 then, where mergekit goes backwards
    and, near c = -1 / (n - 1), without bound.

    Args:
        tensors: one of each of two networks or more, of the shape of `base`.
        base: of the base model.
        filter_wise: do so for every entry of the first axis by itself, in tensors of two axes or
            more: a filter of a convolution is one vector. mergekit takes vectors along the last
            axis, which is the same for matrices.
    """
    count = len(tensors)
    vectors = list(differences(tensors, base))
    rows = base.shape[0] if filter_wise and base.dim() > 1 else 1
    flat = [vector.reshape(rows, -1) for vector in vectors]
    cosine = torch.stack([_cosine(a, b) for a, b in itertools.combinations(flat, 2)]).mean(0)
    cosine = cosine.clamp(0, 1)
    t = count * cosine / (1 + (count - 1) * cosine)
    mean = total(flat, [1 / count] * count, normalize=False)
    return base + (t * mean).view(base.shape)


def _cosine(first: Tensor, second: Tensor) -> Tensor:
    """Return the cosine of each row, 1 where both are 0 and 0 where one is; shape [rows, 1]."""
    lengths = [torch.linalg.vector_norm(v, dim=1, keepdim=True) for v in (first, second)]
    product = lengths[0] * lengths[1]
    cosine: Tensor = (first * second).sum(1, keepdim=True) / product.masked_fill(product == 0, 1.0)
    return cosine.masked_fill((lengths[0] == 0) & (lengths[1] == 0), 1.0)
