"""Mean and variance per channel over batches that are seen one at a time."""

from __future__ import annotations

import torch

from mergekit_perm.devices import in_float64


class Pooled:
    """Pools the statistics of batches with their sizes, in float64 (Chan et al. 1979).

    Attributes:
        count: numbers per channel so far: examples times positions.
        calls: batches so far.
        mean: per channel; None before the first batch.
    """

    __slots__ = ("_squares", "calls", "count", "mean")

    def __init__(self) -> None:
        self.count, self.calls = 0, 0
        self.mean: torch.Tensor | None = None
        self._squares = torch.zeros(())

    def add(self, mean: torch.Tensor, variance: torch.Tensor, count: int) -> None:
        """Add a batch.

        Args:
            mean: per channel.
            variance: per channel, unbiased.
            count: numbers per channel.
        """
        mean, squares = in_float64(mean), in_float64(variance) * (count - 1)
        if self.mean is None:
            self.mean, self._squares = mean, squares
        else:
            total = self.count + count
            shift = mean - self.mean
            self._squares = self._squares + squares + shift**2 * (self.count * count / total)
            self.mean = self.mean + shift * (count / total)
        self.count, self.calls = self.count + count, self.calls + 1

    @property
    def variance(self) -> torch.Tensor:
        """The unbiased variance per channel."""
        return self._squares / (self.count - 1)

    @property
    def spread(self) -> torch.Tensor:
        """The variance per channel of what was seen, as it is: not unbiased."""
        return self._squares / self.count
