"""The sound parts of a spec that may be broken elsewhere, for the checks across sections.

A misspelt key in one network must not hide an unknown name in another section, nor invent one.
So each part is validated by itself; a part with a problem of its own is left out, and a check
that needs it stays silent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from mergekit_perm.spec.alignment import AlignField, AlignSpec, default_method
from mergekit_perm.spec.merge_models import MergeSpec, MissingSpec, policies
from mergekit_perm.spec.models import (
    EvaluateSpec,
    GateSpec,
    NetworkSpec,
    PruneSpec,
    Section,
    TrainSpec,
)
from mergekit_perm.spec.problems import guess
from mergekit_perm.spec.run_spec import RunSpec

_ALIGN: TypeAdapter[AlignSpec] = TypeAdapter(AlignField)
_Section = TypeVar("_Section", bound=Section)
_Key = TypeVar("_Key")


@dataclass(frozen=True, slots=True)
class Parts:
    """What is known of a spec.

    Attributes:
        folder: where relative paths start.
        given: the top-level keys that have a value, sound or not, misspelt ones put right.
        names: of all networks, sound or not.
        architecture: of the run; None when not given, or broken.
        networks, missing, merge, gates: the sound entries, by name or index.
        train, prune, align, evaluate: the section; all but `train` are None when not given or
            broken, which `given` tells apart.
    """

    folder: Path
    given: frozenset[str]
    names: tuple[str, ...]
    architecture: str | None
    networks: Mapping[str, NetworkSpec]
    train: TrainSpec | None
    prune: PruneSpec | None
    align: AlignSpec | None
    missing: Mapping[int, MissingSpec]
    merge: Mapping[int, MergeSpec]
    evaluate: EvaluateSpec | None
    gates: Mapping[int, GateSpec]


def given_keys(data: Mapping[str, Any]) -> frozenset[str]:
    """Return the keys of `data` that have a value, sound or not, misspelt ones put right."""
    known = list(RunSpec.model_fields)
    given = {key if key in known else guess(key, known) for key in data if data[key] is not None}
    return frozenset(key for key in given if key is not None)


def with_method(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return `data` with the method of alignment written out where it is left to us."""
    align = data.get("align")
    if not isinstance(align, dict) or align.get("method") is not None:
        return dict(data)
    method = default_method(align, has_data="data" in given_keys(data))
    return {**data, "align": {**align, "method": method}}


def sound_parts(data: Mapping[str, Any], folder: Path) -> Parts:
    """Return the parts of `data` that are sound by themselves."""
    networks = data.get("networks")
    networks = networks if isinstance(networks, dict) else {}
    architecture = data.get("architecture")
    return Parts(
        folder=folder,
        given=given_keys(data),
        names=tuple(networks),
        architecture=architecture if isinstance(architecture, str) else None,
        networks=_sound(NetworkSpec, networks),
        train=_one(TrainSpec, data.get("train", {})),
        prune=_one(PruneSpec, data.get("prune")),
        align=_align(data.get("align")),
        missing=_sound(MissingSpec, _numbered(policies(data.get("missing")))),
        merge=_sound(MergeSpec, _numbered(data.get("merge"))),
        evaluate=_one(EvaluateSpec, data.get("evaluate")),
        gates=_sound(GateSpec, _numbered(data.get("gates"))),
    )


def _align(data: Any) -> AlignSpec | None:
    try:
        return _ALIGN.validate_json(json.dumps(data))
    except ValidationError:
        return None


def _numbered(items: Any) -> dict[int, Any]:
    return dict(enumerate(items)) if isinstance(items, list) else {}


def _sound(section: type[_Section], entries: Mapping[_Key, Any]) -> dict[_Key, _Section]:
    checked = {key: _one(section, entry) for key, entry in entries.items()}
    return {key: entry for key, entry in checked.items() if entry is not None}


def _one(section: type[_Section], data: Any) -> _Section | None:
    try:
        return section.model_validate_json(json.dumps(data))
    except ValidationError:
        return None
