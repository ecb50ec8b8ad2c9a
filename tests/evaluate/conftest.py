"""Networks and data whose losses are known in closed form."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from mergekit_perm.data import Data, Split


class Product(nn.Module):
    """Logits (u v x - 1, 0): networks (u, v) and (-u, -v) compute the same."""

    def __init__(self, u: float = 0.0, v: float = 0.0) -> None:
        super().__init__()
        self.u = nn.Parameter(torch.tensor(u, dtype=torch.float64))
        self.v = nn.Parameter(torch.tensor(v, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logit = self.u * self.v * x - 1
        return torch.stack([logit, torch.zeros_like(logit)], dim=1)


@pytest.fixture
def product() -> type[Product]:
    return Product


@pytest.fixture
def split() -> Callable[..., Split]:
    def make(inputs: torch.Tensor, labels: torch.Tensor, name: str = "train") -> Split:
        return Split(name, TensorDataset(inputs, labels))

    return make


@pytest.fixture
def data(split: Callable[..., Split]) -> Data:
    """Train: x = 1, 2 with label 0. Test: x = 1 with label 0 and 1."""
    labels = torch.zeros(2, dtype=torch.int64)
    x = torch.tensor([1.0, 2.0], dtype=torch.float64)
    train = split(x, labels)
    test = split(torch.ones(2, dtype=torch.float64), torch.tensor([0, 1]), "test")
    return Data("toy", {"train": train, "test": test}, 2, (), "")


@pytest.fixture
def splits() -> dict[str, Split]:
    """Return two splits of a few small random images."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name, count in (("train", 90), ("test", 41)):
        inputs = torch.randn(count, 3, 8, 8, generator=generator)
        labels = torch.randint(10, (count,), generator=generator)
        found[name] = Split(name, TensorDataset(inputs, labels))
    return found
