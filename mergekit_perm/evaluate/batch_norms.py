"""BatchNorm statistics estimated again, in one pass over training inputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mergekit_perm.evaluate.pooled import Pooled


def has_batch_norm(module: nn.Module) -> bool:
    """Return whether `module` has a BatchNorm layer with running statistics."""
    return any(True for _ in _batch_norms(module))


@contextmanager
def re_estimating(module: nn.Module) -> Iterator[None]:
    """Give the BatchNorm layers of `module` the statistics of the passes within the block.

    Each puts the statistics of the batch alone in its buffers, and they are pooled. Layers that
    no pass has used stay reset. Momenta are as before; training flags are the caller's to put back.
    """
    pooled = {layer: Pooled() for layer in _batch_norms(module)}
    momenta = {layer: layer.momentum for layer in pooled}

    def add(layer: _BatchNorm, _: Any, output: torch.Tensor) -> None:
        mean, variance = _buffer(layer.running_mean), _buffer(layer.running_var)
        # Pooling must not change with the buffers, which the next batch writes to.
        pooled[layer].add(mean.clone(), variance.clone(), output.numel() // output.shape[1])

    hooks = [layer.register_forward_hook(add) for layer in pooled]
    try:
        for layer in pooled:
            layer.reset_running_stats()  # an infinity left in a buffer would outlive momentum 1
            layer.momentum = 1.0
            layer.training = True  # not .train(): timm's layers hold dropout and activation
        yield
        for layer, seen in pooled.items():
            _write(layer, seen)
    finally:
        for hook in hooks:
            hook.remove()
        for layer, momentum in momenta.items():
            layer.momentum = momentum


def _write(layer: _BatchNorm, seen: Pooled) -> None:
    if seen.mean is not None:
        _buffer(layer.running_mean).copy_(seen.mean)
        _buffer(layer.running_var).copy_(seen.variance)
        _buffer(layer.num_batches_tracked).fill_(seen.calls)


def _batch_norms(module: nn.Module) -> Iterator[_BatchNorm]:
    return (
        layer
        for layer in module.modules()
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None
    )


def _buffer(buffer: torch.Tensor | None) -> torch.Tensor:
    assert buffer is not None, "only layers that track statistics are collected"
    return buffer
