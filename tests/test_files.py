from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest

from mergekit_perm import cache, shipped
from mergekit_perm.files import file_sha256, replacing, write_text
from mergekit_perm.progress import silent


def test_replacing_makes_the_folder_and_the_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.bin"
    with replacing(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary != path
        temporary.write_bytes(b"content")
        assert not path.exists()
    assert path.read_bytes() == b"content"
    assert list(path.parent.iterdir()) == [path]


def test_a_reader_sees_the_old_content_until_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_a_failure_leaves_everything_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="half way"), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("half way")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_on_a_new_path_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "file"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_files_are_as_readable_as_the_umask_allows(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        write_text(tmp_path / "file", "text")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode


def test_no_file_is_left_open(tmp_path: Path) -> None:
    def next_handle() -> int:
        handle = os.open(tmp_path, os.O_RDONLY)
        os.close(handle)
        return handle

    before = next_handle()
    write_text(tmp_path / "file", "text")
    assert next_handle() == before


def test_write_text_is_utf_8_without_translation(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "λ\n")
    assert (tmp_path / "file").read_bytes() == "λ\n".encode()


def test_file_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    # FIPS 180-2, appendix B.1.
    assert file_sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_shipped_specs_are_found_by_name() -> None:
    folder = shipped.specs_folder()
    assert (folder / "architectures").is_dir()
    assert shipped.run_specs()["quickstart"] == folder / "quickstart.yaml"
    for found, place in (
        (shipped.run_specs(), folder),
        (shipped.architecture_specs(), folder / "architectures"),
    ):
        assert list(found) == sorted(path.stem for path in place.glob("*.yaml"))
        assert all(path == place / f"{name}.yaml" for name, path in found.items())


def test_specs_inside_the_package_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, outside = tmp_path / "package" / "specs", tmp_path / "specs"
    (outside / "architectures").mkdir(parents=True)
    inside.mkdir(parents=True)
    monkeypatch.setattr(shipped, "_FOLDERS", (inside, outside))
    assert shipped.specs_folder() == outside
    (inside / "architectures").mkdir()
    (inside / "architectures" / "net.yaml").touch()
    (inside / "b.yaml").touch()
    (inside / "a.yaml").touch()
    assert shipped.specs_folder() == inside
    assert shipped.run_specs() == {"a": inside / "a.yaml", "b": inside / "b.yaml"}
    assert shipped.architecture_specs() == {"net": inside / "architectures" / "net.yaml"}


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.delenv("PERM_MERGE_CACHE", raising=False)
    assert cache.cache_folder("proofs") == Path("/home/someone/.cache/perm-merge/proofs")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert cache.cache_folder("proofs") == Path("/cache/perm-merge/proofs")
    monkeypatch.setenv("PERM_MERGE_CACHE", "~/here")
    assert cache.cache_folder("networks") == Path("/home/someone/here/networks")


def test_a_user_without_a_home_has_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("PERM_MERGE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "expanduser", unknown)
    folder = cache.cache_folder("proofs")
    assert folder.name == "proofs" and folder.parent.parent == Path(tempfile.gettempdir())


def test_the_silent_listener_takes_a_report_and_returns_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    silent("training a", 1, 2)
    assert capsys.readouterr() == ("", "")
