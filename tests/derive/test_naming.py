"""What groups are called."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mergekit_perm import derive
from tests.derive.tiny import IMAGE, TOKENS, VECTOR, Net


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.fc1(x).relu())


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).movedim((-3, -2), (0, 2))
        out = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width), Mlp(width, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Stage(nn.Module):
    """Convolutions that all write to one stream."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(width, out, 1)
        self.blocks = nn.Sequential(nn.Conv2d(out, out, 1), nn.Conv2d(out, out, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.down(x)
        for block in self.blocks:
            x = x + block(x).relu()
        return x


def names(module: nn.Module, shape: tuple[int, ...]) -> dict[str, int]:
    spec = derive.derive(module, inputs=torch.randn(shape))
    return {group.name: group.size for group in spec.groups.values()}


def test_layers_are_called_after_the_modules_that_write_them() -> None:
    net = Net(lambda m, x: m.head(m.mlp(m.stem(x))), stem=nn.Linear(4, 5), mlp=Mlp(5, 7),
              head=nn.Linear(5, 2))  # fmt: skip
    assert names(net, VECTOR) == {"stem": 5, "mlp": 7, "mlp.fc2": 5}


def test_transformers() -> None:
    net = Net(lambda m, x: m.head(m.blocks(m.stem(x))), stem=nn.Linear(4, 6), head=nn.Linear(6, 2),
              blocks=nn.Sequential(Block(6, 2), Block(6, 2)))  # fmt: skip
    assert names(net, TOKENS) == {
        "stream": 6,
        **{
            f"blocks.{i}.{name}": size
            for i in (0, 1)
            for name, size in (("attn.heads", 2), ("attn.qk", 3), ("attn.vo", 3), ("mlp", 8))
        },
    }


def test_stages_are_called_after_what_their_writers_share() -> None:
    net = Net(lambda m, x: m.head(m.stages(x)), stages=nn.Sequential(Stage(3, 4), Stage(4, 5)),
              head=nn.Conv2d(5, 2, 1))  # fmt: skip
    assert names(net, IMAGE) == {"stages.0": 4, "stages.1": 5}


def test_groups_of_a_convolution() -> None:
    net = Net(lambda m, x: m.head(m.conv(m.stem(x))), stem=nn.Conv2d(3, 4, 1),
              conv=nn.Conv2d(4, 6, 1, groups=2), head=nn.Conv2d(6, 2, 1))  # fmt: skip
    assert names(net, IMAGE) == {"stem.groups": 2, "stem": 2, "conv": 3}


def test_two_groups_of_one_module_are_numbered() -> None:
    net = Net(lambda m, x: m.head(m.two(x)[:, :2] * m.two(x)[:, 2:3]) + m.last(m.two(x)[:, 3:]),
              two=nn.Linear(4, 5), head=nn.Linear(2, 3), last=nn.Linear(2, 3))  # fmt: skip
    assert names(net, VECTOR) == {"two": 2, "two_2": 2}


@pytest.mark.parametrize("name", ["0", "inner layer"])
def test_names_that_an_axis_could_not_spell_are_replaced(name: str) -> None:
    net = Net(lambda m, x: m.head(getattr(m, name)(x)), head=nn.Linear(5, 2))
    net.add_module(name, nn.Linear(4, 5))
    assert names(net, VECTOR) == {"group": 5}
