"""Hashes of large files, each computed once while the file stays as it is; and copies of files."""

from __future__ import annotations

import shutil
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


def copy(source: Path, path: Path) -> None:
    """Copy file `source` to `path` in one step; the hash of the one is that of the other."""
    sha256 = content_sha256(source)
    with replacing(path) as temporary:
        shutil.copyfile(source, temporary)
    _KNOWN[_stat(path)] = sha256


def _stat(path: Path) -> tuple[int, int, int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
