"""What recipes on task vectors share: differences from a base model, weighted and added up.

A recipe that looks at one element at a time, once it knows which elements of a task vector are
left, is `moved` by `TaskVector`s: of many networks little is then in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mergekit_perm.errors import MergeError
from mergekit_perm.weighted import parts, wide


@dataclass(frozen=True, slots=True)
class TaskVector:
    """How a tensor differs from that of a base model; made anew wherever it is needed.

    Attributes:
        tensor: of the network, in its own dtype.
        kept: a mask of the elements that are left, the rest being 0; None for all.
        factor: what they are multiplied by, one number or one for each element.
    """

    tensor: Tensor
    kept: Tensor | None = None
    factor: Tensor | float = 1.0

    def since(self, base: Tensor) -> Tensor:
        """Return the vector from `base`, which is of the same shape, in the dtype of that."""
        vector = self.tensor.to(base.dtype) - base
        if self.kept is not None:
            vector.mul_(self.kept)
        whole = isinstance(self.factor, float) and self.factor == 1
        return vector if whole else vector.mul_(self.factor)

    def parts(self) -> Iterator[TaskVector]:
        """Yield the parts that `weighted.parts` divides contiguous tensors of its shape into."""
        own = [part for part in (self.kept, self.factor) if isinstance(part, Tensor)]
        for tensor, *others in parts([part.contiguous() for part in (self.tensor, *own)]):
            kept = None if self.kept is None else others[0]
            factor = others[-1] if isinstance(self.factor, Tensor) else self.factor
            yield TaskVector(tensor, kept, factor)


@torch.no_grad()
def moved(
    base: Tensor,
    vectors: Sequence[TaskVector],
    combine: Callable[[Sequence[Tensor]], Tensor],
    length: float,
) -> Tensor:
    """Return `base` + `length` * `combine`(`vectors`), part by part.

    Args:
        base: of the base model.
        vectors: one or more.
        combine: makes one vector of several, element by element.
        length: of the step.
    """
    dtypes = {base.dtype, *(vector.tensor.dtype for vector in vectors)}
    result = torch.empty_like(
        base,
        dtype=base.dtype if len(dtypes) == 1 else wide(base),  # rounded once
        memory_format=torch.contiguous_format,
    )
    for (place, start), *each in zip(
        parts([result, base.contiguous()]), *(vector.parts() for vector in vectors), strict=True
    ):
        origin = start.to(wide(start))
        step = combine([vector.since(origin) for vector in each])
        place.copy_(step.mul_(length).add_(origin))
    return result


def differences(tensors: Iterable[Tensor], base: Tensor) -> Iterator[Tensor]:
    """Yield the task vectors: how each of `tensors` differs from `base` (of the same shape)."""
    return (tensor - base for tensor in tensors)


def total(vectors: Iterable[Tensor], weights: Sequence[float], *, normalize: bool) -> Tensor:
    """Return the weighted sum of `vectors` (one or more, of one shape).

    Args:
        vectors: to be added up, one or more; those of weight 0 are never read.
        weights: as many numbers.
        normalize: divide the weights by their sum.

    Raises:
        MergeError: weights that sum to 0 while `normalize` is set.
    """
    factors = divided(weights) if normalize else weights
    result = None
    for vector, factor in zip(vectors, factors, strict=True):
        result = torch.zeros_like(vector) if result is None else result
        if factor:
            result.add_(vector, alpha=factor)
    if result is None:
        raise MergeError("there are no vectors to add up")
    return result


def divided(weights: Sequence[float]) -> list[float]:
    """Return `weights` divided by their sum.

    Raises:
        MergeError: they sum to 0.
    """
    whole = math.fsum(weights)
    if sum_to_zero(weights):
        shown = ", ".join(f"{weight:g}" for weight in weights)
        raise MergeError(
            f"the weights sum to 0 ({shown}), so they cannot be normalised; change them, "
            "or switch normalising off where the recipe has an option for that"
        )
    return [weight / whole for weight in weights]


def sum_to_zero(weights: Sequence[float]) -> bool:
    """Tell whether `weights` cancel, up to rounding."""
    return abs(math.fsum(weights)) <= 1e-12 * math.fsum(map(abs, weights))
