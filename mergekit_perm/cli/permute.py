"""`perm-merge permute`: an alignment applied to whatever has the network's names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mergekit_perm.cli.shared import AsJson

if TYPE_CHECKING:
    from mergekit_perm.alignment import Permuted


def permute(
    network: Annotated[
        str,
        typer.Argument(
            metavar="NETWORK",
            help="A checkpoint, averaged copy or pruning mask: .safetensors, .pth, .pth.tar. A "
            "training checkpoint is permuted whole, its optimizer included.",
        ),
    ],
    files: Annotated[
        list[Path],
        typer.Option(
            "--with",
            metavar="FILE",
            help="The permutations: permutations/NAME.safetensors in a run's folder. Several are "
            "applied in the order given.",
        ),
    ],
    inverse: Annotated[bool, typer.Option("--inverse", help="Undo them instead.")] = False,
    permspec: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The permutation spec, if --with has none in it."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", metavar="FILE", help="NETWORK.permuted, beside it, by default."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Apply what the file says was applied to it already.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Permute the neurons of a network as an alignment says, or undo that; its function stays."""
    from mergekit_perm.alignment import Alignment, permute_file
    from mergekit_perm.permspec import PermutationSpec

    spec = None if permspec is None else PermutationSpec.load(permspec)
    done = permute_file(
        network,
        [Alignment.load(file, spec) for file in files],
        inverse=inverse,
        out=out,
        force=force,
        again=again,
    )
    if as_json:
        typer.echo(json.dumps(_as_json(done, files, inverse=inverse), indent=2))
    else:
        typer.echo("\n".join(_lines(done)))


def _as_json(done: Permuted, files: list[Path], *, inverse: bool) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "source": str(done.source),
        "out": str(done.out),
        "sha256": done.sha256,
        "alignment": {
            "files": [str(file) for file in files],
            "inverse": inverse,
            "network": done.alignment.network,
            "reference": done.alignment.reference,
            "sha256": done.alignment.sha256,
            "permspec_sha256": done.alignment.spec.sha256,
            "groups": len(done.alignment.permutations),
            "moved": done.alignment.moved,
        },
        "parts": [asdict(part) for part in done.parts],
    }


def _lines(done: Permuted) -> list[str]:
    alignment = done.alignment
    moved = sum(part.moved for part in done.parts)
    ends = [_end(name) for name in (alignment.network, alignment.reference) if name]
    whose = f", {ends[0]} to {ends[1]}" if len(ends) == 2 else ""
    lines = [
        f"{done.source}: {moved} tensors moved by {alignment.moved} of "
        f"{len(alignment.permutations)} groups{whose}"
    ]
    names = alignment.spec.axes
    of = "" if any("*" in name for name in names) else f" of {len(names)}"
    for part in done.parts:
        what = f"{part.found}{of} tensors of the permutation spec found"
        if part.kind == "optimizer":
            what = f"the states of {part.found} parameters"
        lines.append(f"  {part.place or 'the file'}: {what}, {part.moved} tensors moved")
    return [*lines, f"Written to {done.out}"]


def _end(name: str) -> str:
    """Return what to call the network or reference at an end of an alignment."""
    return "the joint reference" if name == "joint" else name
