"""Where results that several runs can share are kept: networks, proofs, outlines, by content."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def cache_folder(kind: str) -> Path:
    """Return the folder of cached `kind` ("networks", "proofs", "outlines"); it may not exist yet.

    `PERM_MERGE_CACHE` names the folder; otherwise it is `perm-merge` in the user's cache folder, or
    one for temporary files where the user has no home.
    """
    root = os.environ.get("PERM_MERGE_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        folder = Path(root).expanduser() if root else Path(home).expanduser() / "perm-merge"
    except RuntimeError:  # a container's user that nobody knows
        folder = Path(tempfile.gettempdir()) / f"perm-merge-{os.getuid()}"
    return folder / kind
