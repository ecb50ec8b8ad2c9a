"""A safetensors file as a mapping, whose tensors are made when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from mergekit_perm.checkpoints import reading
from mergekit_perm.checkpoints.tied import left_out


class StateFile(Mapping[str, torch.Tensor]):
    """The tensors of a safetensors file by all their names, in the order of these.

    A tensor is a part of the file, which is mapped into memory: see `map_state`. Nothing is kept of
    those that nobody holds, so that many files may be open at once.

    Raises:
        CheckpointError: the file is missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        self._opened = reading.opened(path)
        own = {name: name for name in self._opened.keys()}  # noqa: SIM118
        self._places = own | left_out(self._opened.metadata() or {}, own)
        self._names = sorted(self._places)

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor: torch.Tensor = self._opened.get_tensor(self._places[name])
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
