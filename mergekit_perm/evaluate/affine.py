"""Layers whose weight and bias can scale and shift every channel of what they give.

Which layers can is tried, not concluded from their types: a subclass may standardise its weights or
apply a nonlinearity, a norm may have its channels on the second axis or on the last.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

# How far a trial may be off, as a share of the largest number.
_ROUNDING = 1e-3


@dataclass(frozen=True, slots=True)
class Call:
    """What a layer was called with."""

    arguments: tuple[Any, ...]
    keywords: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Site:
    """A place in the forward pass whose channels a layer's weight and bias can scale and shift.

    Attributes:
        layer: the name of the layer, a module with a ``weight`` whose first axis is its channels.
        tap: the module that gives the tensor: the layer, or the dropout within one of timm's norms,
            behind which there is an activation.
        last: whether channels are the last axis of the tensor; otherwise they are the second.
    """

    layer: str
    tap: str
    last: bool


def has_own_affine(layer: nn.Module) -> bool:
    """Tell whether `layer` has a floating weight, and a bias for its first axis or none."""
    weight, bias = layer._parameters.get("weight"), layer._parameters.get("bias")
    if weight is None or weight.ndim == 0 or not weight.is_floating_point():
        return False
    return bias is None or bias.shape[:1] == weight.shape[:1]


def rescale(layer: nn.Module, scale: torch.Tensor, shift: torch.Tensor | None = None) -> None:
    """Scale, then shift, the channels of what `layer` gives, by its weight and its bias in place.

    Args:
        layer: with a weight, and with a bias where there is a shift.
        scale: per channel, or one number.
        shift: per channel.
    """
    with torch.no_grad():
        weight, bias = layer._parameters["weight"], layer._parameters.get("bias")
        assert weight is not None
        weight.mul_(_per_channel(scale, weight))
        if bias is not None:
            bias.mul_(_per_channel(scale, bias))
            if shift is not None:
                bias.add_(_per_channel(shift, bias))


def calls_of(module: nn.Module, inputs: torch.Tensor) -> tuple[dict[str, Call], torch.Tensor]:
    """Run `module` on `inputs` once; return what its affine layers were given, and the output.

    Layers are in the order in which they are called. One that is called twice, or that shares a
    parameter with another, is left out: it cannot be changed in one place.
    """
    uses = Counter(id(p) for m in module.modules() for p in m._parameters.values() if p is not None)
    found: dict[str, Call] = {}
    times: Counter[str] = Counter()
    hooks = []

    def hear(name: str) -> Any:
        def take(_: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            times[name] += 1
            found[name] = Call(tuple(map(_copy, arguments)), keywords)

        return take

    for name, layer in module.named_modules():
        own = [p for p in layer._parameters.values() if p is not None]
        if has_own_affine(layer) and all(uses[id(p)] == 1 for p in own):
            hooks.append(layer.register_forward_pre_hook(hear(name), with_kwargs=True))
    try:
        with torch.no_grad():
            output = module(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: call for name, call in found.items() if times[name] == 1}, output


def site_of(module: nn.Module, name: str, call: Call) -> Site | None:
    """Return where the channels of layer `name` can be scaled and shifted; None if nowhere.

    The layer is tried with random weights, scales and shifts; its own are back afterwards.
    """
    layer = module.get_submodule(name)
    # timm's norms with an activation pass what they have normalised through their dropout first.
    taps = [name] + [f"{name}.drop"] * isinstance(getattr(layer, "drop", None), nn.Module)
    generator = torch.Generator().manual_seed(0)
    with kept(layer), torch.no_grad():
        weight, bias = layer._parameters["weight"], layer._parameters.get("bias")
        assert weight is not None
        for parameter in (weight, bias):
            if parameter is not None:
                parameter.copy_(torch.rand(parameter.shape, generator=generator) - 0.5)
        before = [_given(module, name, tap, call) for tap in taps]
        scale = torch.rand(weight.shape[0], generator=generator).to(weight) + 0.5
        shift = None if bias is None else torch.rand(scale.shape, generator=generator).to(weight)
        rescale(layer, scale, shift)
        after = [_given(module, name, tap, call) for tap in taps]
    for tap, old, new in zip(taps, before, after, strict=True):
        for last in (False, True):
            if follows(old, new, scale, shift, last=last):
                return Site(name, tap, last)
    return None


def scaled(
    tensor: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor | None, *, last: bool
) -> torch.Tensor:
    """Return `tensor` with the channels of its last or its second axis scaled, then shifted."""
    shape = [1] * tensor.ndim
    shape[-1 if last else 1] = -1
    found = tensor * scale.to(tensor).reshape(shape)
    return found if shift is None else found + shift.to(tensor).reshape(shape)


def follows(
    old: Any, new: Any, scale: torch.Tensor, shift: torch.Tensor | None, *, last: bool
) -> bool:
    """Tell whether `new` is `old` with its channels scaled and shifted."""
    if not isinstance(old, torch.Tensor) or not isinstance(new, torch.Tensor) or old.ndim < 2:
        return False
    if old.shape[-1 if last else 1] != len(scale) or old.shape != new.shape or not old.numel():
        return False
    return alike(scaled(old, scale, shift, last=last), new)


def alike(wanted: torch.Tensor, found: torch.Tensor, *, rounding: float = _ROUNDING) -> bool:
    """Tell whether tensors differ by at most this share of the largest number; not if by NaN."""
    largest = max(float(wanted.abs().max()), float(found.abs().max()))
    return float((wanted - found).abs().max()) <= rounding * largest


def _given(module: nn.Module, name: str, tap: str, call: Call) -> Any:
    """Return what `tap` gives when layer `name` is called again."""
    found: list[Any] = []
    # What follows may work in place.
    hook = module.get_submodule(tap).register_forward_hook(lambda *a: found.append(_copy(a[2])))
    try:
        module.get_submodule(name)(*map(_copy, call.arguments), **call.keywords)
    finally:
        hook.remove()
    return found[0] if len(found) == 1 else None


@contextmanager
def kept(*layers: nn.Module) -> Iterator[None]:
    """Put the weights and biases of `layers` back after the block."""
    pairs = itertools.product(layers, ("weight", "bias"))
    own = [p for layer, key in pairs if (p := layer._parameters.get(key)) is not None]
    before = [parameter.detach().clone() for parameter in own]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(own, before, strict=True):
                parameter.copy_(value)


def _per_channel(values: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """Return `values` in the dtype and on the device of `parameter`, along its first axis."""
    return values.to(parameter).reshape(-1, *[1] * (parameter.ndim - 1))


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else value
