"""Paths of a run spec."""

from __future__ import annotations

from pathlib import Path


def resolve_path(text: str, folder: Path) -> Path:
    """Return `text` as a path that starts from `folder` unless it is absolute or starts with ~."""
    try:
        return folder / Path(text).expanduser()
    except RuntimeError:  # "~name" where nobody is called so
        return folder / text
