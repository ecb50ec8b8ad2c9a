"""Several small networks in one pass: they fill a device that each alone leaves idle."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import nn
from torch.func import functional_call, vmap

from mergekit_perm.weighted import State


def passing(module: nn.Module, states: Sequence[State]) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what maps inputs to the logits of all `states`, (networks, examples, classes).

    Args:
        module: in eval mode; its own tensors are not used.
        states: at least one, each with all parameters and buffers of `module`.
    """
    stacked = {name: torch.stack([state[name] for state in states]) for name in states[0]}

    def one(tensors: dict[str, torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = functional_call(module, tensors, (inputs,))
        return logits

    return partial(vmap(one, in_dims=(0, None)), stacked)


def state_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return copies of all parameters and buffers of `module`."""
    tensors: Iterable[tuple[str, torch.Tensor]] = [
        *module.named_parameters(),
        *module.named_buffers(),
    ]
    return {name: tensor.detach().clone() for name, tensor in tensors}
