"""Tensors that a network has under several names: read, checked and written as one.

A file has each once, as safetensors' `save_model` writes it: its header says of every name that is
left out which name stands for it.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from mergekit_perm.checkpoints import reading
from mergekit_perm.errors import CheckpointError

_SHOWN = 10

# What headers tell besides, in words that a tensor may be called by as well.
_TOLD = frozenset({"content", "format", "recipe", "source"})

Ties = Mapping[str, str]
_T = TypeVar("_T")


def ties(network: nn.Module | Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Return for names of tensors that have another name as well which name stands for them.

    Of all names of a tensor the first in the alphabet stands, as for safetensors' `save_model`.

    Args:
        network: a module, or a state dict; tensors are one if they lie at one place in memory.
    """
    state = network.state_dict() if isinstance(network, nn.Module) else network
    places = {name: _place(tensor) for name, tensor in state.items()}
    first: dict[object, str] = {}
    for name in sorted(places):
        first.setdefault(places[name], name)
    return {name: first[place] for name, place in places.items() if first[place] != name}


def once(state: Mapping[str, _T], ties: Ties) -> dict[str, _T]:
    """Return `state` without the names that others in it stand for."""
    return {name: tensor for name, tensor in state.items() if ties.get(name) not in state}


def completed(state: Mapping[str, _T], ties: Ties) -> dict[str, _T]:
    """Return `state` with all names of the tensors that it has under some of them."""
    found = dict(state)
    for name, kept in ties.items():
        if name in state:
            found.setdefault(kept, state[name])
    for name, kept in ties.items():
        if kept in found:
            found.setdefault(name, found[kept])
    return found


def check_tied(state: Mapping[str, torch.Tensor], ties: Ties, *, source: str) -> None:
    """Check that tensors that are one in the network are one and the same in `state`, to the bit.

    Args:
        state: the weights.
        ties: of the network.
        source: what to call the weights in the message.

    Raises:
        CheckpointError: naming those that differ.
    """
    other = [
        f"{name} and {kept}"
        for name, kept in ties.items()
        if name in state and kept in state and not _same(state[name], state[kept])
    ]
    if other:
        more = [f"    (+{len(other) - _SHOWN} more)"] if len(other) > _SHOWN else []
        raise CheckpointError(
            "\n".join(
                [
                    f"{source} has different values for what is one tensor in the network:",
                    *(f"    {pair}" for pair in other[:_SHOWN]),
                    *more,
                    "  build the network so that they are tensors of their own, or save it with "
                    "one value for both",
                ]
            )
        )


def read(path: Path) -> Any:
    """Return the content of `path` as `reading.read` does, with names that its header stands for.

    Raises:
        CheckpointError: as `reading.read`.
    """
    content = reading.read(path)
    if path.suffix != ".safetensors":
        return content
    return completed(content, left_out(reading.metadata(path), content))


def left_out(header: Mapping[str, str], names: Container[str]) -> dict[str, str]:
    """Return the names that a file leaves out, by its header, with those that stand for them.

    Args:
        header: of the file.
        names: of the tensors in it.
    """
    told = {name: kept for name, kept in header.items() if name not in _TOLD}
    return {name: kept for name, kept in told.items() if kept in names and name not in names}


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one is other:
        return True
    alike = one.dtype == other.dtype and one.shape == other.shape
    return alike and torch.equal(_bits(one), _bits(other))


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def _place(tensor: torch.Tensor) -> object:
    """Return what tells the numbers of a tensor from those of others, whatever it is called."""
    if not tensor.numel():
        return (id(tensor),)
    return (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
