"""What a file holds, walked through: networks, averaged copies, masks and optimizers in it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from mergekit_perm import checkpoints
from mergekit_perm.alignment.durable import Alignment, nothing_found
from mergekit_perm.alignment.moves import Moves
from mergekit_perm.alignment.optimizers import (
    has_order,
    is_optimizer,
    parameter_names,
    permute_optimizer,
)
from mergekit_perm.errors import CheckpointError, PermMergeError, PermutationSpecError
from mergekit_perm.permspec import Shape


@dataclass(frozen=True, slots=True)
class Part:
    """One collection of tensors that was permuted.

    Attributes:
        place: where in the file it is, ``state_dict_ema`` for instance; "" for the whole file.
        kind: whether it maps names to tensors, or is the state of an optimizer.
        found: how many tensors of the permutation spec it has; of an optimizer, how many
            parameters with a state.
        moved: how many of its tensors changed the order of their coordinates.
    """

    place: str
    kind: Literal["tensors", "optimizer"]
    found: int
    moved: int


def permute_content(content: Any, alignment: Alignment) -> tuple[Any, list[Part]]:
    """Return `content`, what a file holds, with all that has the network's names permuted.

    Args:
        content: a state dict; or dicts and lists of state dicts, of states of optimizers, and of
            other things, which stay as they are.
        alignment: what to apply.

    Raises:
        PermutationSpecError: nothing in it has the names, or a tensor has another shape.
        CheckpointError: something that looks like weights has no names, or the parameters of an
            optimizer cannot be told.
    """
    walk = _Walk(alignment, alignment.moves())
    result = walk.tensors(content, "")
    if walk.nameless and (walk.parts or not any(_names(content))):
        raise CheckpointError(
            f"{', '.join(map(repr, walk.nameless[:5]))}: tensors of several axes that have no name "
            "of the permutation spec, so how to permute them cannot be told; leave them out of "
            "the file, or permute the file's parts in Python with Alignment.apply"
        )
    if not walk.nameless:
        result = walk.optimizers(result, "")
    if not walk.parts:
        raise PermutationSpecError(nothing_found(list(_names(content)), alignment.spec))
    return result, walk.parts


@dataclass(slots=True)
class _Walk:
    alignment: Alignment
    moves: Moves
    parts: list[Part] = field(default_factory=list)
    nameless: list[str] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)

    def tensors(self, value: Any, place: str) -> Any:
        """Return `value` with its named tensors permuted, and optimizers as they are."""
        if is_optimizer(value):
            return value
        if isinstance(value, torch.Tensor):
            if value.dim() > 1:
                self.nameless.append(place or "the file")
            return value
        if isinstance(value, Mapping):
            return self._mapping(value, place)
        return self._sequence(value, place, self.tensors)

    def optimizers(self, value: Any, place: str) -> Any:
        """Return `value` with the states of optimizers permuted."""
        if not is_optimizer(value):
            if isinstance(value, Mapping):
                inner = {k: self.optimizers(v, _join(place, k)) for k, v in value.items()}
                return _replaced(value, inner)
            return self._sequence(value, place, self.optimizers)
        if has_order(value["state"]):
            names = self._at(place, parameter_names, value, self.alignment.spec, self.shapes)
            value, count = self._at(place, permute_optimizer, value, names, self.moves)
            self.parts.append(Part(place, "optimizer", count.found, count.moved))
        return value

    def _mapping(self, value: Mapping[Any, Any], place: str) -> Any:
        given = {
            name: tensor
            for name, tensor in value.items()
            if isinstance(name, str) and isinstance(tensor, torch.Tensor)
        }
        state, count = self._at(place, self.moves.state, given)
        if not count.found:
            state = {}
        else:
            self.parts.append(Part(place, "tensors", count.found, count.moved))
            bare = checkpoints.bare_names(given)
            for name, short in bare.items():
                self.shapes.setdefault(short, tuple(given[name].shape))
        others = {
            name: self.tensors(inner, _join(place, name))
            for name, inner in value.items()
            if name not in state
        }
        return _replaced(value, {**others, **state})

    def _sequence(self, value: Any, place: str, step: Any) -> Any:
        if type(value) not in (list, tuple):
            return value
        return type(value)(step(inner, f"{place}[{i}]") for i, inner in enumerate(value))

    @staticmethod
    def _at(place: str, action: Any, *arguments: Any) -> Any:
        """Call `action`; errors say where in the file."""
        try:
            return action(*arguments)
        except PermMergeError as error:
            if not place:
                raise
            raise type(error)(f"'{place}': {error}") from error


def _replaced(value: Mapping[Any, Any], inner: Mapping[Any, Any]) -> Any:
    """Return a mapping of the kind of `value`, with its order and attributes, and new entries."""
    result: Any = copy.copy(value)  # with its attributes: torch keeps versions of modules there
    for name in value:
        result[name] = inner[name]
    return result


def _join(place: str, name: Any) -> str:
    return f"{place}.{name}" if place else str(name)


def _names(value: Any) -> Iterator[str]:
    """Yield the names of all tensors in nested dicts."""
    for name, inner in value.items() if isinstance(value, Mapping) else ():
        if isinstance(inner, torch.Tensor):
            yield str(name)
        else:
            yield from _names(inner)
