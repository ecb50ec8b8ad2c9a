"""Finding the permutation spec of an architecture: a file, a built-in's own, shipped, derived."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mergekit_perm import networks, shipped
from mergekit_perm.cache import cache_folder
from mergekit_perm.derive.engine import derive
from mergekit_perm.errors import PermutationSpecError
from mergekit_perm.files import write_text
from mergekit_perm.permspec import PermutationSpec

# Raise when derivation gives something else, so that older specs in the cache no longer count.
_VERSION = 2


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
    architecture: str,
    options: Mapping[str, Any],
    shapes: Mapping[str, Sequence[int]],
    *,
    code: str = "",
) -> Found:
    """Return the spec for `architecture` that needs no file.

    A built-in's own; the shipped one, where it was written for these very options; or else one
    derived from the network, which is kept in the cache.

    Args:
        architecture: what `networks.build` builds, with `options`.
        options: of the architecture.
        shapes: of every tensor of the network.
        code: a hash of the architecture's code, where its name does not stand for it.

    Raises:
        DerivationError: none is known, and none can be derived.
    """
    if architecture in networks.BUILTINS:
        own = networks.permutation_spec_text(architecture, options)
        return _bound(own, f"{architecture}'s own", shapes)
    # A timm name may go on with a dot and the tag of its weights.
    is_function = networks.is_function(architecture)
    name = shipped.file_name(architecture) if is_function else architecture.partition(".")[0]
    path = shipped.architecture_specs().get(name)
    plain = networks.without_weight_options(options)
    if path is not None:
        text = path.read_text(encoding="utf-8")
        if PermutationSpec.loads(text, file=path.name).options == plain:
            return _bound(text, f"shipped {name}", shapes)
    return _bound(_derived(architecture, plain, code), f"derived from {architecture}", shapes)


def _bound(text: str, source: str, shapes: Mapping[str, Sequence[int]]) -> Found:
    spec = PermutationSpec.loads(text, file=f"<{source}>")
    return Found(spec.bind(shapes), source, text)


def _derived(architecture: str, options: Mapping[str, Any], code: str) -> str:
    """Return the text of the derived spec, from the cache if it was derived before."""
    content = [_VERSION, architecture, options, code, networks.VERSION, torch.__version__]
    key = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
    path = cache_folder("permspecs") / f"{key}.yaml"
    with suppress(OSError):
        return path.read_text(encoding="utf-8")
    text = derive(architecture, options).dumps()
    with suppress(OSError):  # a cache that cannot be written costs time, not the spec
        write_text(path, text)
    return text
