"""`perm-merge sweep`: the runs of a sweep, and what they say together."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from mergekit_perm.cli.live import live_progress
from mergekit_perm.cli.shared import AsJson, Device, Out, Overrides, SpecArgument, spec_file
from mergekit_perm.errors import RunError


def sweep(
    spec: SpecArgument,
    out: Out = None,
    device: Device = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Runs at once; all cores by default.")
    ] = None,
    overrides: Overrides = None,
    force: Annotated[bool, typer.Option(help="Redo everything.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a spec for several values of its fields and several seeds, and compare all runs.

    The section `sweep` of the spec says which: {seeds: 5, over: {options.hidden: [[16], [64]]}}.
    """
    from mergekit_perm.spec import load_sweep

    loaded = load_sweep(spec_file(spec), overrides=overrides or ())
    from rich.console import Console

    from mergekit_perm import pipeline
    from mergekit_perm.files import write_text
    from mergekit_perm.report import render_comparison
    from mergekit_perm.report.compare_html import comparison_to_html

    folder = out or pipeline.default_folder(loaded.spec)
    with live_progress() as progress:
        swept = pipeline.run_sweep(
            loaded, out=folder, device=device, jobs=jobs, force=force, progress=progress
        )
    write_text(folder / "report.html", comparison_to_html(swept.comparison))
    if as_json:
        typer.echo(json.dumps(swept.comparison.to_json(), indent=2))
    else:
        render_comparison(swept.comparison, Console())
        typer.echo(f"Results are in {folder}")
    if swept.failed:
        reasons = "\n".join(f"{name}: {error}" for name, error in swept.failed.items())
        raise RunError(f"{len(swept.failed)} of {len(loaded.variations)} runs failed:\n{reasons}")
