"""The batches that a training sees."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mergekit_perm.errors import EvaluationError
from mergekit_perm.train.augment import augment
from mergekit_perm.train.recipe import Recipe
from mergekit_perm.train.streams import stream

if TYPE_CHECKING:
    from mergekit_perm.data import Split


class ShuffledBatches:
    """The shuffled, augmented batches of each epoch.

    Attributes:
        sizes: how many examples each batch of an epoch has.

    Raises:
        EvaluationError: there would be no batch.
    """

    __slots__ = ("_augmenting", "_device", "_ordering", "_recipe", "_split", "sizes")

    def __init__(
        self, split: Split, recipe: Recipe, module: nn.Module, *, seed: int, device: torch.device
    ) -> None:
        self._split, self._recipe, self._device = split, recipe, device
        self._ordering = torch.Generator().manual_seed(stream(seed, "order"))
        self._augmenting = torch.Generator(device).manual_seed(stream(seed, "augment"))
        self.sizes = _sizes(len(split), recipe.batch_size, module)

    @property
    def steps(self) -> int:
        """How many batches an epoch has."""
        return len(self.sizes)

    def skip(self, epochs: int) -> None:
        """Pass over the orders of as many epochs; what comes next is what would follow them."""
        for _ in range(epochs):
            torch.randperm(len(self._split), generator=self._ordering)

    def epoch(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield the batches of one more epoch, in a new order."""
        order = torch.randperm(len(self._split), generator=self._ordering)[: sum(self.sizes)]
        for x, y in self._split.batches(self._recipe.batch_size, device=self._device, order=order):
            yield augment(x, self._recipe, generator=self._augmenting), y


def _sizes(examples: int, batch_size: int, module: nn.Module) -> list[int]:
    whole, rest = divmod(examples, batch_size)
    sizes = [batch_size] * whole + [rest] * (rest > 0)
    if any(isinstance(layer, _BatchNorm) for layer in module.modules()) and sizes[-1:] == [1]:
        sizes = [size for size in sizes if size > 1]
    if not sizes:
        raise EvaluationError(
            f"nothing to train on: {examples} examples in batches of {batch_size} leave no batch "
            "(with BatchNorm a batch needs at least 2 examples)"
        )
    return sizes
