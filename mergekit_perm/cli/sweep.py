"""`perm-merge sweep`: the runs of a sweep, and what they say together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mergekit_perm.cli.live import live_progress
from mergekit_perm.cli.shared import AsJson, Device, Out, Overrides, SpecArgument, spec_file
from mergekit_perm.cli.written import write_shown
from mergekit_perm.errors import RunError

if TYPE_CHECKING:
    from mergekit_perm.report import Comparison
    from mergekit_perm.report.claims import Finding
    from mergekit_perm.report.sweeps import SweepFolder


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
    from mergekit_perm import pipeline
    from mergekit_perm.files import write_text
    from mergekit_perm.report.compare_html import comparison_to_html

    folder = out or pipeline.default_folder(loaded.spec)
    with live_progress() as progress:
        swept = pipeline.run_sweep(
            loaded, out=folder, device=device, jobs=jobs, force=force, progress=progress
        )
    write_text(folder / "report.html", comparison_to_html(swept.comparison, swept.findings))
    _show(swept.comparison, swept.findings, as_json=as_json)
    if not as_json:
        typer.echo(f"Results are in {folder}")
    if swept.failed:
        reasons = "\n".join(f"{name}: {error}" for name, error in swept.failed.items())
        raise RunError(f"{len(swept.failed)} of {len(loaded.variations)} runs failed:\n{reasons}")


def show_sweep(
    folder: SweepFolder, *, html: Path | None, figures: Path | None, as_json: bool
) -> None:
    """Show what the runs in the folder of a sweep say, or write it as HTML and pictures."""
    from mergekit_perm.report.claims import findings as findings_of
    from mergekit_perm.report.compare import compare_groups
    from mergekit_perm.report.compare_figures import compared_figures
    from mergekit_perm.report.compare_html import comparison_to_html

    groups = folder.done()
    comparison = compare_groups(groups)
    # A claim may be about any run.
    findings = findings_of(folder.claims, groups) if folder.is_done() else []
    if not folder.is_done():
        typer.echo("Some runs are not done, so nothing is said about claims.", err=True)
    if html or figures:
        page = partial(comparison_to_html, comparison, findings)
        write_shown(html, figures, page, partial(compared_figures, comparison))
    else:
        _show(comparison, findings, as_json=as_json)


def _show(comparison: Comparison, findings: Sequence[Finding], *, as_json: bool) -> None:
    from rich.console import Console

    from mergekit_perm.report import render_comparison, render_findings

    if as_json:
        claims = [finding.to_json() for finding in findings]
        typer.echo(json.dumps({**comparison.to_json(), "claims": claims}, indent=2))
        return
    render_comparison(comparison, Console())
    render_findings(findings, Console())
