from __future__ import annotations

import argparse
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mergekit_perm import checkpoints
from mergekit_perm.errors import CheckpointError

torch.set_num_threads(1)

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}
EMA = {name: tensor + 10 for name, tensor in STATE.items()}


class Runs:
    """Creates a file when it is unpickled by a reader that is not careful."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.target}",)


def message(reference: str, folder: Path, **options: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        checkpoints.load(reference, folder=folder, **options)
    return str(caught.value).replace(f"{folder}/", "")


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ------------------------------------------------------------------------------------- formats


@pytest.mark.parametrize("name", ["x.pth", "x.pt", "x.bin", "x.pth.tar", "x.ckpt"])
@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_files(tmp_path: Path, name: str, zipped: bool) -> None:
    torch.save(STATE, tmp_path / name, _use_new_zipfile_serialization=zipped)
    found = checkpoints.load(name, folder=tmp_path)
    assert equal(found.state, STATE)
    assert found.key is None
    assert found.source == str(tmp_path / name)
    assert found.sha256 is not None
    assert len(found.sha256) == 64


def test_safetensors(tmp_path: Path) -> None:
    sha256 = checkpoints.save(tmp_path / "x.safetensors", STATE)
    found = checkpoints.load(str(tmp_path / "x.safetensors"))
    assert equal(found.state, STATE)
    assert (found.key, found.sha256) == (None, sha256)


def test_a_file_can_be_replaced_while_its_tensors_are_in_use(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    checkpoints.save(file, STATE)
    found = checkpoints.load(str(file))
    file.write_bytes(b"\0" * file.stat().st_size)
    assert equal(found.state, STATE)


def test_tensors_are_contiguous_detached_and_share_no_memory(tmp_path: Path) -> None:
    base = nn.Parameter(torch.arange(6.0).reshape(2, 3))
    torch.save({"a": base, "b": base, "c": base.detach().T}, tmp_path / "x.pth")
    state = checkpoints.load("x.pth", folder=tmp_path).state
    assert torch.equal(state["c"], base.detach().T)
    assert all(t.is_contiguous() and not t.requires_grad for t in state.values())
    assert not isinstance(state["a"], nn.Parameter)
    state["a"].zero_()
    assert torch.equal(state["b"], base.detach())


def test_dtypes_are_kept(tmp_path: Path) -> None:
    kinds = [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool]
    state = {str(kind): torch.ones(3).to(kind) for kind in kinds}
    torch.save(state, tmp_path / "x.pth")
    found = checkpoints.load("x.pth", folder=tmp_path).state
    assert [tensor.dtype for tensor in found.values()] == kinds


def test_sparse_tensors_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2).to_sparse()}, tmp_path / "x.pth")
    assert message("x.pth", tmp_path) == (
        "x.pth: tensor 'a' is torch.sparse_coo, torch.float32; "
        "only dense tensors that are not quantized can be used"
    )


# --------------------------------------------------------------------------- what is taken


def train_py(**extra: Any) -> dict[str, Any]:
    """What timm's train.py saves."""
    return {
        "epoch": 3,
        "arch": "resnet18",
        "state_dict": OrderedDict(STATE),
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": []},
        "version": 2,
        "args": argparse.Namespace(model="resnet18", lr=0.1),
        "metric": 71.5,
        **extra,
    }


@pytest.mark.parametrize(
    ("content", "ema", "key", "expected"),
    [
        (train_py(), "auto", "state_dict", STATE),
        (train_py(), False, "state_dict", STATE),
        (train_py(state_dict_ema=EMA), "auto", "state_dict_ema", EMA),
        (train_py(state_dict_ema=EMA), True, "state_dict_ema", EMA),
        (train_py(state_dict_ema=EMA), False, "state_dict", STATE),
        (train_py(state_dict_ema=None), "auto", "state_dict", STATE),
        ({"model": STATE, "model_ema": EMA}, "auto", "model_ema", EMA),
        ({"model": STATE, "model_ema": EMA}, False, "model", STATE),
        ({"model": STATE, "state_dict": EMA}, "auto", "state_dict", EMA),
        ({"state_dict_ema": EMA, "model_ema": STATE}, True, "state_dict_ema", EMA),
        (STATE, "auto", None, STATE),
        (STATE, False, None, STATE),
        ({"model": torch.ones(1)}, "auto", None, {"model": torch.ones(1)}),
    ],
)
def test_which_entry_is_taken(
    tmp_path: Path, content: Any, ema: Any, key: str | None, expected: dict[str, torch.Tensor]
) -> None:
    torch.save(content, tmp_path / "last.pth.tar")
    found = checkpoints.load("last.pth.tar", ema=ema, folder=tmp_path)
    assert found.key == key
    assert equal(found.state, expected)


def test_averaged_weights_that_are_not_there(tmp_path: Path) -> None:
    torch.save({"state_dict": STATE, "epoch": 1}, tmp_path / "x.pth")
    assert message("x.pth", tmp_path, ema=True) == (
        "x.pth: no averaged weights (state_dict_ema or model_ema), which `ema: true` asks for; "
        "found state_dict (dict), epoch (int)"
    )
    checkpoints.save(tmp_path / "x.safetensors", STATE)
    assert message("x.safetensors", tmp_path, ema=True) == (
        "x.safetensors: no averaged weights (state_dict_ema or model_ema), "
        "which `ema: true` asks for; found 2 tensors without a heading"
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            {"epoch": 1, "net": STATE},
            "no state dict; found epoch (int), net (dict); expected tensors by name, "
            "alone or under state_dict_ema, model_ema, state_dict, model",
        ),
        (
            {"state_dict": {"a": torch.ones(1), "n": 3}},
            "'state_dict' in it is no state dict; found n (int); expected tensors by name, "
            "alone or under state_dict_ema, model_ema, state_dict, model",
        ),
        (
            [torch.ones(1)],
            "no state dict; found list; expected tensors by name, "
            "alone or under state_dict_ema, model_ema, state_dict, model",
        ),
        (
            {},
            "no state dict; found nothing in it; expected tensors by name, "
            "alone or under state_dict_ema, model_ema, state_dict, model",
        ),
        (
            {str(n): n for n in range(12)},
            "no state dict; found "
            + ", ".join(f"{n} (int)" for n in range(10))
            + " (+2 more); expected tensors by name, "
            "alone or under state_dict_ema, model_ema, state_dict, model",
        ),
    ],
)
def test_no_state_dict(tmp_path: Path, content: Any, expected: str) -> None:
    torch.save(content, tmp_path / "x.pth")
    assert message("x.pth", tmp_path) == f"x.pth: {expected}"


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."]
)
def test_wrappers_are_taken_off(tmp_path: Path, prefix: str) -> None:
    torch.save({prefix + name: tensor for name, tensor in STATE.items()}, tmp_path / "x.pth")
    assert equal(checkpoints.load("x.pth", folder=tmp_path).state, STATE)


def test_the_wrapper_of_torchs_averaged_model_is_taken_off(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    averaged = torch.optim.swa_utils.AveragedModel(model)
    torch.save(averaged.state_dict(), tmp_path / "x.pth")
    assert equal(checkpoints.load("x.pth", folder=tmp_path).state, dict(model.state_dict()))


def test_a_part_compiled_on_its_own(tmp_path: Path) -> None:
    torch.save({"stem._orig_mod.w": torch.ones(1), "head.w": torch.ones(2)}, tmp_path / "x.pth")
    assert list(checkpoints.load("x.pth", folder=tmp_path).state) == ["stem.w", "head.w"]


def test_a_name_that_only_some_tensors_begin_with_stays(tmp_path: Path) -> None:
    state = {"module.w": torch.ones(1), "head.w": torch.ones(2), "n_averaged": torch.ones(1)}
    torch.save(state, tmp_path / "x.pth")
    assert list(checkpoints.load("x.pth", folder=tmp_path).state) == list(state)


# ------------------------------------------------------------------------- unsafe and damaged


@pytest.mark.parametrize("how", ["zip", "legacy", "bare"])
def test_code_in_a_file_is_refused_by_name_and_not_run(tmp_path: Path, how: str) -> None:
    content = {"state_dict": STATE, "args": argparse.Namespace(), "x": Runs(tmp_path / "ran")}
    if how == "bare":
        (tmp_path / "x.pth").write_bytes(pickle.dumps({"a": Runs(tmp_path / "ran")}))
    else:
        zipped = how == "zip"
        torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    assert message("x.pth", tmp_path) == (
        f"x.pth: refused, because reading it would run or build {os.name}.system; nothing of it "
        "was run. If you trust the file, load it yourself and save only the state dict: "
        "torch.save(model.state_dict(), 'weights.pth')"
    )
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / "x.pth", weights_only=False) if how == "zip" else None
    assert (tmp_path / "ran").exists() == (how == "zip")  # the file was dangerous indeed


def test_a_whole_module_is_refused_by_name(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "x.pth")
    assert "would run or build torch.nn.modules.linear.Linear; nothing" in message(
        "x.pth", tmp_path
    )


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "x.pth",
            b"",
            "x.pth: cannot be read (EOFError: Ran out of input): "
            "it is damaged or not a checkpoint; copy or download it again",
        ),
        (
            "x.pth",
            b"<!doctype html>",
            "x.pth: cannot be read as torch.save writes files: "
            "it is damaged or not a checkpoint; copy or download it again",
        ),
        (
            "x.safetensors",
            b"<!doctype html>",
            "x.safetensors: cannot be read as safetensors (Error while deserializing header: "
            "header too large): it is damaged or not a checkpoint; copy or download it again",
        ),
        (
            "x.safetensors",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            "x.safetensors: is a Git LFS pointer, not the weights; fetch them with `git lfs pull`",
        ),
        (
            "x.npz",
            b"PK",
            "x.npz: not a checkpoint by its name; expected an ending among "
            ".safetensors, .pth, .pt, .pth.tar, .bin, .ckpt",
        ),
    ],
)
def test_files_that_are_no_checkpoints(
    tmp_path: Path, name: str, content: bytes, expected: str
) -> None:
    (tmp_path / name).write_bytes(content)
    found = message(name, tmp_path)
    assert found.replace("it ends too early", "Ran out of input") == expected
    assert "weights_only" not in found


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_a_truncated_file(tmp_path: Path, name: str) -> None:
    if name == "x.pth":
        torch.save(STATE, tmp_path / name)
    else:
        checkpoints.save(tmp_path / name, STATE)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-3])
    assert message(name, tmp_path).endswith(
        "): it is damaged or not a checkpoint; copy or download it again"
    )


def test_an_archive_that_is_not_torchs(tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("a.txt", "hello")
    assert message("x.pth", tmp_path).startswith("x.pth: cannot be read (RuntimeError: ")


# ------------------------------------------------------------------------------- where files are


def test_a_missing_file_and_its_neighbour(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "model_best.pth.tar")
    assert message("model_bst.pth.tar", tmp_path) == (
        "model_bst.pth.tar: no such file (did you mean 'model_best.pth.tar'?)"
    )
    assert message("no/where.pth", tmp_path) == "no/where.pth: no such file"


def test_a_folder_needs_its_prefix(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert message("run", tmp_path) == "run: is a folder; write 'local-dir:run'"


def test_local_dir_takes_the_file_that_timm_takes(tmp_path: Path) -> None:
    torch.save(EMA, tmp_path / "pytorch_model.bin")
    torch.save(EMA, tmp_path / "another.pth")
    found = checkpoints.load(f"local-dir:{tmp_path}")
    assert equal(found.state, EMA)
    assert found.source == f"local-dir:{tmp_path}/pytorch_model.bin"
    checkpoints.save(tmp_path / "model.safetensors", STATE)
    assert equal(checkpoints.load("local-dir:.", folder=tmp_path).state, STATE)


def test_local_dir_with_one_file_of_another_name(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "checkpoint-7.pth.tar")
    assert equal(checkpoints.load("local-dir:.", folder=tmp_path).state, STATE)


def test_local_dir_with_several_files(tmp_path: Path) -> None:
    for name in ("b.pth", "a.pth"):
        torch.save(STATE, tmp_path / name)
    assert message(f"local-dir:{tmp_path}", tmp_path) == (
        f"local-dir:{tmp_path}: several files of weights (a.pth, b.pth); name the one to take"
    )


def test_local_dir_without_weights(tmp_path: Path) -> None:
    assert message(f"local-dir:{tmp_path}", tmp_path) == (
        f"local-dir:{tmp_path}: no weights; expected model.safetensors there"
    )
    assert message("local-dir:nowhere", tmp_path) == "local-dir:nowhere: no such folder"


def test_local_dir_with_split_weights(tmp_path: Path) -> None:
    checkpoints.save(tmp_path / "model-00001-of-00002.safetensors", STATE)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    assert message(f"local-dir:{tmp_path}", tmp_path) == (
        f"local-dir:{tmp_path}: the weights are split over several files; "
        "save them as one model.safetensors, which is also all that timm reads"
    )


# ------------------------------------------------------------------------------------- the hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, and no connection."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def cached(hub: Path, file: str, *, revision: str = "main") -> Path:
    repository, commit = hub / "models--org--net", "a" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / revision).write_text(commit)
    (repository / "snapshots" / commit).mkdir(parents=True)
    return repository / "snapshots" / commit / file


@pytest.mark.parametrize("kind", ["hf-hub", "hf_hub"])
def test_a_repository_in_the_cache(hub: Path, kind: str) -> None:
    checkpoints.save(cached(hub, "model.safetensors"), STATE)
    found = checkpoints.load(f"{kind}:org/net")
    assert equal(found.state, STATE)
    assert found.source == "hf-hub:org/net/model.safetensors"


def test_a_revision_in_the_cache_that_is_no_safetensors(hub: Path) -> None:
    torch.save({"model": STATE}, cached(hub, "pytorch_model.bin", revision="v2"))
    found = checkpoints.load("hf-hub:org/net@v2")
    assert equal(found.state, STATE)
    assert found.key == "model"
    assert "offline" in message("hf-hub:org/net@v1", hub)


def test_a_repository_without_a_connection(hub: Path) -> None:
    assert message("hf-hub:org/net", hub) == (
        "hf-hub:org/net: offline, and not in the local cache; connect, "
        "or download the repository elsewhere and write 'local-dir:PATH'"
    )


def test_a_repository_that_cannot_be(hub: Path) -> None:
    found = message("hf-hub:a/b/c", hub)
    assert found.startswith("hf-hub:a/b/c: cannot be downloaded (HFValidationError: ")
    assert found.endswith("; check the name, the revision and, for a private repository, the login")


def test_a_repository_without_weights(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    def absent(*_: Any, **__: Any) -> str:
        raise EntryNotFoundError.__new__(EntryNotFoundError)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", absent)
    assert message("hf-hub:org/net", hub) == (
        "hf-hub:org/net: the repository has neither model.safetensors nor pytorch_model.bin"
    )
