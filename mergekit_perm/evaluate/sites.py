"""Where REPAIR corrects a network: its layers and norms, but for those that BatchNorm follows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mergekit_perm.errors import EvaluationError
from mergekit_perm.evaluate.affine import Site, alike, calls_of, kept, rescale, scaled, site_of
from mergekit_perm.evaluate.classifier import find_classifier
from mergekit_perm.evaluate.metrics import evaluating


def find_sites(module: nn.Module, inputs: torch.Tensor) -> tuple[Site, ...]:
    """Return the places whose channels a layer can bring to any mean and deviation, in call order.

    They are what layers with a weight give, convolutions, linear layers, norms with scales and the
    like, if the layer can be scaled and shifted by its weight and bias alone (tried, see
    `site_of`), is called once in a pass, and shares no parameter. Left out are the classifier,
    whose outputs are the logits; BatchNorm layers and those whose outputs one takes in, which
    estimating its statistics again sets right; and layers whose weights are used past their
    ``forward`` alone, as the output projection of `torch.nn.MultiheadAttention` is.

    Args:
        module: the network; its weights stay as they are.
        inputs: a few examples, on its device.

    Raises:
        EvaluationError: scaling and shifting the layers is not what scaling and shifting what they
            give is, in the network as a whole.
    """
    with evaluating(module), torch.no_grad():
        calls, _ = calls_of(module, inputs)
        left_out = {*find_classifier(module, inputs), *_before_batch_norms(module, inputs)}
        tried = (
            site_of(module, name, call) for name, call in calls.items() if name not in left_out
        )
        sites = tuple(site for site in tried if site is not None)
        if not _proven(module, inputs, sites):
            raise EvaluationError(
                f"repair cannot be taken into the weights of {type(module).__name__}, which uses "
                "some weights in another way than its layers do; choose another calibration"
            )
    return sites


def _before_batch_norms(module: nn.Module, inputs: torch.Tensor) -> set[str]:
    """Return the names of BatchNorm layers, and of those that give the tensor that one takes in."""
    norms = {name for name, part in module.named_modules() if _estimates(part)}
    # Kept, so that no later tensor has the identity of one of them.
    given: dict[int, tuple[str, torch.Tensor, int]] = {}
    found: set[str] = set()

    def gives(name: str, _: Any, __: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor):
            # A container gives the tensor that a layer within it gave first.
            given.setdefault(id(output), (name, output, output._version))

    def takes(_: Any, arguments: tuple[Any, ...]) -> None:
        name, tensor, version = given.get(id(arguments[0]), ("", arguments[0], -1))
        # An in-place function between them gives the same tensor, and raises its version.
        if tensor._version == version:
            found.add(name)

    hooks = []
    for name, part in module.named_modules():
        hooks.append(part.register_forward_hook(partial(gives, name)))
        if name in norms:
            hooks.append(part.register_forward_pre_hook(takes))
    try:
        module(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return norms | found


def _estimates(part: nn.Module) -> bool:
    return isinstance(part, _BatchNorm) and part.running_mean is not None


def _proven(module: nn.Module, inputs: torch.Tensor, sites: Sequence[Site]) -> bool:
    """Tell whether random scales and shifts do the same in the layers as behind them."""
    generator = torch.Generator().manual_seed(0)
    layers = [module.get_submodule(site.layer) for site in sites]
    hooks, changes = [], []
    for site, layer in zip(sites, layers, strict=True):
        weight, bias = layer._parameters["weight"], layer._parameters.get("bias")
        assert weight is not None
        scale, shift = torch.rand((2, weight.shape[0]), generator=generator) + 0.5
        changes.append((layer, scale, shift))
        behind = partial(_changed, scale, None if bias is None else shift - 1, site.last)
        hooks.append(module.get_submodule(site.tap).register_forward_hook(behind))
    try:
        wanted = module(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    with kept(*layers):
        for layer, scale, shift in changes:
            rescale(layer, scale, shift - 1)
        found = module(inputs)
    both = isinstance(wanted, torch.Tensor) and isinstance(found, torch.Tensor)
    return both and alike(wanted, found)


def _changed(
    scale: torch.Tensor, shift: torch.Tensor | None, last: bool, _: Any, __: Any, output: Any
) -> torch.Tensor:
    return scaled(output, scale, shift, last=last)
