"""A run spec back to YAML, with every default written out."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel

from mergekit_perm.spec.alignment import AlignSpec
from mergekit_perm.spec.run_spec import RunSpec
from mergekit_perm.yaml_document import dump

_HEAD = "# Written by perm-merge: the run spec with every default in its place.\n"


def resolved(spec: RunSpec) -> str:
    """Return `spec` as YAML that `loads` turns into an equal spec.

    What is None, and so means "not given", is left out: a network's training says only what
    differs from `train`. The options of alignment are all there: None is a value of theirs. Paths
    are as they were written.
    """
    return _HEAD + dump(_plain(spec))


def without_seeds(spec: RunSpec) -> str:
    """Return a hash of `spec` without its name and the seeds that networks are trained with.

    Runs that share it repeat one another: with other networks, and nothing else that is another.
    """
    content = _plain(spec)
    del content["name"]
    for network in content["networks"].values():
        network.get("train", {}).pop("seed", None)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    # Not pydantic's dump with exclude_none: that would drop the nulls inside `options` as well.
    if isinstance(value, AlignSpec):
        return {name: _plain(field) for name, field in value}
    if isinstance(value, BaseModel):
        return {name: _plain(field) for name, field in value if field is not None}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value
