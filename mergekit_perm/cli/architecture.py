"""Which architecture checkpoints are of, where the user leaves that to them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergekit_perm.errors import CheckpointError, NetworkError, SpecError

if TYPE_CHECKING:
    from mergekit_perm.checkpoints import Origin

GIVE_IT = "give it with --architecture, for example --architecture resnet18"


@dataclass(frozen=True, slots=True)
class Architecture:
    """An architecture with its options, and a sentence on each thing that was found out."""

    name: str
    options: Mapping[str, Any]
    said: tuple[str, ...] = ()


def architecture_of(
    references: Sequence[str], name: str | None, options: Mapping[str, Any], *, folder: Path
) -> Architecture:
    """Return `name`, or what the checkpoints say, with as many classes as they have.

    Args:
        references: to the checkpoints.
        name: the architecture, or None.
        options: of the architecture; they go before what checkpoints say.
        folder: where relative paths start.

    Raises:
        SpecError: no checkpoint says it, or they say different things.
    """
    chosen = Architecture(name, {}) if name is not None else _said_by_all(references, folder)
    if chosen is None:
        raise SpecError(f"no checkpoint says of which architecture it is: {GIVE_IT}")
    given = Architecture(chosen.name, {**chosen.options, **options}, chosen.said)
    return _with_classes(given, references[0], folder)


def found_architecture(references: Iterable[str], *, folder: Path) -> Architecture | None:
    """Return what those of the checkpoints say that are on this machine; None for nothing."""
    here = [each for each in references if _is_there(each, folder)]
    return _said_by_all(here, folder) if here else None


def _is_there(reference: str, folder: Path) -> bool:
    return (folder / Path(reference.removeprefix("local-dir:")).expanduser()).exists()


def _said_by_all(references: Sequence[str], folder: Path) -> Architecture | None:
    from mergekit_perm import checkpoints

    found: list[tuple[Architecture, str]] = []
    for reference in dict.fromkeys(references):
        origin = checkpoints.origin(reference, folder=folder)
        known = None if origin is None else _known(origin)
        if origin is not None and known is not None:
            found.append((known, origin.source))
    for other, source in found[1:]:
        if not _same(found[0][0], other):
            raise SpecError(
                f"{found[0][1]} says {_shown(found[0][0])}, and {source} says {_shown(other)}; "
                f"networks that are merged have one architecture: if they do, {GIVE_IT}"
            )
    if not found:
        return None
    first, source = found[0]
    return Architecture(first.name, first.options, (f"{_shown(first)}, as {source} says",))


def _shown(architecture: Architecture) -> str:
    options = "".join(f" --options {k}={v}" for k, v in architecture.options.items())
    return f"--architecture {architecture.name}{options}"


def _same(one: Architecture, other: Architecture) -> bool:
    if one.name == other.name:
        return one.options == other.options
    return _looks(one.name, one.options) == _looks(other.name, other.options)


def _known(origin: Origin) -> Architecture | None:
    """Return the architecture by its name, if that builds what the checkpoint says it is.

    Where the name alone would lose something (how images are prepared, say), it is the folder.
    """
    from mergekit_perm import networks

    options = networks.without_weight_options(origin.options)
    try:
        looks = _looks(origin.architecture, options)
    except NetworkError:
        if origin.source.endswith(".json"):
            raise
        return None  # train.py writes the name of a class where it does not know that of timm
    if origin.folder is not None and looks != _looks(origin.folder, {}):
        scheme, _, place = origin.folder.partition(":")
        path = os.path.abspath(place) if scheme == "local-dir" else place  # noqa: PTH100
        return Architecture(f"{scheme}:{path}", {})
    return Architecture(origin.architecture, _needed(origin.architecture, options, looks))


def _needed(name: str, options: Mapping[str, Any], looks: object) -> dict[str, Any]:
    """Return `options` without those that are as they would be anyway."""
    needed = dict(options)
    for option in options:
        fewer = {key: value for key, value in needed.items() if key != option}
        try:
            if _looks(name, fewer) == looks:
                needed = fewer
        except NetworkError:  # an option that has no default
            continue
    return needed


def _looks(name: str, options: Mapping[str, Any]) -> str:
    """Return what tells two networks apart: parts, tensors, settings, how images are prepared."""
    from mergekit_perm.pipeline.outline import outline

    return outline(name, options).looks


# ------------------------------------------------------------------------------ classes


def _with_classes(chosen: Architecture, reference: str, folder: Path) -> Architecture:
    """Return `chosen` with as many classes as the classifier in the checkpoint has."""
    from mergekit_perm import checkpoints, networks
    from mergekit_perm.pipeline.outline import outline

    if "num_classes" in chosen.options or networks.is_function(chosen.name):
        return chosen
    known = outline(chosen.name, networks.without_weight_options(chosen.options))
    weight = known.classifier
    if weight is None:
        return chosen
    try:
        state = checkpoints.load(reference, folder=folder).state
    except CheckpointError:  # the run says it better
        return chosen
    before, found = known.shapes[weight], state.get(weight)
    if found is None:
        return _without_head(chosen, checkpoints.shapes(state), reference)
    if tuple(found.shape[1:]) != before[1:] or len(found) == before[0]:
        return chosen
    said = f"--options num_classes={len(found)}, as {weight} of {reference} has so many rows"
    options = {**chosen.options, "num_classes": len(found)}
    return Architecture(chosen.name, options, (*chosen.said, said))


def _without_head(
    chosen: Architecture, found: Mapping[str, tuple[int, ...]], reference: str
) -> Architecture:
    """Return `chosen` without a head, if that has the tensors that the checkpoint has."""
    from mergekit_perm import networks
    from mergekit_perm.pipeline.outline import outline

    options = {**chosen.options, "num_classes": 0}
    try:
        known = outline(chosen.name, networks.without_weight_options(options))
    except NetworkError:  # one that needs a head
        return chosen
    if known.shapes != found:
        return chosen
    said = f"--options num_classes=0, as {reference} has no head"
    return Architecture(chosen.name, options, (*chosen.said, said))
