"""What is re-estimated after weights have been mixed.

A calibration is named by its steps, as in ``batch_norm+temperature``: the first changes layers, and
`temperature` scales what comes out of the last one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mergekit_perm.data.batches import Batches
from mergekit_perm.devices import in_float64
from mergekit_perm.errors import EvaluationError, suggest
from mergekit_perm.evaluate.metrics import evaluating

if TYPE_CHECKING:
    from mergekit_perm.data import Split

# Makes a split ready in batches of a size.
MakeBatches = Callable[["Split", int], Batches]


def calibrate(
    module: nn.Module,
    name: str,
    train_split: Split | None,
    *,
    device: str | torch.device = "cpu",
    batch_size: int = 512,
) -> None:
    """Re-estimate in place, on training inputs, what mixing weights has invalidated.

    ``none`` changes nothing and needs no split; ``temperature`` is of what is measured, and changes
    no layer (see `measure_batches`). ``batch_norm`` resets the running statistics of
    every BatchNorm layer, those of timm included, and re-estimates them in one pass without
    gradients (REPAIR, arXiv 2211.08403, calls this the reset).

    In that pass the BatchNorm layers are in train mode, everything else (dropout too) in eval
    mode. A layer's statistics become the mean and unbiased variance, over all examples and
    positions of the split, of the inputs it got; batches are pooled with their sizes in float64.
    That is exact, whatever `batch_size`, for layers with no BatchNorm before them. A layer behind
    another one gets inputs normalised by the statistics of their own *batch*, as in training, so
    its result depends on `batch_size`, the less the larger the batches are.

    Weights, training flags and each layer's momentum are as before; the module is moved to
    `device` and stays there. No batch has a single example, which would have no variance: the
    batch size is raised by as little as avoids it.

    Args:
        module: the network, with mixed weights.
        name: a name in `CALIBRATIONS`.
        train_split: training examples; labels are not read.
        device: where to compute.
        batch_size: examples at a time.

    Raises:
        EvaluationError: an unknown name, or for ``batch_norm`` no split or one of fewer than 2
            examples.
    """
    calibrator(name, train_split, device=torch.device(device), batch_size=batch_size)(
        module.to(device)
    )


def calibrator(
    name: str,
    train_split: Split | None,
    *,
    device: torch.device,
    batch_size: int,
    make: MakeBatches | None = None,
) -> Callable[[nn.Module], None]:
    """Return `calibrate` for modules on `device`, with the split made ready once for many calls.

    `make` makes it ready, for those who have its data on the device already.
    """
    known_calibration(name)

    def fresh(split: Split, size: int) -> Batches:
        return Batches(split, device=device, batch_size=size)

    of_layers = name.removesuffix(_SCALED) if name != TEMPERATURE else "none"
    return _OF_LAYERS[of_layers](train_split, batch_size, make or fresh)


def known_calibration(name: str) -> str:
    """Return `name`, which must be one in `CALIBRATIONS`.

    Raises:
        EvaluationError: it is none.
    """
    if name not in CALIBRATIONS:
        raise EvaluationError(
            f"no calibration '{name}'{suggest(name, CALIBRATIONS)}; "
            f"choose one of {', '.join(CALIBRATIONS)}"
        )
    return name


def has_temperature(name: str) -> bool:
    """Tell whether calibration `name` takes the loss at the best temperature."""
    return name == TEMPERATURE or name.endswith(_SCALED)


def effective_calibration(name: str, *, batch_norm: bool) -> str:
    """Return the calibration that does what `name` does.

    Args:
        name: one in `CALIBRATIONS`.
        batch_norm: whether there is a BatchNorm layer to re-estimate.
    """
    if batch_norm:
        return name
    steps = [step for step in name.split("+") if step != "batch_norm"]
    return "+".join(steps) or "none"


def has_batch_norm(module: nn.Module) -> bool:
    """Return whether `module` has a BatchNorm layer with running statistics."""
    return any(True for _ in _batch_norms(module))


def _none(*_: object) -> Callable[..., None]:
    return lambda _module: None


def _batch_norm(split: Split | None, batch_size: int, make: MakeBatches) -> Callable[..., None]:
    if split is None or len(split) < 2:
        found = "there is none" if split is None else f"'{split.name}' has {len(split)}"
        raise EvaluationError(
            f"calibration 'batch_norm' needs a split of at least 2 training examples; {found}"
        )
    size = _without_single(len(split), batch_size)
    batches = make(split, size)
    return lambda module: _re_estimate(module, batches)


TEMPERATURE = "temperature"
_SCALED = f"+{TEMPERATURE}"

# By name: split, batch size, how to make batches -> what changes a module in place.
_OF_LAYERS: Mapping[str, Callable[[Split | None, int, MakeBatches], Callable[..., None]]] = (
    MappingProxyType({"none": _none, "batch_norm": _batch_norm})
)

CALIBRATIONS = ("none", "batch_norm", TEMPERATURE, f"batch_norm{_SCALED}")
"""Calibrations by name."""


class _Pooled:
    """Mean and variance per channel over batches seen one at a time (Chan et al. 1979)."""

    __slots__ = ("calls", "count", "mean", "squares")

    def __init__(self, layer: _BatchNorm) -> None:
        self.calls, self.count = 0, 0
        self.mean = self.squares = torch.zeros_like(in_float64(_buffer(layer.running_mean)))

    def add(self, layer: _BatchNorm, _args: Any, output: torch.Tensor) -> None:
        """Add the batch whose statistics are in the layer's buffers: a forward hook."""
        count = output.numel() // output.shape[1]
        total = self.count + count
        shift = in_float64(_buffer(layer.running_mean)) - self.mean
        squares = in_float64(_buffer(layer.running_var)) * (count - 1)
        self.squares = self.squares + squares + shift**2 * (self.count * count / total)
        self.mean = self.mean + shift * (count / total)
        self.count, self.calls = total, self.calls + 1

    def write(self, layer: _BatchNorm) -> None:
        """Put the pooled statistics in the layer's buffers."""
        _buffer(layer.running_mean).copy_(self.mean)
        _buffer(layer.running_var).copy_(self.squares / (self.count - 1))
        _buffer(layer.num_batches_tracked).fill_(self.calls)


def _re_estimate(module: nn.Module, batches: Batches) -> None:
    with evaluating(module), _collecting(module) as pooled, torch.no_grad():
        if not pooled:
            return
        for x, _ in batches:
            module(x)
        for layer, statistics in pooled.items():
            if statistics.count:  # a layer that the network does not use stays reset
                statistics.write(layer)


@contextmanager
def _collecting(module: nn.Module) -> Iterator[dict[_BatchNorm, _Pooled]]:
    """Let each BatchNorm put the statistics of the batch alone in its buffers, and pool them."""
    pooled = {layer: _Pooled(layer) for layer in _batch_norms(module)}
    momenta = {layer: layer.momentum for layer in pooled}
    hooks = [layer.register_forward_hook(seen.add) for layer, seen in pooled.items()]
    try:
        for layer in pooled:
            layer.reset_running_stats()  # an infinity left in a buffer would outlive momentum 1
            layer.momentum = 1.0
            layer.training = True  # not .train(): timm's layers hold dropout and activation
        yield pooled
    finally:
        for hook in hooks:
            hook.remove()
        for layer, momentum in momenta.items():
            layer.momentum = momentum


def _batch_norms(module: nn.Module) -> Iterator[_BatchNorm]:
    return (
        layer
        for layer in module.modules()
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None
    )


def _buffer(buffer: torch.Tensor | None) -> torch.Tensor:
    assert buffer is not None, "only layers that track statistics are collected"
    return buffer


def _without_single(examples: int, batch_size: int) -> int:
    """Return the least size from `batch_size` up that leaves no batch with one example."""
    size = max(2, batch_size)
    while size < examples and examples % size == 1:
        size += 1
    return size
