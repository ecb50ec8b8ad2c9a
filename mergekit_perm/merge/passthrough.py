"""One network as it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor

from mergekit_perm.merge.options import PerNetwork, Within, each


def passthrough(
    tensors: Annotated[Sequence[Tensor], Within(1, 1)], *, scale: PerNetwork = 1.0
) -> Tensor:
    """Return the tensor of the one network, times `scale` (no paper, no arXiv).

    Args:
        tensors: that of the one network.
        scale: 1 copies it bit for bit.
    """
    (tensor,), (factor,) = tensors, each(scale, 1)
    return tensor.clone() if factor == 1 else tensor * factor
