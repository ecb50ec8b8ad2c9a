"""Reports and plans as commands print them, and the folder that a run goes to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from mergekit_perm.pipeline import Plan
    from mergekit_perm.spec import RunSpec


def show_report(run: Path, *, as_json: bool) -> None:
    """Print the report in folder `run`, or in the file that it is."""
    from rich.console import Console

    from mergekit_perm.report import Report, render

    loaded = Report.load(run)
    if as_json:
        typer.echo(loaded.to_text(), nl=False)
        return
    render(loaded, Console())
    typer.echo(f"Results are in {run}" if run.is_dir() else f"Read from {run}")


def show_plan(plan: Plan, folder: Path) -> None:
    """Print the stages of a plan, which of them are done, and what they need."""
    width = max(len(step.status) for step in plan.steps)
    for step in plan.steps:
        files = f"  -> {', '.join(step.stage.files)}" if step.stage.files else ""
        typer.echo(f"{step.status:<{width}}  {step.stage.title}{files}")
    todo = sum(step.status == "to do" for step in plan.steps)
    typer.echo(
        f"{todo} of {len(plan.steps)} stages to do, {plan.points} mixtures to measure in all, "
        f"about {plan.peak_memory / 2**20:,.0f} MiB of memory at most, into {folder}"
    )


def folder_of(spec: RunSpec, out: Path | None) -> Path:
    """Return the folder of the run of `spec`: `out`, or where the spec lies, or ``out/NAME``.

    A spec that lies in the folder of its own run, as `merge` writes it there, goes on in it.
    """
    from mergekit_perm import pipeline

    if out is not None:
        return out
    return spec.folder if owner_of(spec.folder) == spec.name else pipeline.default_folder(spec)


def owner_of(folder: Path) -> str | None:
    """Return the name of the run that `folder` belongs to; None if there is none."""
    from mergekit_perm import yaml_document
    from mergekit_perm.errors import SpecError

    if not (folder / ".stages").is_dir():
        return None
    try:
        return str(yaml_document.read_file(folder / "spec.yaml").data["name"])
    except (SpecError, TypeError, KeyError):
        return None
