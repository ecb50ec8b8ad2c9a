"""A generic network whose tensors are permuted in place, and what it computes before and after."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from mergekit_perm import tensor_action
from mergekit_perm.derive.exact import clear_caches, same_draws
from mergekit_perm.derive.inputs import Inputs, output_of
from mergekit_perm.errors import PermutationSpecError
from mergekit_perm.permspec import Permutations, PermutationSpec


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one pass gave: the tensors among its outputs, and the buffers it left changed."""

    outputs: list[torch.Tensor]
    buffers: dict[str, torch.Tensor]

    @property
    def scale(self) -> float:
        """The largest entry of any floating-point output."""
        return largest(float(o.abs().max()) for o in self.outputs if _measured(o))

    def distance(self, expected: Outcome) -> float:
        """Return how far this is from `expected`, relative to each tensor's largest entry.

        Infinity where structure, shapes, or tensors of whole numbers differ.
        """
        if self.buffers.keys() != expected.buffers.keys():
            return math.inf
        mine = [*self.outputs, *self.buffers.values()]
        theirs = [*expected.outputs, *(expected.buffers[name] for name in self.buffers)]
        if [(t.shape, t.dtype) for t in mine] != [(t.shape, t.dtype) for t in theirs]:
            return math.inf
        whole = expected.scale
        return largest(_distance(new, old, whole) for new, old in zip(mine, theirs, strict=True))


class Trial:
    """A network that members of a group permute in place, one after the other.

    Working in place keeps one copy of the weights in memory. Nothing has to be put back: after any
    number of members that preserve the function, it is the first one still.

    Args:
        module: a generic network.
        spec: a spec bound to it.
        inputs: what the network takes, in float64.
    """

    def __init__(self, module: nn.Module, spec: PermutationSpec, inputs: Inputs) -> None:
        self.module, self.spec, self.inputs = module, spec, inputs
        self.tensors = _tensors(module, spec)

    def move(self, permutations: Permutations) -> None:
        """Permute the network's own tensors."""
        self.act(permutations, self.tensors)

    def act(self, permutations: Permutations, tensors: Mapping[str, torch.Tensor]) -> None:
        """Permute `tensors`, each as the spec says for its name, in place."""
        member = {name: permutation.indices for name, permutation in permutations.items()}
        for name, tensor in tensors.items():
            if name in self.spec.axes:
                row = self.spec.axes[name]
                moved = tensor_action.act(tensor.detach(), row, self.spec.groups, member)
                if isinstance(tensor, nn.Parameter):
                    tensor.data = moved  # no copy: a network may have most of the memory there is
                else:
                    tensor.copy_(moved)

    def run(self, *, training: bool = False, seed: int = 0) -> Outcome:
        """Return what one pass gives; the network's buffers are left as they were.

        Args:
            training: in training mode.
            seed: of the numbers that the network draws.
        """
        with torch.no_grad(), self.buffers_kept() as changed:
            outputs = [o.clone() for o in self.outputs(training=training, seed=seed)]
        return Outcome(outputs, changed)

    def outputs(self, *, training: bool = False, seed: int = 0) -> list[torch.Tensor]:
        """Return the tensors among the outputs of one pass, which may change buffers."""
        clear_caches(self.module)
        self.module.train(training)
        with same_draws(seed):
            outputs = output_of(self.module, self.inputs)
        return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, torch.Tensor)]

    @contextmanager
    def buffers_kept(self) -> Iterator[dict[str, torch.Tensor]]:
        """Undo in the end what happened to the network's buffers; yield what that was, once undone.

        A network may write into a buffer or put another tensor in its place.
        """
        before = [(name, buffer, buffer.clone()) for name, buffer in self.module.named_buffers()]
        changed: dict[str, torch.Tensor] = {}
        try:
            yield changed
        finally:
            for name, buffer, value in before:
                owner, _, key = name.rpartition(".")
                buffers = self.module.get_submodule(owner)._buffers
                now = buffers[key]
                if name in self.tensors and now is not None and not _same(now, value):
                    changed[name] = now.clone()
                buffers[key] = buffer
                buffer.copy_(value)


def largest(values: Iterable[float]) -> float:
    """Return the largest of `values`, infinity when one is not a number, 0 when there is none."""
    return max((math.inf if math.isnan(value) else value for value in values), default=0.0)


def _tensors(module: nn.Module, spec: PermutationSpec) -> dict[str, torch.Tensor]:
    """Return the tensors of a module's state by name, tied ones once.

    Raises:
        PermutationSpecError: when the spec describes two names of one tensor differently.
    """
    tensors: dict[str, torch.Tensor] = {}
    names: dict[int, str] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        first = names.setdefault(id(tensor), name)
        if first == name:
            tensors[name] = tensor
        elif spec.axes.get(first) != spec.axes.get(name):
            raise PermutationSpecError(
                f"'{first}' and '{name}' are one tensor, but the spec permutes them differently"
            )
    return tensors


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)


def _measured(tensor: torch.Tensor) -> bool:
    return bool(tensor.numel()) and (tensor.is_floating_point() or tensor.is_complex())


def _distance(new: torch.Tensor, old: torch.Tensor, whole: float) -> float:
    if not _measured(old):
        return 0.0 if _same(new, old) else math.inf
    scale = float(old.abs().max()) or whole or 1.0
    return float((new - old).abs().max()) / scale
