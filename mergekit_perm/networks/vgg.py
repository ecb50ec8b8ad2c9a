"""The built-in VGG of any width (arXiv 1409.1556, as arXiv 2404.06498 trains it)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn
from torch.nn import functional

from mergekit_perm.networks.layers import IMAGE_NORMS, INITIALISATIONS, choice, whole

default_cfgs = generate_default_cfgs(
    {
        "vgg": {
            "num_classes": 10,
            "input_size": (3, 32, 32),
            "pool_size": None,
            "classifier": "head",
        }
    }
)

# Convolutions per stage; stages have widths 1, 2, 4, 8, 8 times the base, with pooling between.
_STAGES = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
_FACTORS = (1, 2, 4, 8, 8)


class Halve(nn.Module):
    """Maximum pooling by two; an edge of length one stays as it is."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the pooled map, (batch, channels, height // 2 or 1, width // 2 or 1)."""
        kernel = [min(2, edge) for edge in x.shape[-2:]]
        return x if kernel == [1, 1] else functional.max_pool2d(x, kernel)


class VGG(nn.Module):
    """Stages of 3x3 convolutions, halved in between; global average pool and a linear head.

    Tensors: ``features.0.weight``, ..., ``head.weight``. Images of 1x1 and larger work; an edge
    is no longer halved once it is one pixel long.

    Args:
        depth: 11, 13, 16 or 19 layers, counted as in the paper.
        width: channels of the first stage; the later ones have 2, 4, 8 and 8 times as many.
        norm: ``layer_norm`` (affine, over channels at each position), ``batch_norm`` or ``none``,
            between a convolution and its ReLU.
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
        depth: int = 16,
        width: int = 64,
        norm: str = "layer_norm",
        num_classes: int = 10,
        in_chans: int = 3,
        init: str = "default",
        img_size: int = 32,
    ) -> None:
        super().__init__()
        self.in_chans = whole("vgg", "in_chans", in_chans)
        edge = whole("vgg", "img_size", img_size)
        self.input_shape = (in_chans, edge, edge)
        self.num_classes = whole("vgg", "num_classes", num_classes)
        make_norm = choice("vgg", "norm", norm, IMAGE_NORMS)
        layers: list[nn.Module] = []
        before = in_chans
        for channels in _plan(depth, width):
            if channels is None:
                layers.append(Halve())
                continue
            # Batch normalisation subtracts any bias again.
            layers.append(nn.Conv2d(before, channels, 3, padding=1, bias=norm != "batch_norm"))
            layers += [make_norm(channels)] if make_norm else []
            layers.append(nn.ReLU())
            before = channels
        self.features = nn.Sequential(*layers)
        self.num_features = before
        self.head = nn.Linear(before, num_classes)
        choice("vgg", "init", init, INITIALISATIONS)(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, num_classes) for `x` of shape (batch, in_chans, height, width)."""
        logits: torch.Tensor = self.head(self.features(x).mean((-2, -1)))
        return logits


@register_model
def vgg(pretrained: bool = False, **kwargs: Any) -> VGG:
    """Build the VGG by timm's rules."""
    model: VGG = build_model_with_cfg(VGG, "vgg", pretrained, **kwargs)
    return model


def permutation_spec_text(
    *,
    depth: int = 16,
    width: int = 64,
    norm: str = "layer_norm",
    num_classes: int = 10,
    in_chans: int = 3,
    init: str = "default",  # noqa: ARG001 (an option of the network that moves no neuron)
    img_size: int = 32,  # noqa: ARG001 (likewise)
) -> str:
    """Return the permutation spec of the network with these options, as YAML text.

    The output channels of every convolution are one group, named after it.
    """
    choice("vgg", "norm", norm, IMAGE_NORMS)
    groups, axes = [], []
    before: int | str = in_chans
    for place, channels in _convolutions(depth, width, norm):
        own = f"features.{place}"
        groups.append(f"  {own}: {channels}")
        axes.append(f"  {own}.weight: [{own}, {before}, 3, 3]")
        if norm != "batch_norm":
            axes.append(f"  {own}.bias: [{own}]")
        if norm != "none":
            axes.append(f"  features.{place + 1}.*: [{own}]")
        before = own
    options = (
        f"{{depth: {depth}, width: {width}, norm: {norm}, "
        f"num_classes: {num_classes}, in_chans: {in_chans}}}"
    )
    lines = ["format: perm-merge/permspec@1", "architecture: vgg", f"options: {options}"]
    lines += ["groups:", *groups, "axes:", *axes, f"  head.weight: [{num_classes}, {before}]"]
    return "\n".join(lines) + "\n"


def _plan(depth: Any, width: Any) -> Iterator[int | None]:
    """Yield the channels of every convolution in order, and None where the map is halved."""
    counts, base = choice("vgg", "depth", depth, _STAGES), whole("vgg", "width", width)
    for stage, (count, factor) in enumerate(zip(counts, _FACTORS, strict=True)):
        if stage:
            yield None
        yield from [base * factor] * count


def _convolutions(depth: int, width: int, norm: str) -> Iterator[tuple[int, int]]:
    """Yield (place in `features`, channels) of every convolution."""
    place = 0
    for channels in _plan(depth, width):
        if channels is None:
            place += 1
        else:
            yield place, channels
            place += 2 if norm == "none" else 3
