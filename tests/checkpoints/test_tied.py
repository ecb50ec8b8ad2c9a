"""Tensors that a network has under several names, in files and out of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import nn

from mergekit_perm import checkpoints
from mergekit_perm.errors import CheckpointError


class Words(nn.Module):
    """Two tables, each of which is the weight of a layer as well."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.words = nn.Embedding(11, 8)
        self.decoder = nn.Linear(8, 11)
        self.decoder.weight = self.words.weight
        self.first = self.again = nn.Linear(8, 8)
        for name in ("one", "other"):
            self.register_buffer(name, torch.empty(0, 3))


TIES = {
    "words.weight": "decoder.weight",
    "first.weight": "again.weight",
    "first.bias": "again.bias",
}


def header(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as opened:
        return dict(opened.metadata())


def test_names_are_left_out_that_save_model_leaves_out(tmp_path: Path) -> None:
    network, file = Words(), tmp_path / "x.safetensors"
    ties = checkpoints.ties(network)
    assert ties == checkpoints.ties(network.state_dict()) == TIES
    checkpoints.save(file, network.state_dict(), metadata={"a": "b"}, ties=ties)
    save_model(network, str(tmp_path / "theirs.safetensors"))
    assert load_file(file).keys() == load_file(tmp_path / "theirs.safetensors").keys()
    assert header(file) == {"format": "pt", "a": "b", **TIES}
    other = Words(seed=1)
    assert load_model(other, file) == (set(), [])
    wanted = network.state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in other.state_dict().items())


def test_a_name_that_stands_for_others_has_to_be_there(tmp_path: Path) -> None:
    mask = {"words.weight": torch.ones(11, 8), "first.bias": torch.ones(8)}
    checkpoints.save(tmp_path / "x.safetensors", mask, ties=TIES)
    assert load_file(tmp_path / "x.safetensors").keys() == mask.keys()


def test_what_save_model_has_left_out_is_read(tmp_path: Path) -> None:
    network, file = Words(), tmp_path / "x.safetensors"
    save_model(network, str(file))
    wanted = network.state_dict()
    for found in (
        checkpoints.load(str(file)).state,
        checkpoints.load_state(file),
        checkpoints.map_state(file),
    ):
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert checkpoints.ties(checkpoints.map_state(file)) == TIES
    assert checkpoints.ties(checkpoints.load(str(file)).state) == {}


def test_files_that_are_copied_whole_have_each_tensor_once(tmp_path: Path) -> None:
    network = Words()
    shapes = checkpoints.shapes(network)
    save_model(network, str(tmp_path / "once.safetensors"))
    every = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    save_file(every, tmp_path / "every.safetensors")
    save_file(checkpoints.once(every, TIES), tmp_path / "unsaid.safetensors")
    found = {
        name: checkpoints.plain_file(f"{name}.safetensors", shapes, folder=tmp_path, ties=TIES)
        for name in ("once", "every", "unsaid")
    }
    assert found == {"once": tmp_path / "once.safetensors", "every": None, "unsaid": None}


def test_any_name_stands_for_the_others() -> None:
    ties = {"b": "a", "c": "a", "e": "d"}
    for name in "abc":
        assert checkpoints.completed({name: 1, "f": 2}, ties) == {"a": 1, "b": 1, "c": 1, "f": 2}
    assert checkpoints.once({"a": 1, "b": 1, "e": 2}, ties) == {"a": 1, "e": 2}


def test_two_values_for_one_tensor_are_refused(tmp_path: Path) -> None:
    state = {name: tensor.clone() for name, tensor in Words().state_dict().items()}
    state["again.bias"][0] = float("nan")
    state["first.bias"][0] = float("nan")
    checkpoints.check_tied(state, TIES, source="x")
    state["words.weight"][0, 0] += 1
    state["first.weight"] = state["first.weight"].double()
    message = (
        "x has different values for what is one tensor in the network:\n"
        "    words.weight and decoder.weight\n"
        "    first.weight and again.weight\n"
        "  build the network so that they are tensors of their own, or save it with one value "
        "for both"
    )
    with pytest.raises(CheckpointError) as caught:
        checkpoints.check_tied(state, TIES, source="x")
    assert str(caught.value) == message
    with pytest.raises(CheckpointError, match=r"words\.weight and decoder\.weight"):
        checkpoints.save(tmp_path / "x.safetensors", state, ties=TIES)
    assert not any(tmp_path.iterdir())
    many = {f"{name}{i}": torch.tensor(float(i)) for i in range(12) for name in "ab"}
    many |= {f"b{i}": torch.tensor(-1.0) for i in range(12)}
    with pytest.raises(CheckpointError, match=r"b9 and a9\n    \(\+2 more\)"):
        checkpoints.check_tied(many, {f"b{i}": f"a{i}" for i in range(12)}, source="x")
