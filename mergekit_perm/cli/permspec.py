"""`perm-merge permspec ...`: deriving, proving and showing permutation specs."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mergekit_perm.cli.live import live_progress
from mergekit_perm.cli.shared import AsJson, Options, pairs
from mergekit_perm.errors import SpecError

if TYPE_CHECKING:
    from mergekit_perm.derive import Derivation, Proof
    from mergekit_perm.permspec import PermutationSpec

_STDIN = "-"

permspec_app = typer.Typer(
    help="Permutation specs: which neurons of an architecture may be permuted.",
    no_args_is_help=True,
)

Architecture = Annotated[
    str,
    typer.Argument(metavar="ARCH", help="A timm name, a built-in, or package.module:function."),
]


@permspec_app.command("derive")
def permspec_derive(
    architecture: Architecture,
    options: Options = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE", help="Write it to this file.")
    ] = None,
    strict: Annotated[
        bool, typer.Option(help="Refuse a network with an operation that has no rule.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Derive the permutation spec of a network from the operations it performs, as YAML."""
    from mergekit_perm import derive, files

    found = derive.derivation(architecture, pairs(options), strict=strict)
    text = found.spec.dumps()
    if out is not None:
        files.write_text(out, text)
    if as_json:
        typer.echo(json.dumps(_summary(found, text), indent=2))
        return
    if out is None:
        typer.echo(text, nl=False)
    typer.echo(_sentence(found), err=True)
    where = out or "FILE"
    typer.echo(f"Prove it with `perm-merge permspec verify {where} --record`.", err=True)


def _summary(found: Derivation, text: str) -> dict[str, Any]:
    spec = found.spec
    return {
        "architecture": spec.architecture,
        "options": dict(spec.options),
        "groups": {g.name: {"size": g.size, "within": g.within} for g in spec.groups.values()},
        "fixed": dict(spec.fixed),
        "operations_without_rule": dict(found.unruled),
        "seconds": dict(found.seconds),
        "text": text,
    }


def _sentence(found: Derivation) -> str:
    unruled = ", ".join(f"{name} ({count}x)" for name, count in found.unruled.items())
    return (
        f"{found.spec.architecture}: {found.spec.groups.counted()}, derived in "
        f"{sum(found.seconds.values()):.1f} s"
        + (f"; operations without a rule froze what they touch: {unruled}" if unruled else "")
    )


@permspec_app.command("verify")
def permspec_verify(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A permutation spec; - is standard input.")
    ],
    architecture: Annotated[
        str | None, typer.Option(help="Verify for this architecture instead of the spec's own.")
    ] = None,
    options: Options = None,
    record: Annotated[
        bool, typer.Option(help="Write the proof's date and figures into the file.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Prove that a permutation spec preserves its architecture's function, in float64."""
    from dataclasses import asdict

    from mergekit_perm import derive, files
    from mergekit_perm.permspec import PermutationSpec
    from mergekit_perm.permspec_text import with_proof

    piped = str(file) == _STDIN
    if piped and record:
        raise SpecError("--record writes into the file of the spec, and standard input is none")
    spec = _piped()[0] if piped else PermutationSpec.load(file)
    built = architecture or spec.architecture
    if built is None:
        raise SpecError(f"{file}: names no architecture; give one with --architecture")
    fresh = derive.probe(built, {**spec.options, **pairs(options)}, spec)
    bound = spec.bind(fresh.shapes) if piped else derive.from_file(file, fresh.shapes).spec
    with live_progress() as progress:
        proof = derive.verify(
            bound, fresh.module, fresh.inputs, shapes=fresh.shapes, progress=progress
        )
    if record:
        text = file.read_text(encoding="utf-8")
        files.write_text(file, with_proof(text, derive.record_of(spec, proof)))
    if as_json:
        typer.echo(json.dumps(asdict(proof), indent=2))
    else:
        typer.echo(_proof_text(f"{file}: verified for {built}", bound, proof))


def _proof_text(title: str, spec: PermutationSpec, proof: Proof) -> str:
    weakest = min(proof.controls, key=lambda group: proof.controls[group], default=None)
    control = "no group of two elements or more, so nothing moves"
    if weakest is not None:
        control = (
            "moved on one tensor alone, the least change is "
            f"{proof.controls[weakest]:.1e}{' to first order' * (weakest not in proof.finite)} "
            f"({weakest})"
        )
    training = proof.training
    if proof.training_difference is not None:
        training = f"outputs and statistics differ by {proof.training_difference:.1e}, dropout off"
    unread = ""
    if proof.unread:
        unread = f"  what nothing reads, whatever it is: {', '.join(proof.unread)}\n"
    shapes = ", ".join(" x ".join(map(str, shape)) for shape in proof.inputs)
    return (
        f"{title} on inputs of {shapes}\n"
        f"  outputs differ by {proof.difference:.1e} of their size under {proof.members} random "
        "members of the group (float64)\n"
        f"  training mode: {training}\n"
        f"  {spec.groups.counted()}; {control}\n{unread}"
        f"  coverage {_floored(proof.coverage)} of the parameter elements, {proof.seconds:.1f} s"
    )


@permspec_app.command("show")
def permspec_show(
    which: Annotated[str, typer.Argument(metavar="ARCH|FILE", help="- is standard input.")],
    options: Options = None,
) -> None:
    """Print a permutation spec: a file, or what a run of an architecture would use."""
    from mergekit_perm import checkpoints, derive, networks, shipped
    from mergekit_perm.permspec import PermutationSpec

    if which == _STDIN:
        typer.echo(_piped()[1], nl=False)
        return
    known = shipped.architecture_specs()
    given = pairs(options)
    path = known.get(shipped.file_name(which)) if not given else None
    if path is None and (Path(which).is_file() or which.endswith((".yaml", ".yml"))):
        path = Path(which)
    if path is not None:
        PermutationSpec.load(path)  # a file with problems is not shown as if it had none
        typer.echo(path.read_text(encoding="utf-8"), nl=False)
        return
    module = networks.skeleton(which, given)
    code = networks.code_of(which, module)
    found = derive.find(which, given, checkpoints.shapes(module), code=code)
    typer.echo(found.text, nl=False)


def _piped() -> tuple[PermutationSpec, str]:
    """Return the spec on standard input, and its text."""
    from mergekit_perm.permspec import PermutationSpec

    text = sys.stdin.read()
    return PermutationSpec.loads(text, file="<stdin>"), text


@permspec_app.command("list")
def permspec_list(as_json: AsJson = False) -> None:
    """List the permutation specs that come with perm-merge, with coverage and date of proof."""
    from mergekit_perm import shipped
    from mergekit_perm.permspec import PermutationSpec

    rows = [_row(PermutationSpec.load(path)) for path in shipped.architecture_specs().values()]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    width = max(len(row["name"]) for row in rows)
    typer.echo(f"{'architecture':<{width}}  groups  nested  coverage  proven")
    for row in rows:
        coverage = "" if row["coverage"] is None else _floored(row["coverage"])
        typer.echo(
            f"{row['name']:<{width}}  {row['groups']:>6}  {row['nested']:>6}  "
            f"{coverage:>8}  {row['proven'] or 'no'}"
        )
    typer.echo("Any other timm architecture: perm-merge permspec derive ARCH", err=True)


def _floored(share: float) -> str:
    """Return four decimals, rounded down, so that only all of it is 1."""
    return f"{math.floor(10_000 * share) / 10_000:.4f}"


def _row(spec: Any) -> dict[str, Any]:
    """Return what `list` shows of one spec; a proof of other groups or axes does not count."""
    proof = spec.proof if spec.proof.get("sha256") == spec.sha256 else {}
    return {
        "name": spec.architecture,
        "groups": len(spec.groups.top()),
        "nested": len(spec.groups) - len(spec.groups.top()),
        "coverage": proof.get("coverage"),
        "difference": proof.get("difference"),
        "proven": proof.get("date"),
    }
