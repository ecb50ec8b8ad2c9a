"""State dicts in and out of files: reading anything safely, checking, writing safetensors."""

from __future__ import annotations

from mergekit_perm.checkpoints.checking import adapted, check_finite, fit, shapes, state_sha256
from mergekit_perm.checkpoints.hashes import content_sha256, copy, link
from mergekit_perm.checkpoints.origin import Origin, origin
from mergekit_perm.checkpoints.references import (
    Checkpoint,
    bare_names,
    load,
    local_file,
    plain_file,
)
from mergekit_perm.checkpoints.state_file import StateFile
from mergekit_perm.checkpoints.tied import check_tied, completed, once, ties
from mergekit_perm.checkpoints.writing import load_metadata, load_state, map_state, save

__all__ = [
    "Checkpoint",
    "Origin",
    "StateFile",
    "adapted",
    "bare_names",
    "check_finite",
    "check_tied",
    "completed",
    "content_sha256",
    "copy",
    "fit",
    "link",
    "load",
    "load_metadata",
    "load_state",
    "local_file",
    "map_state",
    "once",
    "origin",
    "plain_file",
    "save",
    "shapes",
    "state_sha256",
    "ties",
]
