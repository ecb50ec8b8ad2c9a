"""Tiny networks written in one line, and the groups of a spec in one line."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from mergekit_perm.permspec import PermutationSpec

torch.set_num_threads(1)

VECTOR, TOKENS, IMAGE, SIGNAL, VOLUME = (2, 4), (2, 5, 4), (2, 3, 6, 6), (2, 3, 9), (2, 3, 4, 4, 4)
ALONG = {SIGNAL: nn.Conv1d, IMAGE: nn.Conv2d, VOLUME: nn.Conv3d}

Function = Callable[..., Any]


class Net(nn.Module):
    """Parts by name, and a forward pass that is given the network and its input."""

    def __init__(self, forward: Function, **parts: Any) -> None:
        super().__init__()
        self.run = forward
        for name, part in parts.items():
            if isinstance(part, torch.Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, x: torch.Tensor) -> Any:
        return self.run(self, x)


def weight(*shape: int) -> nn.Parameter:
    """A parameter with random entries."""
    return nn.Parameter(torch.randn(*shape))


class Case:
    """A network, its input, and what a person finds.

    Attributes:
        groups: sizes of groups as `groups` writes them.
        axes: by name of a tensor, its axes as the spec writes them.
        unruled: operations without a rule.
        known: why the spec is not yet what it should be.
    """

    def __init__(
        self,
        groups: str,
        inputs: tuple[int, ...] | torch.Tensor,
        forward: Function,
        *,
        axes: Mapping[str, str] = {},
        unruled: str = "",
        known: str = "",
        **parts: Any,
    ) -> None:
        self.groups, self.axes, self.unruled = groups, axes, unruled.split()
        self.known = known
        self.inputs = inputs if isinstance(inputs, torch.Tensor) else torch.randn(inputs)
        self._net = Net(forward, **parts)

    def net(self) -> Net:
        """Return a network of its own."""
        return copy.deepcopy(self._net)


def hidden(
    groups: str,
    function: Function,
    out: int = 6,
    *,
    shape: tuple[int, ...] = VECTOR,
    width: int = 6,
    **more: Any,
) -> Case:
    """A hidden layer `a` of `width`, a function of it, and a layer `z` of its last axis."""
    parts = {"a": nn.Linear(shape[-1], width), "z": nn.Linear(out, 3)}
    return Case(groups, shape, _between(function), **(parts | more))


def image(
    groups: str,
    function: Function,
    out: int = 4,
    *,
    shape: tuple[int, ...] = IMAGE,
    width: int = 4,
    **more: Any,
) -> Case:
    """A convolution `a` of kernel 3, a function of it, and a pointwise convolution `z`."""
    kind = ALONG[shape]
    parts = {"a": kind(3, width, 3), "z": kind(out, 2, 1)}
    return Case(groups, shape, _between(function), **(parts | more))


def _between(function: Function) -> Function:
    code = getattr(function, "__code__", None)
    if code is not None and code.co_argcount > 1:
        return lambda m, x: m.z(torch.tanh(function(m.a(x), m)))
    return lambda m, x: m.z(torch.tanh(function(m.a(x))))


def groups(spec: PermutationSpec) -> str:
    """Return the sizes of all groups: `5` for a group, `2>3` for one of 3 within one of 2."""
    chains = [spec.groups.chain(name) for name in spec.groups]
    return " ".join(sorted(">".join(str(group.size) for group in chain[::-1]) for chain in chains))
