"""The command line: a thin skin over the Python interface.

stdout carries results, stderr talk and progress. Exit codes: 0 done, 1 a gate failed, 2 usage or
spec, 3 the run failed. Nothing here imports torch before a command needs it.
"""

from __future__ import annotations

import json
import sys
import traceback
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mergekit_perm import __version__
from mergekit_perm.cli.convert import convert
from mergekit_perm.cli.explain import explain
from mergekit_perm.cli.live import live_progress
from mergekit_perm.cli.loading import load, load_all
from mergekit_perm.cli.merge import merge
from mergekit_perm.cli.permspec import permspec_app
from mergekit_perm.cli.permute import permute
from mergekit_perm.cli.shared import AsJson, Device, Out, Overrides, SpecArgument
from mergekit_perm.cli.shown import folder_of, show_plan, show_report
from mergekit_perm.cli.sweep import show_sweep, sweep
from mergekit_perm.cli.written import write_shown
from mergekit_perm.errors import PermMergeError, RunError

if TYPE_CHECKING:
    from mergekit_perm.report.repeats import Repeats

app = typer.Typer(
    name="perm-merge",
    help="Align networks to one shared reference by permuting neurons, merge them, and report "
    "loss barriers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(permspec_app, name="permspec")
app.command()(convert)
app.command()(explain)
app.command()(merge)
app.command()(permute)
app.command()(sweep)

Html = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write it as one HTML file instead.")
]
Figures = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Write its figures as PNG and SVG instead.")
]


def main() -> None:
    """Run the command line and end the process with its exit code."""
    sys.path.append(str(Path.cwd()))  # for the user's own `module:function`; last, to hide nothing
    try:
        app()
    except PermMergeError as error:
        print(error, file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)
    except Exception:
        # A bug, of ours or of a network or data set of the user's own: 1 would mean a gate failed.
        traceback.print_exc()
        sys.exit(RunError.exit_code)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"perm-merge {__version__}")
        raise typer.Exit


@app.command()
def run(
    spec: SpecArgument,
    out: Out = None,
    device: Device = None,
    overrides: Overrides = None,
    force: Annotated[bool, typer.Option(help="Redo everything, and take over the folder.")] = False,
    trust_permspec: Annotated[
        bool, typer.Option(help="Do not prove the permutation spec; the report says so.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train or read networks, align and merge them, and report loss barriers."""
    loaded = load(spec, overrides)
    from mergekit_perm import pipeline

    folder = folder_of(loaded, out)
    with live_progress() as progress:
        report = pipeline.run(
            loaded,
            out=folder,
            device=device,
            force=force,
            trust_permutations=trust_permspec,
            progress=progress,
        )
    show_report(folder, as_json=as_json)
    if any(not gate.passed for gate in report.gates):
        raise typer.Exit(1)


@app.command()
def check(spec: SpecArgument, overrides: Overrides = None) -> None:
    """Report every problem of a run spec at once, without running anything."""
    loaded = load(spec, overrides)
    count = len(loaded.networks)
    typer.echo(f"{spec}: no problems ({count} network{'s' * (count > 1)})")


@app.command()
def plan(
    spec: SpecArgument,
    out: Out = None,
    device: Device = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Show what would run, what is done or cached, which files, and the memory it needs."""
    loaded, count = load_all(spec, overrides)
    from mergekit_perm import pipeline

    folder = folder_of(loaded, out)
    found = pipeline.make_plan(loaded, out=folder, device=device)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
        return
    show_plan(found, folder)
    if loaded.sweep is not None:
        typer.echo(f"A sweep of {count} runs such as this one: run it with perm-merge sweep")


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders or reports.")],
    metric: Annotated[str | None, typer.Option(help="Only loss, or only error.")] = None,
    split: Annotated[str | None, typer.Option(help="Only this split.")] = None,
    sort: Annotated[
        str | None,
        typer.Option(metavar="FIGURE", help="Order runs by a line, such as simplex; lowest first."),
    ] = None,
    each: Annotated[
        bool, typer.Option("--each", help="Do not average over runs that differ by seeds alone.")
    ] = False,
    html: Html = None,
    figures: Figures = None,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="A line for every value.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Tables in Markdown.")] = False,
) -> None:
    """Show the barrier reports of several runs side by side, with differences to the first.

    Runs of one spec that differ by seeds alone are one column: means, with 95 % t-intervals.
    """
    from rich.console import Console

    from mergekit_perm.report import render_comparison, to_csv, to_markdown
    from mergekit_perm.report.compare import compare_groups

    if as_json + as_csv + as_markdown + bool(html or figures) > 1:
        raise typer.BadParameter(
            "choose one of --json, --csv and --markdown, or --html and --figures"
        )
    comparison = compare_groups(_groups(runs, each=each), metric=metric, split=split, sort=sort)
    if html or figures:
        from mergekit_perm.report.compare_figures import compared_figures
        from mergekit_perm.report.compare_html import comparison_to_html

        page, drawn = partial(comparison_to_html, comparison), partial(compared_figures, comparison)
        write_shown(html, figures, page, drawn)
    elif as_json:
        typer.echo(json.dumps(comparison.to_json(), indent=2))
    elif as_csv:
        typer.echo(to_csv(comparison), nl=False)
    elif as_markdown:
        typer.echo(to_markdown(comparison), nl=False)
    else:
        render_comparison(comparison, Console())


@app.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or a report.json.")],
    html: Html = None,
    figures: Figures = None,
    as_json: AsJson = False,
) -> None:
    """Show the report of a finished run again, or write it as HTML and pictures.

    Of a sweep it shows what its runs say about its claims, and compares them.
    """
    from mergekit_perm.report.sweeps import load_sweep_folder

    swept = load_sweep_folder(run)
    if swept is not None:
        show_sweep(swept, html=html, figures=figures, as_json=as_json)
        return
    if html is None and figures is None:
        show_report(run, as_json=as_json)
        return
    if as_json:
        raise typer.BadParameter("--json prints the report; choose it, or --html and --figures")
    from mergekit_perm.report import Report
    from mergekit_perm.report.figures import figures as figures_of
    from mergekit_perm.report.html import to_html

    loaded = Report.load(run)
    write_shown(html, figures, partial(to_html, loaded), partial(figures_of, loaded))


def _groups(paths: list[Path], *, each: bool) -> list[Repeats]:
    """Return the runs in `paths`, those that repeat one another together; of a sweep all it has."""
    from mergekit_perm.report import Report
    from mergekit_perm.report.repeats import each_alone, renamed, repeated
    from mergekit_perm.report.sweeps import load_sweep_folder

    alone: list[Report] = []
    groups: list[Repeats] = []
    for path in paths:
        swept = load_sweep_folder(path)
        if swept is None:
            alone.append(Report.load(path))
        else:
            groups += swept.done()
    if each:
        return each_alone([*alone, *(report for group in groups for report in group.reports)])
    return renamed([*repeated(alone), *groups])
