"""Hashes of large files, each computed once while the file stays as it is; and links to files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mergekit_perm.files import file_sha256, replacing

_KNOWN: dict[tuple[int, int, int, int], str] = {}


def content_sha256(path: Path) -> str:
    """Return the hex SHA-256 of the bytes of `path`.

    In one process a file is read once, unless its size or the time when it was changed differ.
    """
    key = _stat(path)
    if key not in _KNOWN:
        _KNOWN[key] = file_sha256(path)
    return _KNOWN[key]


def content_sha256s(paths: Sequence[Path]) -> list[str]:
    """Return the hashes of `paths`, several of which are read at a time."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(content_sha256, paths))


def link(source: Path, path: Path) -> None:
    """Make `path` a symbolic link to file `source` in one step; a copy where there are no links."""
    # Relative, so that a folder with both may be moved as a whole.
    target = os.path.relpath(source.resolve(), path.parent.resolve())
    try:
        with replacing(path) as temporary:
            temporary.unlink()
            temporary.symlink_to(target)
    except OSError:
        copy(source, path)


def copy(source: Path, path: Path) -> None:
    """Copy file `source` to `path` in one step; the hash of the one is that of the other."""
    sha256 = content_sha256(source)
    with replacing(path) as temporary:
        shutil.copyfile(source, temporary)
    _KNOWN[_stat(path)] = sha256


def _stat(path: Path) -> tuple[int, int, int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
