"""Finding the permutation spec of an architecture: a file, a built-in's own, or a shipped one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergekit_perm import networks, shipped
from mergekit_perm.errors import PermutationSpecError
from mergekit_perm.permspec import PermutationSpec


@dataclass(frozen=True, slots=True)
class Found:
    """A bound permutation spec, where it came from in a few words, and its text as it stands."""

    spec: PermutationSpec
    source: str
    text: str


def from_file(path: Path, shapes: Mapping[str, Sequence[int]]) -> Found:
    """Read the spec in `path` and bind it to the tensors of a network.

    Raises:
        PermutationSpecError: the file is missing or malformed, or the spec does not fit.
    """
    spec = PermutationSpec.load(path)
    try:
        return Found(spec.bind(shapes), str(path), path.read_text(encoding="utf-8"))
    except PermutationSpecError as error:
        raise PermutationSpecError(f"{path}: {error}") from error


def find(
    architecture: str, options: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]
) -> Found:
    """Return the spec for `architecture` that needs no file: the built-in's own, or a shipped one.

    Raises:
        PermutationSpecError: there is none, or the shipped one does not hold for these options.
    """
    own = networks.permutation_spec_text(architecture, options)
    if own is not None:
        spec = PermutationSpec.loads(own, file=f"<{architecture}>")
        return Found(spec.bind(shapes), f"{architecture}'s own", own)
    name = architecture.partition(".")[0]
    path = shipped.architecture_specs().get(name)
    if path is None:
        known = ", ".join(sorted({*networks.BUILTINS, *shipped.architecture_specs()}))
        raise PermutationSpecError(
            f"no permutation spec is known for '{architecture}' (known: {known}); write one after "
            "the examples that `perm-merge permspec show resnet18` prints, prove it with "
            "`perm-merge permspec verify FILE`, and name it under align.permutations"
        )
    text = path.read_text(encoding="utf-8")
    try:
        spec = PermutationSpec.loads(text, file=path.name).bind(shapes)
    except PermutationSpecError as error:
        raise PermutationSpecError(
            f"the shipped permutation spec of {name} does not hold for options {dict(options)}: "
            f"{error}"
        ) from error
    return Found(spec, f"shipped {name}", text)
