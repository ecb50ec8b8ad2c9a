"""Points on the arc between two networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor

from mergekit_perm.merge.options import PerNetwork, Within, each
from mergekit_perm.merge.sphere import along_arc
from mergekit_perm.merge.task_vectors import differences, divided

# Where the arc of `nuslerp` is as good as straight: its sine is then lost to rounding.
_STRAIGHT = 1 - 1e-10

One = Annotated[Sequence[Tensor], Within(1, 1)]
Two = Annotated[Sequence[Tensor], Within(2, 2)]


def slerp(tensors: One, *, base: Tensor, t: Annotated[float, Within(0, 1)]) -> Tensor:
    """Return the point at `t` of the arc from `base` to the one network (Shoemake 1985; no arXiv).

    A tensor is taken for one flat vector. Where the cosine of two is beyond 0.9995, either way, or
    one is 0, the point is on the straight line between them.

    Args:
        tensors: that of the one network, of the shape of `base`.
        base: of the base model.
        t: 0 is the base model, 1 the other network.
    """
    (tensor,) = tensors
    return along_arc(base.flatten(), tensor.flatten(), t, dim=0).view(base.shape)


def nuslerp(
    tensors: Two,
    *,
    base: Tensor | None = None,
    weight: PerNetwork = 1.0,
    nuslerp_row_wise: bool = False,
    nuslerp_flatten: bool = True,
) -> Tensor:
    """Return a point of the arc between two networks by their weights (no paper, no arXiv).

    With a base model the arc is between the task vectors. As in `slerp`, the point is on a
    straight line where the arc is not defined well: of nearly opposite vectors, and of 0.

    Args:
        tensors: of two networks, of one shape.
        base: of the base model, of the same shape, or None.
        weight: of each network; the second one's share of the sum is the place on the arc.
        nuslerp_row_wise: without `nuslerp_flatten`, false takes vectors along the last axis, true
            along the first: what mergekit 0.1.5 computes, in spite of the name.
        nuslerp_flatten: take a tensor for one flat vector.

    Raises:
        MergeError: weights that sum to 0.
    """
    first, second = tensors if base is None else differences(tensors, base)
    t = divided(each(weight, 2))[1]
    if nuslerp_flatten or first.dim() < 2:
        flat = first.flatten(), second.flatten()
        point = along_arc(*flat, t, dim=0, parallel=_STRAIGHT).view(first.shape)
    else:
        dim = 0 if nuslerp_row_wise else -1
        point = along_arc(first, second, t, dim=dim, parallel=_STRAIGHT)
    return point if base is None else base + point
