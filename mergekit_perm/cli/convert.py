"""`perm-merge convert`: a file written for mergekit, as a run spec."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mergekit_perm.cli.merge_request import moved
from mergekit_perm.cli.shared import AsJson, Options, pairs, run_name
from mergekit_perm.errors import PermMergeError, RunError

if TYPE_CHECKING:
    from mergekit_perm.cli.architecture import Architecture

_ALIGNED = """\
# mergekit merges weights as they are. Neurons of networks that were trained apart are in different
# orders, so here they are aligned to one reference first. Networks fine-tuned from one start are in
# one order as a rule: remove this section for them (perm-merge convert --no-align).
"""
_BASE = "# base_model is where task vectors start from; it is not what networks are aligned to.\n"
_NOT_SAID = "# architecture: resnet18   # mergekit files do not say it: write yours here\n"


def convert(
    file: Annotated[
        str, typer.Argument(metavar="MERGEKIT.yaml", help="A file for mergekit, or - for stdin.")
    ],
    architecture: Annotated[
        str | None,
        typer.Option(metavar="ARCH", help="Of the networks, which mergekit files do not say."),
    ] = None,
    options: Options = None,
    align: Annotated[bool, typer.Option(help="Align networks before they are merged.")] = True,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE", help="Write it to this file.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Turn a mergekit file into a run spec; what cannot be carried over is refused by name."""
    from mergekit_perm.files import write_text
    from mergekit_perm.spec import mergekit_files
    from mergekit_perm.spec.load import read

    if out is not None and out.exists() and not force:
        raise RunError(f"{out}: is there already; choose another name, or replace it with --force")
    text, shown, folder = read(file)
    name = run_name(Path(shown.strip("<>")).stem)
    done = mergekit_files.convert(text, file=shown, folder=folder, name=name, align=align)
    notes = list(done.notes)
    data = _with_architecture(done.data, architecture, pairs(options), notes)
    # Relative paths start from the file that they are in.
    data = moved(data, Path() if out is None else out.parent)
    written = _text(data, shown)
    if out is not None:
        write_text(out, written)
    if as_json:
        typer.echo(json.dumps({"spec": data, "notes": notes}, indent=2))
        return
    if out is None:
        typer.echo(written, nl=False)
    for note in notes:
        typer.echo(note, err=True)
    where = shlex.quote(str(out)) if out is not None else "FILE"
    typer.echo(f"Check it with `perm-merge check {where}`.", err=True)


def _with_architecture(
    data: Mapping[str, Any], given: str | None, options: Mapping[str, Any], notes: list[str]
) -> dict[str, Any]:
    """Return `data` with an architecture, if one is given or the checkpoints here say one."""
    found = None if given is not None else _found(data, notes)
    name = given if found is None else found.name
    chosen = dict(options) if found is None else {**found.options, **options}
    if name is None:
        notes.append("mergekit files do not say the architecture: give it with --architecture")
    elif found is not None:
        notes += [f"Taken: {sentence}" for sentence in found.said]
    head: dict[str, Any] = {"architecture": name} if name is not None else {}
    head |= {"options": chosen} if chosen else {}
    return {**{key: data[key] for key in ("format", "name")}, **head, **data}


def _found(data: Mapping[str, Any], notes: list[str]) -> Architecture | None:
    from mergekit_perm.cli.architecture import found_architecture

    references = [network["checkpoint"] for network in data["networks"].values()]
    try:
        return found_architecture(references, folder=Path())
    except PermMergeError as error:  # what is wrong with checkpoints does not stop a conversion
        notes.append(str(error))
        return None


def _text(data: Mapping[str, Any], file: str) -> str:
    from mergekit_perm.yaml_document import dump, printable

    above = {"align": _ALIGNED, "merge": _BASE if "base_model" in data["merge"][0] else ""}
    parts = [f"# Converted by perm-merge from the mergekit file {printable(file)}.\n"]
    for key, value in data.items():
        if key == "networks" and "architecture" not in data:
            parts.append(_NOT_SAID)
        parts += [above.get(key, ""), dump({key: value})]
    return "".join(parts)
