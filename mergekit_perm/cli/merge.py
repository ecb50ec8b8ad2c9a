"""`perm-merge merge`: checkpoints aligned and merged without a file that says so first."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mergekit_perm.cli.live import live_progress
from mergekit_perm.cli.merge_request import Arguments, checked_data, moved, request
from mergekit_perm.cli.shared import AsJson, Device, Options, Overrides, pairs, run_name
from mergekit_perm.cli.shown import show_plan, show_report
from mergekit_perm.errors import RunError, SpecError

if TYPE_CHECKING:
    from mergekit_perm.spec import RunSpec

_SPEC = "merge.yaml"


def merge(
    checkpoints: Annotated[
        list[str],
        typer.Argument(
            metavar="A B...",
            help="Checkpoints: .safetensors, .pth, .pth.tar, local-dir:PATH or hf-hub:org/id@rev. "
            "Networks are called as their files are.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="DIR", help="The folder of the results.")
    ],
    architecture: Annotated[
        str | None,
        typer.Option(
            metavar="ARCH",
            help="A timm name, a built-in, or package.module:function; left out, it is what the "
            "checkpoints say.",
        ),
    ] = None,
    options: Options = None,
    method: Annotated[str, typer.Option(metavar="M", help="The recipe.")] = "linear",
    parameters: Annotated[
        list[str] | None,
        typer.Option(
            "--parameter",
            metavar="K=V",
            help="A parameter of the recipe, or of one network in it: weight.NAME=0.3; repeatable.",
        ),
    ] = None,
    base_model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The network that task vectors start from."),
    ] = None,
    reference: Annotated[
        str,
        typer.Option(metavar="NAME", help="What networks are aligned to: one of them, or joint."),
    ] = "joint",
    align: Annotated[bool, typer.Option(help="Align them before merging.")] = True,
    align_method: Annotated[
        str | None, typer.Option(metavar="M", help="The method of alignment.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Measure barriers on this data set, and let alignment look at it: digits, "
            "torchvision:NAME or folder:PATH. Without it nothing is measured.",
        ),
    ] = None,
    device: Device = None,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would run, and write nothing.")
    ] = False,
    force: Annotated[bool, typer.Option(help="Redo everything, and take over the folder.")] = False,
    as_json: AsJson = False,
) -> None:
    """Align checkpoints and merge them; DIR/merge.yaml is the run spec of what was done."""
    from mergekit_perm.spec.network_names import network_names

    given = Arguments(
        checkpoints=checkpoints,
        names=network_names(checkpoints),
        method=method,
        base_model=base_model,
        reference=reference,
        align=align,
        align_method=align_method,
        data=data,
        parameters=parameters or (),
        overrides=overrides or (),
    )
    asked = _asked(given, architecture, pairs(options), out)
    if dry_run:
        _show_what_would_run(asked, out, device=device, as_json=as_json)
    else:
        _run(asked, out, device=device, force=force, as_json=as_json)


def _asked(
    given: Arguments, architecture: str | None, options: Mapping[str, Any], out: Path
) -> dict[str, Any]:
    """Return the data of the run spec that was asked for; relative paths start from here."""
    if len(given.checkpoints) < 2 and given.align:
        raise SpecError(
            f"{' '.join(given.checkpoints)}: merging takes two checkpoints or more, found one; "
            "write perm-merge merge A B -o DIR"
        )
    made = request(given, name=run_name(out.resolve().name))
    made.data |= {"architecture": architecture} if architecture is not None else {}
    made.data |= {"options": dict(options)} if options else {}
    made.places["architecture",] = f"--architecture {architecture}"
    made.places["options",] = "--options"
    return _with_architecture(checked_data(made, given.overrides))


def _with_architecture(data: dict[str, Any]) -> dict[str, Any]:
    from mergekit_perm.cli.architecture import architecture_of

    networks = data["networks"].values()
    if any("architecture" in network for network in networks):  # set for each, so it is known
        return data
    references = [each["checkpoint"] for each in networks if each.get("checkpoint")]
    given = data.get("options") or {}
    found = architecture_of(references, data.get("architecture"), given, folder=Path())
    for sentence in found.said:
        typer.echo(f"Taken: {sentence}", err=True)
    options = {"options": dict(found.options)} if found.options else {}
    return {**data, "architecture": found.name, **options}


def _show_what_would_run(
    data: Mapping[str, Any], out: Path, *, device: str | None, as_json: bool
) -> None:
    from mergekit_perm import pipeline

    spec = _loaded(data, out) if out.is_dir() else _loaded(data, Path(), as_it_is=True)
    plan = pipeline.make_plan(spec, out=out, device=device)
    if as_json:
        typer.echo(json.dumps(plan.to_json(), indent=2))
    else:
        show_plan(plan, out)


def _run(
    data: Mapping[str, Any], out: Path, *, device: str | None, force: bool, as_json: bool
) -> None:
    from mergekit_perm import pipeline

    spec = _claimed(data, out, force=force)
    with live_progress() as progress:
        report = pipeline.run(spec, out=out, device=device, force=force, progress=progress)
    merged = {recipe.name: out / "merged" / recipe.name for recipe in spec.merge}
    loading = {name: _loading(folder) for name, folder in merged.items()}
    if as_json:
        result = {
            "spec": str(out / _SPEC),
            "merged": {name: str(folder) for name, folder in merged.items()},
            "load": loading,
            "report": json.loads(report.to_text()),
        }
        typer.echo(json.dumps(result, indent=2))
    else:
        show_report(out, as_json=False)
        typer.echo(f"The run spec is {out / _SPEC}")
        for name, folder in merged.items():
            typer.echo(f"The merged network is in {folder}; load it with\n  {loading[name]}")
    if any(not gate.passed for gate in report.gates):
        raise typer.Exit(1)


def _claimed(data: Mapping[str, Any], out: Path, *, force: bool) -> RunSpec:
    """Make `out` the folder of this run, write the spec there, and return it."""
    from mergekit_perm.files import write_text
    from mergekit_perm.pipeline.folder import SPEC, RunFolder
    from mergekit_perm.spec import resolved

    RunFolder(out).claim(data["name"], force=force)
    if not force and (out / SPEC).is_file() and not (out / _SPEC).is_file():
        raise RunError(
            f"{out}: is the folder of a run that merge did not start; choose another folder with "
            "--out, or take it over with --force"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        spec = _loaded(data, out)
        write_text(out / SPEC, resolved(spec))  # which says whose folder it is
        write_text(out / _SPEC, _text(moved(data, out), sys.argv[1:], out))
    except OSError as error:
        raise RunError(f"{out}: cannot be written: {error.strerror or error}") from error
    return spec


def _loaded(data: Mapping[str, Any], folder: Path, *, as_it_is: bool = False) -> RunSpec:
    from mergekit_perm import spec

    text = _text(data if as_it_is else moved(data, folder), sys.argv[1:], folder)
    return spec.loads(text, file=str(folder / _SPEC), folder=folder)


def _text(data: Mapping[str, Any], arguments: Sequence[str], out: Path) -> str:
    from mergekit_perm.spec.run_spec import RunSpec
    from mergekit_perm.yaml_document import dump, printable

    order = [key for key in RunSpec.model_fields if key in data]
    command = printable(shlex.join(["perm-merge", *arguments]))
    again = printable(shlex.join(["perm-merge", "run", str(out / _SPEC)]))
    return f"# Written by: {command}\n# The same again: {again}\n" + dump(
        {key: data[key] for key in order}
    )


def _loading(folder: Path) -> str:
    """Return Python that loads the network in `folder`, in one line."""
    from mergekit_perm.pipeline.loading import loading

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return "; ".join(loading(config, str(folder)))
