"""The layout that suits a network, and that solvers run it in."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from mergekit_perm.align.examples import Examples
from mergekit_perm.data import Split
from mergekit_perm.data.layout import quickest_layout

torch.set_num_threads(1)

CPU = torch.device("cpu")


class Seen(nn.Module):
    """A convolution that notes the layout it is given, and whose output is viewed as rows."""

    def __init__(self, *, plain_only: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.plain_only = plain_only
        self.strides: list[tuple[int, ...]] = []

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.strides.append(inputs.stride())
        maps = self.conv(inputs)
        return maps.view(len(maps), -1) if self.plain_only else maps.flatten(1)


def split_of(*shape: int) -> Split:
    inputs = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
    return Split("train", TensorDataset(inputs, torch.arange(4)))


@pytest.mark.parametrize(
    ("plain_only", "layout"),
    [(False, torch.channels_last), (True, torch.contiguous_format)],
)
def test_images_are_channels_last_where_the_module_runs_on_them(
    plain_only: bool, layout: torch.memory_format
) -> None:
    module, split = Seen(plain_only=plain_only), split_of(3, 6, 6)
    inputs, _ = next(iter(split.batches(4)))
    assert quickest_layout(module, inputs) == layout
    examples = Examples(module, split, CPU, quickest_layout(module, inputs))
    state = dict(module.state_dict())
    found = examples.run(state, inputs)
    assert module.strides[-1] == inputs.contiguous(memory_format=layout).stride()
    plain = Examples(module, split, CPU).run(state, inputs)
    torch.testing.assert_close(found, plain)


def test_rows_of_numbers_have_one_layout() -> None:
    assert quickest_layout(nn.Linear(5, 3), torch.randn(2, 5)) == torch.contiguous_format
