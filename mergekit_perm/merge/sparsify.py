"""Ways to thin a task vector out: by size, by chance, and by both."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mergekit_perm.errors import MergeError
from mergekit_perm.merge.task_vectors import TaskVector
from mergekit_perm.weighted import wide


def middle(
    tensor: Tensor, base: Tensor, density: float, gamma: float = 0.0, *, rescale: bool
) -> TaskVector:
    """Return a task vector without its largest and its smallest elements.

    The share `gamma` that is largest in size becomes 0, and so do the smallest, until the share
    `density` is left (arXiv 2306.01708, 2312.06795). Where both cannot be had, fewer of the largest
    go. As many are left as whole numbers allow, rounded down, and at least one unless `density`
    is 0. Sizes are compared in float32, or in float64 where `tensor` is; of equal ones the first
    is the largest.

    Args:
        tensor: of the network.
        base: of the base model.
        density, gamma: shares, from 0 to 1.
        rescale: scale what is left until its L1 norm is that of the whole vector.
    """
    vector, count = TaskVector(tensor), tensor.numel()
    left = number_kept(count, density)
    if left == count:
        return vector
    dropped_top = min(_whole(gamma * count), count - left)
    fine = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    sizes = _sizes(vector, base, fine)
    mask = largest(sizes, dropped_top + left)
    if dropped_top:
        mask &= ~largest(sizes, dropped_top)
    factor = _restoring(_sizes(vector, base, wide(tensor)), mask) if rescale else 1.0
    return TaskVector(tensor, mask.view(tensor.shape), factor)


def _sizes(vector: TaskVector, base: Tensor, dtype: torch.dtype) -> Tensor:
    """Return how large the elements of `vector` are, as one row."""
    return vector.since(base.to(dtype)).abs_().flatten()


def largest(numbers: Tensor, count: int) -> Tensor:
    """Return a mask of the `count` largest of `numbers` (of one axis), the first of equal ones."""
    total = numbers.numel()
    if count in (0, total):
        return torch.full_like(numbers, count > 0, dtype=torch.bool)
    least = _at_place(numbers, total - count)
    mask = numbers >= least
    surplus = int(mask.count_nonzero()) - count
    if surplus > 0:
        equal = (numbers == least).nonzero().flatten()
        mask[equal[-surplus:]] = False
    return mask


def _at_place(numbers: Tensor, place: int) -> float:
    """Return which of `numbers` is at `place`, counted from 0, when they are in order."""
    if numbers.device.type == "cpu" and numbers.dtype in (torch.float32, torch.float64):
        # Ten times as fast as torch's: it compares several numbers at once.
        return float(np.partition(numbers.detach().numpy(), place)[place])
    return float(numbers.kthvalue(place + 1).values)


def number_kept(count: int, density: float) -> int:
    """Return how many of `count` elements the share `density` is."""
    return max(min(_whole(density * count), count), 1 if density > 0 and count else 0)


def by_chance(tensor: Tensor, chance: Tensor | float, generator: torch.Generator) -> Tensor:
    """Return a mask of elements that are kept by chance, of the shape of `tensor`.

    Args:
        tensor: of any shape and device.
        chance: that of each element to be kept, of the same shape, or a single one.
        generator: on the CPU, so that the same elements are kept on every device.
    """
    drawn = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
    return drawn.to(tensor.device, wide(tensor)) < chance


def chances_by_rank(vector: Tensor, density: float, epsilon: float) -> Tensor:
    """Return the chance of every element to be kept, higher for larger ones (arXiv 2406.11617).

    Within each row (the last axis) the chances rise evenly with rank from `density` - `epsilon` for
    the smallest to `density` + `epsilon` for the largest element, and average `density`.

    Raises:
        MergeError: these are no chances.
    """
    if density == 1.0:
        return torch.ones_like(vector)
    if density - epsilon < 0 or density + epsilon > 1:
        raise MergeError(
            f"density {density:g} with epsilon {epsilon:g}: elements would be kept with chances "
            f"from {density - epsilon:g} to {density + epsilon:g}; both have to lie within 0 and 1"
        )
    rows = vector.abs().reshape(-1, vector.shape[-1] if vector.dim() else 1)
    width = rows.shape[1]
    ranks = rows.argsort(dim=1, stable=True).argsort(dim=1).to(vector.dtype)
    place = ranks / (width - 1) if width > 1 else torch.full_like(ranks, 0.5)
    return (density + epsilon * (2 * place - 1)).view(vector.shape)


def _restoring(sizes: Tensor, mask: Tensor) -> float:
    """Return the factor by which what is left adds up to as much as all of `sizes` (L1 norm)."""
    left = float((sizes * mask).sum())
    return float(sizes.sum()) / left if left > 0 else 1.0


def _whole(number: float) -> int:
    # 0.57 * 100 is 56.99999999999999, and means 57.
    return int(number + 1e-6)
