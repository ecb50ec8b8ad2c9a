"""The built-in residual network for small images (arXiv 1512.03385, section 4.2)."""

from __future__ import annotations

from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn
from torch.nn import functional

from mergekit_perm.errors import NetworkError
from mergekit_perm.networks.layers import IMAGE_NORMS, INITIALISATIONS, Norm, choice, whole

default_cfgs = generate_default_cfgs(
    {
        "resnet_cifar": {
            "num_classes": 10,
            "input_size": (3, 32, 32),
            "pool_size": None,
            "classifier": "head",
        }
    }
)


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut: 1x1 convolution and norm where the shape changes."""

    def __init__(self, before: int, channels: int, stride: int, make_norm: Norm | None) -> None:
        super().__init__()
        self.conv1 = _convolution(before, channels, 3, stride, make_norm)
        self.norm1 = _norm(make_norm, channels)
        self.conv2 = _convolution(channels, channels, 3, 1, make_norm)
        self.norm2 = _norm(make_norm, channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or before != channels:
            self.shortcut.append(_convolution(before, channels, 1, stride, make_norm))
            self.shortcut.append(_norm(make_norm, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return relu(x through both convolutions + x through the shortcut)."""
        y = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class ResNetCifar(nn.Module):
    """A 3x3 stem, three stages of residual blocks, global average pool and a linear head.

    Tensors: ``conv1.weight``, ``norm1.weight``, ``layer1.0.conv1.weight``,
    ``layer2.0.shortcut.0.weight``, ..., ``head.weight``.

    Args:
        depth: 6 n + 2 layers, n blocks per stage: 8, 14, 20, 32, 44, 56, 110, ...
        width: channels of the first stage; the later ones have twice and four times as many.
            ResNet-20-64 of arXiv 2404.06498 has width 64.
        norm: ``batch_norm``, ``layer_norm`` (affine, over channels at each position) or ``none``.
        num_classes: how many outputs there are.
        in_chans: channels of an image.
        init: ``default`` (PyTorch's) or ``he_normal`` (all weights normal of variance 2 / fan_in,
            biases zero; arXiv 1502.01852).
        img_size: the edge of the images it is meant for; no tensor depends on it.

    Raises:
        NetworkError: for a value that an option cannot take.
    """

    def __init__(
        self,
        depth: int = 20,
        width: int = 16,
        norm: str = "batch_norm",
        num_classes: int = 10,
        in_chans: int = 3,
        init: str = "default",
        img_size: int = 32,
    ) -> None:
        super().__init__()
        self.in_chans = whole("resnet_cifar", "in_chans", in_chans)
        edge = whole("resnet_cifar", "img_size", img_size)
        self.input_shape = (in_chans, edge, edge)
        self.num_classes = whole("resnet_cifar", "num_classes", num_classes)
        make_norm = choice("resnet_cifar", "norm", norm, IMAGE_NORMS)
        count, base = _blocks(depth), whole("resnet_cifar", "width", width)
        self.conv1 = _convolution(in_chans, base, 3, 1, make_norm)
        self.norm1 = _norm(make_norm, base)
        self.layer1 = _stage(count, base, base, 1, make_norm)
        self.layer2 = _stage(count, base, 2 * base, 2, make_norm)
        self.layer3 = _stage(count, 2 * base, 4 * base, 2, make_norm)
        self.num_features = 4 * base
        self.head = nn.Linear(self.num_features, num_classes)
        choice("resnet_cifar", "init", init, INITIALISATIONS)(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, num_classes) for `x` of shape (batch, in_chans, height, width)."""
        x = functional.relu(self.norm1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: torch.Tensor = self.head(x.mean((-2, -1)))
        return logits


@register_model
def resnet_cifar(pretrained: bool = False, **kwargs: Any) -> ResNetCifar:
    """Build the residual network by timm's rules."""
    model: ResNetCifar = build_model_with_cfg(ResNetCifar, "resnet_cifar", pretrained, **kwargs)
    return model


def permutation_spec_text(
    *,
    depth: int = 20,
    width: int = 16,
    norm: str = "batch_norm",
    num_classes: int = 10,
    in_chans: int = 3,
    init: str = "default",  # noqa: ARG001 (an option of the network that moves no neuron)
    img_size: int = 32,  # noqa: ARG001 (likewise)
) -> str:
    """Return the permutation spec of the network with these options, as YAML text.

    Every stage's residual stream is one group, and so is the inside of every block.
    """
    count, base = _blocks(depth), whole("resnet_cifar", "width", width)
    choice("resnet_cifar", "norm", norm, IMAGE_NORMS)
    groups, axes = [], _layer("conv1", "norm1", ["layer1", in_chans, 3, 3], norm)
    for stage in (1, 2, 3):
        own, before = f"layer{stage}", f"layer{max(stage - 1, 1)}"
        blocks = [f"{own}.{block}" for block in range(count)]
        channels = base * 2 ** (stage - 1)
        groups += [f"  {own}: {channels}"] + [f"  {block}: {channels}" for block in blocks]
        for block in blocks:
            axes += _layer(f"{block}.conv1", f"{block}.norm1", [block, before, 3, 3], norm)
            axes += _layer(f"{block}.conv2", f"{block}.norm2", [own, block, 3, 3], norm)
            if before != own:
                shortcut = f"{block}.shortcut"
                axes += _layer(f"{shortcut}.0", f"{shortcut}.1", [own, before, 1, 1], norm)
            before = own
    options = (
        f"{{depth: {depth}, width: {width}, norm: {norm}, "
        f"num_classes: {num_classes}, in_chans: {in_chans}}}"
    )
    lines = ["format: perm-merge/permspec@1", "architecture: resnet_cifar", f"options: {options}"]
    lines += ["groups:", *groups, "axes:", *axes, f"  head.weight: [{num_classes}, layer3]"]
    return "\n".join(lines) + "\n"


def _layer(convolution: str, norm_name: str, row: list[str | int], norm: str) -> list[str]:
    """Return the lines of the spec for one convolution and its norm, or its bias without one."""
    follower = f"{convolution}.bias" if norm == "none" else f"{norm_name}.*"
    axes = ", ".join(map(str, row))
    return [f"  {convolution}.weight: [{axes}]", f"  {follower}: [{row[0]}]"]


def _convolution(
    before: int, after: int, kernel: int, stride: int, make_norm: Norm | None
) -> nn.Module:
    bias = make_norm is None
    return nn.Conv2d(before, after, kernel, stride=stride, padding=kernel // 2, bias=bias)


def _norm(make_norm: Norm | None, channels: int) -> nn.Module:
    return make_norm(channels) if make_norm else nn.Identity()


def _stage(
    count: int, before: int, channels: int, stride: int, make_norm: Norm | None
) -> nn.Sequential:
    first = Block(before, channels, stride, make_norm)
    return nn.Sequential(
        first, *(Block(channels, channels, 1, make_norm) for _ in range(count - 1))
    )


def _blocks(depth: Any) -> int:
    if isinstance(depth, bool) or not isinstance(depth, int) or depth < 8 or (depth - 2) % 6:
        raise NetworkError(
            f"resnet_cifar: depth is {depth!r}, not 6 n + 2: 8, 14, 20, 32, 44, 56, 110, ..."
        )
    return (depth - 2) // 6
