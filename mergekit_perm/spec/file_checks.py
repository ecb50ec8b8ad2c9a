"""The files that a run spec names must be there before anything runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mergekit_perm.spec.parts import Parts
from mergekit_perm.spec.paths import resolve_path
from mergekit_perm.spec.problems import guess, nearest
from mergekit_perm.spec.sequences import epoch_in_name, sequence_files
from mergekit_perm.yaml_document import Keys, Problem

# References that `checkpoints` resolves by itself; everything else is a file.
_SCHEMES = ("hf-hub:", "local-dir:")


def file_problems(parts: Parts) -> Iterator[Problem]:
    """Yield a problem for every checkpoint and permutation spec that is no file."""
    for name, network in parts.networks.items():
        if network.checkpoint and not network.checkpoint.startswith(_SCHEMES):
            yield from _checkpoint(("networks", name, "checkpoint"), network.checkpoint, parts)
        if network.checkpoints:
            yield from _sequence(("networks", name, "checkpoints"), network.checkpoints, parts)
    if parts.align is not None and parts.align.permutations != "auto":
        yield from _permutations(parts.align.permutations, parts)


def _checkpoint(path: Keys, text: str, parts: Parts) -> Iterator[Problem]:
    file = resolve_path(text, parts.folder)
    if _is_folder(file):
        yield Problem(path, f"'{text}' is a folder", f"write local-dir:{text}")
    elif not _is_file(file):
        lora = "references with a LoRA adapter (a+b) are not provided here" if "+" in text else None
        yield Problem(path, f"no file '{text}'", lora or _advice(text, parts.folder))


def _sequence(path: Keys, pattern: str, parts: Parts) -> Iterator[Problem]:
    files = [file for file in sequence_files(pattern, parts.folder) if _is_file(file)]
    if not files:
        hint = f"relative paths start from '{parts.folder}'"
        yield Problem(path, f"no file matches '{pattern}'", hint)
    by_epoch: dict[int, str] = {}
    for file in files:
        epoch = epoch_in_name(file)
        if epoch is None:
            message = f"'{file.name}' has no epoch in its name"
            yield Problem(path, message, "names look like checkpoint-12.pth.tar")
        elif epoch in by_epoch:
            message = f"'{by_epoch[epoch]}' and '{file.name}' have the same epoch, {epoch}"
            yield Problem(path, message, "let the pattern match one of them")
        else:
            by_epoch[epoch] = file.name


def _permutations(text: str, parts: Parts) -> Iterator[Problem]:
    file = resolve_path(text, parts.folder)
    if _is_folder(file):
        yield Problem(("align", "permutations"), f"'{text}' is a folder, not a file")
    elif not _is_file(file):
        hint = nearest(text, ["auto"]) or _advice(text, parts.folder)
        yield Problem(("align", "permutations"), f"no file '{text}'", hint)


def _advice(text: str, folder: Path) -> str:
    """Return a file beside the missing one with a similar name, or where relative paths start."""
    file = resolve_path(text, folder)
    try:
        beside = sorted(file.parent.iterdir())
    except (OSError, ValueError):
        beside = []
    # By stem first: a common ending makes any two names look alike.
    stem = guess(file.stem, [path.stem for path in beside])
    names = [path.name for path in beside if path.stem == stem]
    if not names:
        return f"relative paths start from '{folder}'"
    return f"did you mean '{Path(text).with_name(guess(file.name, names) or names[0])}'?"


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long, a folder that may not be entered
        return False


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False
