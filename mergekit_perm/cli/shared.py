"""What several commands share: common options, and progress bars."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from mergekit_perm.errors import SpecError
from mergekit_perm.progress import Progress, silent

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


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Yield a listener that draws bars on stderr, or none when that is no terminal."""
    if not sys.stderr.isatty():
        yield silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def listen(task: str, done: int, total: int, /) -> None:
            if task not in tasks:
                for finished in tasks.values():
                    bars.update(finished, visible=False)
                tasks[task] = bars.add_task(task, total=total)
            bars.update(tasks[task], completed=done, total=total)

        yield listen
