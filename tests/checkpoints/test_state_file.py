"""Safetensors files as mappings, whose tensors are made when they are asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn

from mergekit_perm import checkpoints
from mergekit_perm.errors import CheckpointError


def test_it_is_what_the_file_holds(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    state = {"b": torch.randn(2, 3), "a": torch.arange(4)}
    save_file(state, path, metadata={"format": "pt", "recipe": "b"})
    found = checkpoints.StateFile(path)
    assert list(found) == ["a", "b"] and len(found) == 2 and "c" not in found
    assert all(torch.equal(found[name], state[name]) for name in state)
    with pytest.raises(KeyError):
        found["recipe"]


def test_names_that_are_left_out_are_there(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(3, 3)
            self.second = self.first

    module, path = Tied(), tmp_path / "tied.safetensors"
    save_model(module, str(path))
    found = checkpoints.StateFile(path)
    assert set(found) == set(module.state_dict())
    assert dict(found).keys() == checkpoints.map_state(path).keys()
    assert torch.equal(found["second.weight"], found["first.weight"])


def test_what_is_no_such_file(tmp_path: Path) -> None:
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0")
    for name in ("cut", "missing"):
        with pytest.raises(CheckpointError, match=f"{name}.safetensors"):
            checkpoints.StateFile(tmp_path / f"{name}.safetensors")
