from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from mergekit_perm import checkpoints
from mergekit_perm.errors import CheckpointError
from mergekit_perm.files import file_sha256

torch.set_num_threads(1)


def test_what_is_saved_is_loaded_bit_for_bit(tmp_path: Path) -> None:
    state = {
        "w": torch.tensor([[1.0, float("nan")], [-0.0, float("inf")]]),
        "h": torch.randn(3).to(torch.bfloat16),
        "n": torch.tensor(7),
        "e": torch.empty(0, 4),
        "b": torch.tensor([True, False]),
    }
    file = tmp_path / "deep" / "x.safetensors"
    sha256 = checkpoints.save(file, state)
    loaded = checkpoints.load_state(file)
    assert list(loaded) == sorted(state)
    assert checkpoints.state_sha256(loaded) == checkpoints.state_sha256(state)
    assert sha256 == file_sha256(file)
    assert [path.name for path in file.parent.iterdir()] == ["x.safetensors"]


def test_shared_and_strided_tensors(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    state = {"a": base, "tied": base, "t": base.T, "part": base[1], "grad": base.clone()}
    state["grad"].requires_grad_()
    before = {name: tensor.data_ptr() for name, tensor in state.items()}
    checkpoints.save(tmp_path / "x.safetensors", state)
    loaded = load_file(tmp_path / "x.safetensors")
    assert all(torch.equal(loaded[name], state[name]) for name in state)
    assert {name: tensor.data_ptr() for name, tensor in state.items()} == before
    assert not state["t"].is_contiguous()


def test_metadata(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    checkpoints.save(file, {"a": torch.ones(1)}, metadata={"content": "é", "b": '"\n\\'})
    with safe_open(file, framework="pt") as opened:
        assert opened.metadata() == {"format": "pt", "content": "é", "b": '"\n\\'}
        assert torch.equal(opened.get_tensor("a"), torch.ones(1))


def test_the_same_content_gives_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    program = (
        "import sys, torch\n"
        "from mergekit_perm import checkpoints\n"
        "state = {'b': torch.ones(2), 'a': torch.zeros(3)}\n"
        "metadata = {f'key{n}': str(n) for n in range(9)}\n"
        "for n in range(5):\n"
        "    print(checkpoints.save(sys.argv[1], state, metadata=metadata))\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "x.safetensors")]
    found = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    ).stdout.split()
    state = {"a": torch.zeros(3), "b": torch.ones(2)}
    metadata = {f"key{n}": str(n) for n in reversed(range(9))}
    found.append(checkpoints.save(tmp_path / "y.safetensors", state, metadata=metadata))
    assert len(found) == 6
    assert len(set(found)) == 1


def test_a_failure_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    before = checkpoints.save(file, {"a": torch.ones(1)})
    with pytest.raises(CheckpointError) as caught:
        checkpoints.save(file, {"a": torch.ones(1).to_sparse()})
    assert str(caught.value).startswith(f"{file}: cannot be written as safetensors: ")
    assert file_sha256(file) == before
    assert list(tmp_path.iterdir()) == [file]


def test_a_state_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        checkpoints.load_state(tmp_path / "x.safetensors")
    assert str(caught.value) == (
        f"{tmp_path}/x.safetensors: cannot be opened: No such file or directory"
    )


def test_neither_checkpoints_nor_data_load_timm() -> None:
    program = (
        "import sys, mergekit_perm.checkpoints, mergekit_perm.data\n"
        "slow = {'timm', 'torchvision', 'sklearn', 'scipy', 'huggingface_hub'}\n"
        "print(sorted(slow & sys.modules.keys()))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert found.stdout == "[]\n"
