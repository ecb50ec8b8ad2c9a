from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file

from mergekit_perm.checkpoints import Origin, origin
from mergekit_perm.errors import CheckpointError

STATE = {"w": torch.zeros(2)}
CONFIG = {"architecture": "net", "num_classes": 5, "model_args": {"depth": 3}}


def config(folder: Path, content: Any) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(content))


def test_config_json_beside_the_weights(tmp_path: Path) -> None:
    config(tmp_path / "one", {**CONFIG, "pretrained_cfg": {}})
    save_file(STATE, tmp_path / "one/model.safetensors")
    found = origin("local-dir:one", folder=tmp_path)
    place = tmp_path / "one"
    options = {"depth": 3, "num_classes": 5}
    assert found == Origin("net", options, str(place / "config.json"), f"local-dir:{place}")
    assert origin("one/model.safetensors", folder=tmp_path) == found
    # Where timm would take another file, it may be about that one.
    save_file(STATE, tmp_path / "one/other.safetensors")
    assert origin("one/other.safetensors", folder=tmp_path) is None
    (tmp_path / "one/model.safetensors").rename(tmp_path / "one/third.safetensors")
    assert origin("one/other.safetensors", folder=tmp_path) is None


def test_without_what_timm_needs_it_is_no_folder_of_timm(tmp_path: Path) -> None:
    config(tmp_path / "one", CONFIG)
    save_file(STATE, tmp_path / "one/model.safetensors")
    found = origin("local-dir:one", folder=tmp_path)
    assert found is not None and found.folder is None


@pytest.mark.parametrize("content", [{"architectures": ["LlamaForCausalLM"]}, [1], None])
def test_a_config_of_something_else_says_nothing(tmp_path: Path, content: Any) -> None:
    config(tmp_path / "one", content)
    save_file(STATE, tmp_path / "one/model.safetensors")
    assert origin("local-dir:one", folder=tmp_path) is None


def test_a_config_that_cannot_be_read(tmp_path: Path) -> None:
    config(tmp_path / "one", {})
    save_file(STATE, tmp_path / "one/model.safetensors")
    (tmp_path / "one/config.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read as JSON"):
        origin("local-dir:one", folder=tmp_path)


def test_a_checkpoint_of_training(tmp_path: Path) -> None:
    given = argparse.Namespace(
        num_classes=7, in_chans=None, gp="max", model_kwargs={"depth": 2}, lr=0.1
    )
    torch.save({"arch": "net", "state_dict": STATE, "args": given}, tmp_path / "a.pth.tar")
    options = {"num_classes": 7, "global_pool": "max", "depth": 2}
    found = origin("a.pth.tar", folder=tmp_path)
    assert found == Origin("net", options, str(tmp_path / "a.pth.tar"))
    torch.save({"arch": "net", "state_dict": STATE}, tmp_path / "b.pth.tar")
    assert origin("b.pth.tar", folder=tmp_path) == Origin("net", {}, str(tmp_path / "b.pth.tar"))


def test_weights_alone_say_nothing(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "a.pth")
    save_file(STATE, tmp_path / "a.safetensors")
    assert origin("a.pth", folder=tmp_path) is origin("a.safetensors", folder=tmp_path) is None
    with pytest.raises(CheckpointError, match="no such file"):
        origin("b.pth", folder=tmp_path)


def test_a_repository_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config(tmp_path, {**CONFIG, "pretrained_cfg": {}})
    asked = []

    def download(repository: str, name: str, *, revision: str | None) -> str:
        asked.append((repository, name, revision))
        if repository == "org/gone":
            raise OSError("offline")
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    found = origin("hf-hub:org/id@v1", folder=tmp_path)
    assert found is not None and (found.architecture, found.folder) == ("net", "hf-hub:org/id@v1")
    assert origin("hf-hub:org/gone", folder=tmp_path) is None
    assert asked == [("org/id", "config.json", "v1"), ("org/gone", "config.json", None)]
