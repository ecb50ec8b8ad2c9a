"""From a file to a permuted file of the same kind, which says which alignments it has had."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import reduce
from operator import matmul
from pathlib import Path
from typing import Any

import torch

from mergekit_perm import checkpoints
from mergekit_perm.alignment.contents import Part, permute_content
from mergekit_perm.alignment.durable import Alignment
from mergekit_perm.checkpoints import reading
from mergekit_perm.errors import CheckpointError, PermMergeError, RunError, SpecError
from mergekit_perm.files import file_sha256, replacing

# In the header of a safetensors file, and as a record of its own in the archive of torch.save.
APPLIED = "perm_merge.applied"
_RECORD = f"archive/{APPLIED}.json"


@dataclass(frozen=True, slots=True)
class Permuted:
    """What `permute_file` did.

    Attributes:
        source: the file that was read.
        out: the file that was written.
        sha256: of its bytes.
        alignment: what was applied, composed and inverted.
        parts: what was permuted in the file.
    """

    source: Path
    out: Path
    sha256: str
    alignment: Alignment
    parts: list[Part]


def permute_file(
    source: str,
    alignments: Sequence[Alignment],
    *,
    inverse: bool = False,
    out: Path | None = None,
    force: bool = False,
    again: bool = False,
) -> Permuted:
    """Permute all that a file holds of a network: weights, averaged copy, mask, optimizer.

    Args:
        source: a checkpoint file, or ``local-dir:PATH``.
        alignments: at least one; they act in this order.
        inverse: undo them instead.
        out: where to write; `default_output` unless given.
        force: replace a file that is there.
        again: apply an alignment that the file says it has had.

    Raises:
        SpecError: the output has the wrong ending for what is to be written.
        RunError: the output is there already.
        CheckpointError: the file cannot be read, does not fit, or has had an alignment already.
    """
    path = checkpoints.local_file(source, folder=Path())
    if path is None:
        raise SpecError(f"{source}: only files can be permuted; download it, and name the file")
    out = default_output(path) if out is None else out
    _check_output(out, path, force=force)
    composed = reduce(matmul, alignments)
    composed = composed.inverse() if inverse else composed
    content, header = reading.read(path), _header(path)
    history = json.loads(header.pop(APPLIED, "[]"))
    history = _extended(history, alignments, inverse=inverse, again=again, path=path)
    try:
        permuted, parts = permute_content(content, composed)
    except PermMergeError as error:
        raise type(error)(f"{path}: {error}") from error
    _write(out, permuted, {**header, APPLIED: json.dumps(history)} if history else header)
    return Permuted(path, out, file_sha256(out), composed, parts)


def default_output(path: Path) -> Path:
    """Return the path beside `path` that says that it is permuted: NAME.permuted.safetensors."""
    ending = _ending(path)
    return path.with_name(f"{path.name.removesuffix(ending)}.permuted{ending}")


def applied(alignment: Alignment) -> dict[str, str]:
    """Return what the header of weights says that have had `alignment`."""
    return {APPLIED: json.dumps([alignment.sha256])} if alignment.moved else {}


def _ending(path: Path) -> str:
    fitting = [ending for ending in reading.ENDINGS if path.name.endswith(ending)]
    return max(fitting, key=len, default="")


def _check_output(out: Path, path: Path, *, force: bool) -> None:
    if not _ending(out):
        raise SpecError(
            f"{out}: not a checkpoint by its name; expected an ending among "
            f"{', '.join(reading.ENDINGS)}"
        )
    if out.is_dir():
        raise RunError(f"{out}: is a folder; name a file with --out")
    if out.exists() and not force:
        what = "is the file to be permuted" if out.samefile(path) else "is there already"
        raise RunError(f"{out}: {what}; choose another file with --out, or replace it with --force")


# ------------------------------------------------------------------------------------- history


def _header(path: Path) -> dict[str, str]:
    """Return the metadata of a file: all of a safetensors file's, of others what we wrote."""
    if path.suffix == ".safetensors":
        # The hash names what was trained, which this will no longer be.
        return {k: v for k, v in checkpoints.load_metadata(path).items() if k != "content"}
    with suppress(zipfile.BadZipFile, KeyError), zipfile.ZipFile(path) as archive:
        return {APPLIED: archive.read(_RECORD).decode()}
    return {}


def _extended(
    history: Sequence[str],
    alignments: Sequence[Alignment],
    *,
    inverse: bool,
    again: bool,
    path: Path,
) -> list[str]:
    """Return the hashes of the alignments that the result has had, first to last.

    Raises:
        CheckpointError: one of `alignments` is among them already.
    """
    history = list(history)
    for alignment in reversed(alignments) if inverse else alignments:
        forth, back = alignment.sha256, alignment.inverse().sha256
        if inverse:
            forth, back = back, forth
        if not alignment.moved:
            continue
        if history and history[-1] == back and (inverse or forth != back):
            history.pop()
            continue
        if forth in history and not again:
            what = "the inverse of this alignment" if inverse else "this alignment"
            undo = "without --inverse" if inverse else "with --inverse"
            raise CheckpointError(
                f"{path}: {what} was applied to it already, and applying it twice gives neither "
                f"the aligned network nor the first; undo it {undo}, or apply it --again if "
                "that is what you want"
            )
        history.append(forth)
    return history


# ------------------------------------------------------------------------------------- writing


def _write(out: Path, content: Any, header: Mapping[str, str]) -> None:
    if out.suffix == ".safetensors":
        if not reading.is_state(content):
            raise SpecError(
                f"{out}: safetensors holds the tensors of one network, and there is more in the "
                "file that was permuted; choose the ending it has"
            )
        checkpoints.save(out, content, metadata=header)
        return
    with replacing(out) as temporary:
        with temporary.open("wb") as stream:
            torch.save(content, stream)
        if APPLIED in header:
            with zipfile.ZipFile(temporary, "a") as archive:
                archive.writestr(zipfile.ZipInfo(_RECORD), header[APPLIED])
