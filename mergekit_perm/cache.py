"""Where results that several runs can share are kept: trained networks and proofs, by content."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(kind: str) -> Path:
    """Return the folder of cached `kind` ("networks", "proofs"); it may not exist yet.

    `PERM_MERGE_CACHE` names the folder; otherwise it is `perm-merge` in the user's cache folder.
    """
    root = os.environ.get("PERM_MERGE_CACHE")
    if root:
        return Path(root).expanduser() / kind
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "perm-merge" / kind
