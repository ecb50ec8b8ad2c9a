"""BatchNorm layers taken into the layers before them, while networks are measured.

In eval mode a BatchNorm is a scale and a shift of every channel. A convolution or linear layer that
feeds it, and nothing else, can do both: its weights are scaled, its bias shifted, and a pass over
the activations falls away.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from mergekit_perm.devices import in_float64

# Types themselves, not what is derived of them: those may do anything with their weights.
Layer = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear

# By the identity of what a layer gives: the layer, that tensor, and its version.
Given = dict[int, tuple[Layer, "weakref.ref[torch.Tensor]", int]]

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_DTYPES = (torch.float32, torch.float64)

# How far logits may be apart, as a share of the largest, for layers to be taken for fused rightly.
_ROUNDING = 1e-3


@dataclass(frozen=True, slots=True)
class _Pair:
    """A layer, the BatchNorm that takes in what it gives, and where that stands.

    Attributes:
        rest: what is left of the BatchNorm when its scale and shift are taken away.
    """

    layer: Layer
    norm: _BatchNorm
    parent: nn.Module
    name: str
    rest: nn.Module


class FusedNorms:
    """The BatchNorm layers of a module that can be taken into the layers before them.

    They are found by a trial: which layer gives the very tensor that a BatchNorm takes in, and
    nothing else does; and whether, with random statistics, the network gives the same as before
    when all are fused. Where it does not, none is.
    """

    def __init__(self, pairs: Sequence[_Pair]) -> None:
        self._pairs = tuple(pairs)
        self._channels = [len(pair.layer.weight) for pair in pairs]
        variances = [_statistics(pair.norm)[1] for pair in pairs]
        # In place of what a layer or a norm does without.
        self._zeros, self._ones = (
            [make(each) for each in variances] for make in (torch.zeros_like, torch.ones_like)
        )
        self._epsilons = [
            torch.full_like(in_float64(each), pair.norm.eps)
            for pair, each in zip(pairs, variances, strict=True)
        ]
        # They stay in one place: CUDA graphs read from where things were when they were captured.
        self._shifts: dict[Layer, nn.Parameter] = {
            pair.layer: nn.Parameter(pair.layer.weight.new_zeros(len(pair.layer.weight)), False)
            for pair in pairs
            if pair.layer.bias is None
        }

    @classmethod
    def of(cls, module: nn.Module, inputs: torch.Tensor) -> FusedNorms:
        """Find them. What the module's layers and norms hold is lost: set its weights anew.

        Args:
            module: in eval mode.
            inputs: a few examples, on the device of `module`.
        """
        found = cls(_pairs(module, inputs))
        return found if found._gives_the_same(module, inputs) else cls(())

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._pairs)

    @contextmanager
    def fused(self) -> Iterator[None]:
        """Fuse them for the block; after it, the weights of their layers must be set anew."""
        try:
            if self._pairs:
                self._fuse()
            for pair in self._pairs:
                pair.parent._modules[pair.name] = pair.rest
            yield
        finally:
            for pair in self._pairs:
                pair.parent._modules[pair.name] = pair.norm
            for layer in self._shifts:
                layer.bias = None

    def _fuse(self) -> None:
        """Scale the weights and shift the biases of layers as norms would what they give."""
        with torch.no_grad():
            scale, shift = self._scale_and_shift()
            likes = {pair.layer.weight.dtype: pair.layer.weight for pair in self._pairs}
            rounded = {
                dtype: [torch.split(each.to(like), self._channels) for each in (scale, shift)]
                for dtype, like in likes.items()
            }
            biases, shifts = [], []
            for place, layer in enumerate(pair.layer for pair in self._pairs):
                own_scale, own_shift = (parts[place] for parts in rounded[layer.weight.dtype])
                layer.weight.mul_(own_scale.reshape(-1, *[1] * (layer.weight.ndim - 1)))
                layer.bias = self._shifts.get(layer, layer.bias)
                assert layer.bias is not None, "layers without a bias have got one"
                biases.append(layer.bias)
                shifts.append(own_shift)
            # Each of its own dtype: on CUDA they are else taken to be all of the first one's.
            torch._foreach_copy_(biases, shifts)

    def _scale_and_shift(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what norms scale and shift channels by, one norm after another, in float64.

        All at once: an accelerator needs as long to begin with one as with all.
        """
        norms = [pair.norm for pair in self._pairs]
        means, variances = zip(*map(_statistics, norms), strict=True)
        bias = _joined(_filled([pair.layer.bias for pair in self._pairs], self._zeros))
        scale = (_joined(variances) + torch.cat(self._epsilons)).rsqrt()
        scale = scale * _joined(_filled([norm.weight for norm in norms], self._ones))
        shift = (bias - _joined(means)) * scale
        return scale, shift + _joined(_filled([norm.bias for norm in norms], self._zeros))

    def _gives_the_same(self, module: nn.Module, inputs: torch.Tensor) -> bool:
        generator = torch.Generator().manual_seed(0)
        for pair in self._pairs:
            _randomise(pair.norm, generator)
        try:
            with torch.no_grad():
                plain = module(inputs)
                with self.fused():
                    fused = module(inputs)
        except Exception:
            return False
        return _alike(plain, fused)


class _OtherUses(TorchFunctionMode):
    """Takes note of layers whose outputs any function takes in, but for those within a norm.

    Attributes:
        layers: these layers.
        within: the norm that runs, if any.
    """

    def __init__(self, given: Given) -> None:
        super().__init__()
        self._given = given
        self.layers: set[nn.Module] = set()
        self.within: nn.Module | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run `func`, and note whose outputs are among what it takes in."""
        if self.within is None:
            for value in tree_leaves((args, kwargs or {})):
                found = self._given.get(id(value))
                if found and found[1]() is value:
                    self.layers.add(found[0])
        return func(*args, **(kwargs or {}))


def _pairs(module: nn.Module, inputs: torch.Tensor) -> list[_Pair]:
    """Return the layers and norms between which, in a pass on `inputs`, there is nothing else."""
    calls: Counter[nn.Module] = Counter()
    given: Given = {}
    before: dict[_BatchNorm, Layer] = {}
    uses = _OtherUses(given)

    def gives(layer: Layer, _: Any, output: torch.Tensor) -> None:
        calls[layer] += 1
        given[id(output)] = layer, weakref.ref(output), output._version

    def takes(norm: _BatchNorm, arguments: tuple[torch.Tensor, ...]) -> None:
        calls[norm] += 1
        uses.within = norm
        found = given.get(id(arguments[0])) if arguments else None
        # An in-place function between them gives the same tensor, and raises its version.
        if found and found[1]() is arguments[0] and found[2] == arguments[0]._version:
            before[norm] = found[0]

    def ends(*_: Any) -> None:
        uses.within = None

    hooks = []
    for each in module.modules():
        if isinstance(each, _LAYERS) and type(each) in _LAYERS and each.weight.dtype in _DTYPES:
            hooks.append(each.register_forward_hook(gives))
        elif isinstance(each, _BatchNorm):
            hooks.append(each.register_forward_pre_hook(takes))
            hooks.append(each.register_forward_hook(ends))
    try:
        with torch.no_grad(), uses:
            module(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    places = {m: (parent, name) for parent in module.modules() for name, m in _children(parent)}
    pairs = []
    for norm, layer in before.items():
        rest = _rest(norm)
        alone = layer not in uses.layers and calls[layer] == calls[norm] == 1
        if rest is not None and norm in places and alone:
            pairs.append(_Pair(layer, norm, *places[norm], rest))
    return pairs


def _rest(norm: _BatchNorm) -> nn.Module | None:
    """Return what a BatchNorm does besides scaling and shifting; None where that is not known."""
    if norm.running_mean is None or norm.running_var is None:
        return None
    if type(norm) in _NORMS:
        return nn.Identity()
    # Those of timm drop and activate what they have normalised.
    drop, activate = getattr(norm, "drop", None), getattr(norm, "act", None)
    if isinstance(drop, nn.Module) and isinstance(activate, nn.Module):
        return nn.Sequential(drop, activate)
    return None


def _children(parent: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((name, child) for name, child in parent._modules.items() if child is not None)


def _filled(
    tensors: Sequence[torch.Tensor | None], fillers: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    """Return tensors, and in place of what is None the filler that stands there."""
    pairs = zip(tensors, fillers, strict=True)
    return [filler if own is None else own for own, filler in pairs]


def _joined(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return tensors as one, in float64."""
    return in_float64(torch.cat(list(tensors)))


def _randomise(norm: _BatchNorm, generator: torch.Generator) -> None:
    """Put random statistics, scales and shifts near their own into `norm`."""
    mean, variance = _statistics(norm)
    with torch.no_grad():
        # As in a network that is trained: of the size that activations have.
        mean.add_(_drawn(mean, generator) * variance.sqrt())
        variance.mul_(1 + _drawn(variance, generator))
        if norm.weight is not None:
            norm.weight.mul_(1 + _drawn(mean, generator))
        if norm.bias is not None:
            norm.bias.add_(_drawn(mean, generator))


def _drawn(like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return numbers from -1/2 to 1/2, drawn on the CPU."""
    return torch.rand(like.shape, generator=generator).to(like) - 0.5


def _statistics(norm: _BatchNorm) -> tuple[torch.Tensor, torch.Tensor]:
    assert norm.running_mean is not None and norm.running_var is not None, "`_rest` asks for them"
    return norm.running_mean, norm.running_var


def _alike(plain: Any, fused: Any) -> bool:
    if not isinstance(plain, torch.Tensor) or not isinstance(fused, torch.Tensor):
        return False
    apart = float((plain - fused).abs().max())
    return apart <= _ROUNDING * float(plain.abs().max())
