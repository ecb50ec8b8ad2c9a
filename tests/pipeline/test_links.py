"""Checkpoints that are used as they are: linked to, and watched while a run uses them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from mergekit_perm import checkpoints, merge, networks, pipeline
from mergekit_perm.errors import RunError, SpecError
from mergekit_perm.spec import RunSpec, loads

OPTIONS = {"in_features": 4, "hidden": [5], "num_classes": 3}
TEXT = """
format: perm-merge/run@1
name: linked
architecture: mlp
options: {in_features: 4, hidden: [5], num_classes: 3}
networks:
  a: {checkpoint: a.safetensors}
  b: {checkpoint: b.safetensors}
merge: [{name: mean, method: linear}]
"""
FOLDER = Path("out/linked")


@pytest.fixture
def spec(tmp_path: Path) -> RunSpec:
    for seed, name in enumerate("ab"):
        write(tmp_path / f"{name}.safetensors", seed)
    return loads(TEXT, folder=tmp_path)


def write(path: Path, seed: int) -> None:
    checkpoints.save(path, networks.build("mlp", OPTIONS, seed=seed).state_dict())


def mean() -> torch.Tensor:
    return checkpoints.load_state(FOLDER / "merged/mean/model.safetensors")["head.weight"]


def test_checkpoints_are_linked_to(spec: RunSpec, tmp_path: Path) -> None:
    before = (tmp_path / "a.safetensors").stat()
    pipeline.run(spec)
    link = FOLDER / "networks/a.safetensors"
    assert link.is_symlink() and link.resolve() == tmp_path / "a.safetensors"
    assert not Path(link.readlink()).is_absolute()
    after = (tmp_path / "a.safetensors").stat()
    assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)
    # A new checkpoint is another network; the link does not hide that.
    first = mean()
    write(tmp_path / "a.safetensors", seed=7)
    pipeline.run(spec)
    assert not torch.equal(first, mean())
    (tmp_path / "a.safetensors").unlink()
    with pytest.raises((RunError, SpecError), match=r"a\.safetensors"):
        pipeline.run(loads(TEXT, folder=tmp_path))
    assert not (tmp_path / "a.safetensors").exists()


def test_where_there_are_no_links_files_are_copied(
    spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object) -> None:
        raise OSError("a required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    pipeline.run(spec)
    copied = FOLDER / "networks/a.safetensors"
    assert not copied.is_symlink()
    assert copied.read_bytes() == (tmp_path / "a.safetensors").read_bytes()
    assert not [*copied.parent.glob(".*")]


def test_what_lies_in_the_folder_of_the_run_is_copied(tmp_path: Path) -> None:
    (FOLDER / "merged/mean").mkdir(parents=True)
    for seed, file in enumerate(("merged/mean/model", "b")):
        write(FOLDER / f"{file}.safetensors", seed)
    text = TEXT.replace("a.safetensors", f"{FOLDER}/merged/mean/model.safetensors")
    text = text.replace("b.safetensors", f"{FOLDER}/b.safetensors")
    given = [networks.build("mlp", OPTIONS, seed=s).state_dict()["head.weight"] for s in (0, 1)]
    pipeline.run(loads(text, folder=tmp_path), force=True)
    assert torch.allclose(mean(), (given[0] + given[1]) / 2)
    assert not (FOLDER / "networks/a.safetensors").is_symlink()


def test_a_checkpoint_that_changes_while_it_is_used_ends_the_run(
    spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = merge.merge_tensors

    def meanwhile(*args: object, **options: object) -> object:
        write(tmp_path / "b.safetensors", seed=9)
        return real(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(merge, "merge_tensors", meanwhile)
    with pytest.raises(RunError, match=r"b\.safetensors: was changed while the run was using it"):
        pipeline.run(spec)
    assert not (FOLDER / "report.json").exists()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    pipeline.run(spec)
    given = [networks.build("mlp", OPTIONS, seed=s).state_dict()["head.weight"] for s in (0, 9)]
    assert torch.allclose(mean(), (given[0] + given[1]) / 2)


def test_many_files_are_hashed_as_one_is(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.bin" for number in range(5)]
    for number, file in enumerate(files):
        file.write_bytes(bytes([number]) * 1000)
    expected = [shutil.copy(file, f"{file}.copy") for file in files]
    assert checkpoints.hashes.content_sha256s(files) == [
        checkpoints.content_sha256(Path(copy)) for copy in expected
    ]
