"""One member of a spec's group, ready to permute whatever tensors have the spec's names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from mergekit_perm import checkpoints, tensor_action
from mergekit_perm.axes import Axis
from mergekit_perm.errors import CheckpointError
from mergekit_perm.members import Member
from mergekit_perm.permspec import PermutationSpec, Shape

Row = tuple[Axis, ...]
Tensors = dict[str, torch.Tensor]

# What torch.nn.utils.prune makes of a parameter: its values before pruning, and what remains.
_SUFFIXES = ("_orig", "_mask")


@dataclass(frozen=True, slots=True)
class Count:
    """What was done to one collection of tensors.

    Attributes:
        found: how many tensors of the spec it has.
        moved: how many of its tensors changed the order of their coordinates.
    """

    found: int
    moved: int


@dataclass(frozen=True, slots=True)
class Moves:
    """A member of the group of `spec`.

    Names that are one tensor in memory before are one after, for as long as this object lives.
    """

    spec: PermutationSpec
    member: Member
    _done: dict[tuple[Any, ...], tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    _moving: dict[Row, bool] = field(default_factory=dict)

    def listed(self, names: Iterable[str]) -> dict[str, str]:
        """Return the tensor of the spec that each of `names` goes with; the others are left out.

        Prefixes of wrappers do not count, and `weight_orig` and `weight_mask` go with `weight`.
        """
        patterns = [
            re.compile(".*".join(map(re.escape, key.split("*"))))
            for key in self.spec.axes
            if "*" in key
        ]
        found = {}
        for name, bare in checkpoints.bare_names(names).items():
            spellings = [bare, *(bare.removesuffix(s) for s in _SUFFIXES if bare.endswith(s))]
            exact = [name for name in spellings if name in self.spec.axes]
            loose = [name for name in spellings if any(p.fullmatch(name) for p in patterns)]
            if exact or loose:
                found[name] = (exact or loose)[0]
        return found

    def rows(self, shapes: Mapping[str, Shape]) -> Mapping[str, Row]:
        """Return the axes of the tensors of the spec in `shapes`, which are `listed`.

        Raises:
            PermutationSpecError: naming every tensor that has not the shape the spec says.
        """
        return self.spec.bind(shapes, partial=True).axes

    def state(self, given: Mapping[str, torch.Tensor]) -> tuple[Tensors, Count]:
        """Return `given` permuted, what is not in the spec as it is, and what was done.

        Raises:
            PermutationSpecError: naming every tensor that has not the shape the spec says.
            CheckpointError: a tensor is sparse or quantized.
        """
        names = self.listed(given)
        shapes: dict[str, Shape] = {}
        for name, target in names.items():
            shape = tuple(given[name].shape)
            if shapes.setdefault(target, shape) != shape:
                raise CheckpointError(
                    f"'{name}' has shape {list(shape)}, but what else there is of '{target}' has "
                    f"{list(shapes[target])}"
                )
        rows = self.rows(shapes)
        result = dict(given)
        moved = 0
        for name, target in names.items():
            if target in rows:  # patterns do not match scalars
                result[name] = self.move(given[name], rows[target], name=name)
                moved += self.moves(rows[target])
        return result, Count(found=len(rows), moved=moved)

    def moves(self, row: Row) -> bool:
        """Return whether a tensor with these axes changes the order of its coordinates."""
        if row not in self._moving:
            self._moving[row] = bool(tensor_action.sources(row, self.spec.groups, self.member))
        return self._moving[row]

    def move(self, tensor: torch.Tensor, row: Row, *, name: str) -> torch.Tensor:
        """Return `tensor` permuted along its axes `row`; itself when nothing moves."""
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise CheckpointError(
                f"tensor '{name}' is {tensor.layout}, {tensor.dtype}; only dense tensors that are "
                "not quantized can be permuted"
            )
        if not self.moves(row):
            return tensor
        key = (
            *(tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.dtype),
            *(tuple(tensor.shape), tensor.stride(), row),
        )
        if key not in self._done:
            permuted = tensor_action.act(tensor.detach(), row, self.spec.groups, self.member)
            self._done[key] = (tensor, permuted)  # the first keeps its memory from being reused
        return self._done[key][1]
