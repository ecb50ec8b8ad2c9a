"""The command line: a thin skin over the Python interface.

stdout carries results, stderr talk and progress. Exit codes: 0 done, 1 a gate failed, 2 usage or
spec, 3 the run failed. Nothing here imports torch before a command needs it.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mergekit_perm import __version__
from mergekit_perm.errors import PermMergeError, RunError, SpecError, suggest
from mergekit_perm.progress import Progress, silent

if TYPE_CHECKING:
    from mergekit_perm.pipeline import Plan
    from mergekit_perm.spec import RunSpec

app = typer.Typer(
    name="perm-merge",
    help="Align networks to one shared reference by permuting neurons, merge them, and report "
    "loss barriers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
permspec_app = typer.Typer(
    help="Permutation specs: which neurons of an architecture may be permuted.",
    no_args_is_help=True,
)
app.add_typer(permspec_app, name="permspec")

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
    typer.Option(metavar="D", help="auto, cpu, cuda, cuda:N or mps; overrides the spec."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Architecture = Annotated[
    str | None, typer.Option(help="Verify for this architecture instead of the spec's own.")
]
Options = Annotated[
    list[str] | None,
    typer.Option("--options", metavar="K=V", help="An option of the architecture; repeatable."),
]


def main() -> None:
    """Run the command line and end the process with its exit code."""
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
    loaded = _load(spec, overrides)
    from mergekit_perm import pipeline

    folder = out or pipeline.default_folder(loaded)
    with _progress() as progress:
        report = pipeline.run(
            loaded,
            out=folder,
            device=device,
            force=force,
            trust_permutations=trust_permspec,
            progress=progress,
        )
    _show_report(folder, as_json=as_json)
    if any(not gate.passed for gate in report.gates):
        raise typer.Exit(1)


@app.command()
def check(spec: SpecArgument, overrides: Overrides = None) -> None:
    """Report every problem of a run spec at once, without running anything."""
    loaded = _load(spec, overrides)
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
    loaded = _load(spec, overrides)
    from mergekit_perm import pipeline

    folder = out or pipeline.default_folder(loaded)
    found = pipeline.make_plan(loaded, out=folder, device=device)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
    else:
        _show_plan(found, folder)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders or reports.")],
    metric: Annotated[str | None, typer.Option(help="Only loss, or only error.")] = None,
    split: Annotated[str | None, typer.Option(help="Only this split.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the barrier reports of several runs side by side, with differences to the first."""
    from rich.console import Console

    from mergekit_perm.report import Report, compare, render_comparison

    comparison = compare([Report.load(path) for path in runs], metric=metric, split=split)
    if as_json:
        typer.echo(json.dumps(comparison.to_json(), indent=2))
    else:
        render_comparison(comparison, Console())


@app.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or a report.json.")],
    as_json: AsJson = False,
) -> None:
    """Show the report of a finished run again."""
    _show_report(run, as_json=as_json)


@permspec_app.command("verify")
def permspec_verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A permutation spec.")],
    architecture: Architecture = None,
    options: Options = None,
    as_json: AsJson = False,
) -> None:
    """Prove that a permutation spec preserves its architecture's function, in float64."""
    from dataclasses import asdict

    from mergekit_perm import checkpoints, derive
    from mergekit_perm.permspec import PermutationSpec

    spec = PermutationSpec.load(file)
    built = architecture or spec.architecture
    if built is None:
        raise SpecError(f"{file}: names no architecture; give one with --architecture")
    module, inputs = derive.probe(built, {**spec.options, **_pairs(options)})
    found = derive.from_file(file, checkpoints.shapes(module))
    with _progress() as progress:
        proof = derive.verify(found.spec, module, inputs, progress=progress)
    if as_json:
        typer.echo(json.dumps(asdict(proof), indent=2))
        return
    weakest = min(proof.controls, key=lambda group: proof.controls[group], default=None)
    control = "no group of two elements or more, so nothing moves"
    if weakest is not None:
        control = (
            "permuted on one tensor alone, the least change is "
            f"{proof.controls[weakest]:.1e} ({weakest})"
        )
    typer.echo(
        f"{file}: verified for {built}\n"
        f"  outputs differ by {proof.difference:.1e} of their size under {proof.members} random "
        "members of the group (float64)\n"
        f"  {len(proof.sizes)} groups; {control}\n"
        f"  coverage {proof.coverage:.4f} of the parameter elements, {proof.seconds:.1f} s"
    )


@permspec_app.command("show")
def permspec_show(
    which: Annotated[str, typer.Argument(metavar="ARCH|FILE")], options: Options = None
) -> None:
    """Print a permutation spec: a file, a shipped one, or a built-in's for its options."""
    from mergekit_perm import shipped
    from mergekit_perm.permspec import PermutationSpec

    known = shipped.architecture_specs()
    if which in known and not options:
        path = known[which]
    elif Path(which).is_file():
        path = Path(which)
    else:
        _show_builtin(which, options, known)
        return
    PermutationSpec.load(path)  # a file with problems is not shown as if it had none
    typer.echo(path.read_text(encoding="utf-8"), nl=False)


@permspec_app.command("list")
def permspec_list(as_json: AsJson = False) -> None:
    """List the permutation specs that come with perm-merge."""
    from mergekit_perm import shipped
    from mergekit_perm.permspec import PermutationSpec

    rows = []
    for name, path in shipped.architecture_specs().items():
        spec = PermutationSpec.load(path)
        rows.append({"name": name, "groups": len(spec.groups), "top": len(spec.groups.top())})
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    width = max(len(str(row["name"])) for row in rows)
    typer.echo(f"{'architecture':<{width}}  groups  outermost")
    for row in rows:
        typer.echo(f"{row['name']:<{width}}  {row['groups']:>6}  {row['top']:>9}")


def _show_builtin(which: str, options: list[str] | None, known: Any) -> None:
    from mergekit_perm import networks

    text = networks.permutation_spec_text(which, _pairs(options))
    if text is None:
        names = sorted({*networks.BUILTINS, *known})
        raise SpecError(
            f"no permutation spec '{which}'{suggest(which, names)}; known: {', '.join(names)}, "
            "or the path of a file"
        )
    typer.echo(text, nl=False)


def _load(text: str, overrides: list[str] | None) -> RunSpec:
    """Load the run spec that `text` names: a file, stdin, or one that is shipped."""
    from mergekit_perm import shipped, spec

    path = text
    if text != "-" and not Path(text).exists():
        known = shipped.run_specs()
        if text not in known:
            raise SpecError(
                f"no run spec '{text}'{suggest(text, known)}: there is no such file, and the "
                f"shipped ones are {', '.join(known)}"
            )
        path = str(known[text])
    return spec.load(path, overrides=overrides or ())


def _pairs(options: list[str] | None) -> dict[str, Any]:
    from mergekit_perm import yaml_document

    pairs = {}
    for option in options or ():
        key, equals, value = option.partition("=")
        if not equals:
            raise SpecError(f"--options {option}: expected KEY=VALUE")
        pairs[key] = yaml_document.read(value, file=f"--options {option}").data
    return pairs


def _show_report(run: Path, *, as_json: bool) -> None:
    from rich.console import Console

    from mergekit_perm.report import Report, render

    loaded = Report.load(run)
    if as_json:
        typer.echo(loaded.to_text(), nl=False)
        return
    render(loaded, Console())
    typer.echo(f"Results are in {run}" if run.is_dir() else f"Read from {run}")


def _show_plan(plan: Plan, folder: Path) -> None:
    width = max(len(step.status) for step in plan.steps)
    for step in plan.steps:
        files = f"  -> {', '.join(step.stage.files)}" if step.stage.files else ""
        typer.echo(f"{step.status:<{width}}  {step.stage.title}{files}")
    todo = sum(step.status == "to do" for step in plan.steps)
    typer.echo(
        f"{todo} of {len(plan.steps)} stages to do, {plan.points} mixtures to measure in all, "
        f"about {plan.peak_memory / 2**20:,.0f} MiB of memory at most, into {folder}"
    )


@contextmanager
def _progress() -> Iterator[Progress]:
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
