"""The built-in multilayer perceptron, and the permutations that leave its function as it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn
from torch.nn import functional

from mergekit_perm.errors import NetworkError
from mergekit_perm.networks.layers import INITIALISATIONS, VECTOR_NORMS, choice, whole

default_cfgs = generate_default_cfgs({"mlp": {"num_classes": 10, "classifier": "head"}})


class MLP(nn.Module):
    """Linear layers with normalisation and ReLU between them; inputs are flattened.

    Tensors: ``layers.0.weight``, ``norms.0.weight``, ..., ``head.weight``.

    Args:
        in_features: how many numbers an input has, all axes together.
        hidden: the width of every hidden layer.
        num_classes: how many outputs there are.
        norm: ``none``, ``layer_norm`` or ``batch_norm``, between a layer and its ReLU.
        init: ``default`` (PyTorch's) or ``he_normal`` (all weights normal of variance 2 / fan_in,
            biases zero; arXiv 1502.01852).

    Raises:
        NetworkError: for a value that an option cannot take.
    """

    def __init__(
        self,
        in_features: int = 784,
        hidden: Sequence[int] = (128, 128),
        num_classes: int = 10,
        norm: str = "none",
        init: str = "default",
    ) -> None:
        super().__init__()
        self.input_shape = (whole("mlp", "in_features", in_features),)
        self.num_classes = whole("mlp", "num_classes", num_classes)
        make_norm = choice("mlp", "norm", norm, VECTOR_NORMS)
        widths = _widths(hidden)
        sizes = [in_features, *widths]
        self.layers = nn.ModuleList(
            nn.Linear(before, after) for before, after in zip(sizes, widths, strict=False)
        )
        self.norms = nn.ModuleList(make_norm(width) for width in widths if make_norm)
        self.num_features = sizes[-1]
        self.head = nn.Linear(self.num_features, num_classes)
        choice("mlp", "init", init, INITIALISATIONS)(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits of shape (batch, num_classes) for `x` of shape (batch, ...)."""
        x = x.flatten(1)
        for place, layer in enumerate(self.layers):
            x = layer(x)
            if len(self.norms):
                x = self.norms[place](x)
            x = functional.relu(x)
        logits: torch.Tensor = self.head(x)
        return logits


@register_model
def mlp(pretrained: bool = False, **kwargs: Any) -> MLP:
    """Build the multilayer perceptron by timm's rules."""
    if "in_chans" in kwargs:
        raise NetworkError("mlp has no option 'in_chans': it flattens inputs; give 'in_features'")
    # timm fills in_chans from its image defaults, which mean nothing here.
    model: MLP = build_model_with_cfg(MLP, "mlp", pretrained, kwargs_filter=("in_chans",), **kwargs)
    return model


def permutation_spec_text(
    *,
    in_features: int = 784,
    hidden: Sequence[int] = (128, 128),
    num_classes: int = 10,
    norm: str = "none",
    init: str = "default",  # noqa: ARG001 (an option of the network that moves no neuron)
) -> str:
    """Return the permutation spec of the network with these options, as YAML text.

    Every hidden layer is one group.
    """
    choice("mlp", "norm", norm, VECTOR_NORMS)
    widths = _widths(hidden)
    lines = [
        "format: perm-merge/permspec@1",
        "architecture: mlp",
        f"options: {{in_features: {in_features}, hidden: {widths}, "
        f"num_classes: {num_classes}, norm: {norm}}}",
        "groups:" if widths else "groups: {}",
        *(f"  layers.{place}: {width}" for place, width in enumerate(widths)),
        "axes:",
    ]
    before: int | str = in_features
    for place in range(len(widths)):
        own = f"layers.{place}"
        lines += [f"  {own}.weight: [{own}, {before}]", f"  {own}.bias: [{own}]"]
        if norm != "none":
            lines.append(f"  norms.{place}.*: [{own}]")
        before = own
    return "\n".join([*lines, f"  head.weight: [{num_classes}, {before}]"]) + "\n"


def _widths(hidden: Any) -> list[int]:
    if not isinstance(hidden, Sequence) or isinstance(hidden, str):
        raise NetworkError(f"mlp: hidden is {hidden!r}, not a list of widths such as [128, 128]")
    return [whole("mlp", f"hidden[{place}]", width) for place, width in enumerate(hidden)]
