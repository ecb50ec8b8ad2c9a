"""What several commands share: options of the command line."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mergekit_perm.errors import SpecError

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Options = Annotated[
    list[str] | None,
    typer.Option("--options", metavar="K=V", help="An option of the architecture; repeatable."),
]


def pairs(options: list[str] | None) -> dict[str, Any]:
    """Return the options given as KEY=VALUE, values read as YAML."""
    from mergekit_perm import yaml_document

    found = {}
    for option in options or ():
        key, equals, value = option.partition("=")
        if not equals:
            raise SpecError(f"--options {option}: expected KEY=VALUE")
        found[key] = yaml_document.read(value, file=f"--options {option}").data
    return found
