"""What several commands share: options of the command line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from mergekit_perm.errors import SpecError, suggest

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Options = Annotated[
    list[str] | None,
    typer.Option("--options", metavar="K=V", help="An option of the architecture; repeatable."),
]


SpecArgument = Annotated[
    str, typer.Argument(metavar="SPEC", help="A run spec: a file, a shipped name, or - for stdin.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Override a field of the spec; may be repeated."),
]
Out = Annotated[
    Path | None, typer.Option(help="The run's folder; out/NAME by default.", metavar="DIR")
]
Device = Annotated[
    str | None,
    typer.Option(metavar="D", help="auto, cpu, cuda, cuda:N or mps; several: cuda:0,cuda:1."),
]


def spec_file(text: str) -> str:
    """Return the file of the run spec that `text` names: a file, - for stdin, or a shipped one."""
    from mergekit_perm import shipped

    if text == "-" or Path(text).exists():
        return text
    claims = (shipped.specs_folder() / "claims").glob("*.yaml")
    known = shipped.run_specs() | {path.stem: path for path in sorted(claims)}
    if text not in known:
        raise SpecError(
            f"no run spec '{text}'{suggest(text, known)}: there is no such file, and the "
            f"shipped ones are {', '.join(known)}"
        )
    return str(known[text])


def pairs(options: list[str] | None, *, flag: str = "--options") -> dict[str, Any]:
    """Return what was given to `flag`, each KEY=VALUE, values read as YAML."""
    from mergekit_perm import yaml_document

    found = {}
    for option in options or ():
        key, equals, value = option.partition("=")
        if not equals:
            raise SpecError(f"{flag} {option}: expected KEY=VALUE")
        found[key] = yaml_document.read(value, file=f"{flag} {option}").data
    return found


def run_name(text: str) -> str:
    """Return `text` as the name of a run, which is also a name of a folder."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("._-") or "merge"
