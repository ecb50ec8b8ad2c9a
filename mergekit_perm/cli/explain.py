"""`perm-merge explain`: what every option of a recipe is in every tensor."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mergekit_perm.cli.loading import load
from mergekit_perm.cli.shared import AsJson, Overrides, SpecArgument
from mergekit_perm.cli.tensor_names import shortened
from mergekit_perm.errors import SpecError, suggest

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from mergekit_perm.pipeline.explaining import Explained

# So many words stand for tensors, however many it would take.
_NAMED = 3


def explain(
    spec: SpecArgument,
    merge: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only this merged network.")
    ] = None,
    tensor: Annotated[
        str | None,
        typer.Option(
            metavar="FILTER", help="Only tensors so called: a part of a name, glob:... or regex:..."
        ),
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Show what filters and gradients make of every option of a recipe, tensor by tensor."""
    from rich.console import Console

    from mergekit_perm.pipeline.explaining import explained

    loaded = load(spec, overrides)
    known = [recipe.name for recipe in loaded.merge]
    if not known:
        raise SpecError(
            f"{spec}: nothing is merged, so there is nothing to explain; add, for example, "
            "merge: [{name: mean, method: linear}]"
        )
    if merge is not None and merge not in known:
        raise SpecError(
            f"no merged network '{merge}'{suggest(merge, known)}; there is {', '.join(known)}"
        )
    found = {
        recipe.name: _chosen(explained(loaded, recipe), tensor)
        for recipe in loaded.merge
        if merge in (None, recipe.name)
    }
    if as_json:
        plain = {
            name: {each: one.to_json() for each, one in tensors.items()}
            for name, tensors in found.items()
        }
        typer.echo(json.dumps(plain, indent=2))
        return
    for recipe in loaded.merge:
        if recipe.name in found:
            title = f"{recipe.name}: {recipe.method} of {', '.join(loaded.merged_networks(recipe))}"
            _show(title, found[recipe.name], Console(), each=tensor is not None)


def _chosen(tensors: Mapping[str, Explained], pattern: str | None) -> dict[str, Explained]:
    from mergekit_perm.merge.values import Rule

    rule = Rule(pattern, 0.0)
    chosen = {name: one for name, one in tensors.items() if rule.matches(name)}
    if not chosen:
        first = ", ".join(list(tensors)[:3])
        raise SpecError(f"--tensor {pattern}: no tensor is called so; there are {first}, ...")
    return chosen


def _show(title: str, tensors: Mapping[str, Explained], console: Console, *, each: bool) -> None:
    """Print what is the same in all tensors, and a table of what is not."""
    from mergekit_perm.report.show import indented, show, show_heading

    weights = {name: one.options for name, one in tensors.items() if not one.copied}
    counters = [name for name in tensors if name not in weights]
    texts = {
        name: {option: _text(value) for option, value in options.items()}
        for name, options in weights.items()
    }
    known = next(iter(weights.values()), {})
    every = {option: {row[option] for row in texts.values()} for option in known}
    same = {option: next(iter(found)) for option, found in every.items() if len(found) == 1}
    varying = [option for option in every if option not in same]
    show_heading(console, title)
    if same:
        listed = ", ".join(f"{option} {value}" for option, value in same.items())
        show(console, indented(f"The same in all: {listed}"))
    if varying or each:
        show(console, indented(_table(tensors, texts, varying, each=each)))
    if counters:
        several = f" and {len(counters) - 1} more" if len(counters) > 1 else ""
        show(console, indented(f"Counters are copied: {counters[0]}{several}"))


def _table(
    tensors: Mapping[str, Explained],
    texts: Mapping[str, Mapping[str, str]],
    options: Sequence[str],
    *,
    each: bool,
) -> Table:
    """Return a row for the tensors in which `options` are the same, or for each tensor."""
    from mergekit_perm.report.show import plain_table

    groups: dict[Any, list[str]] = {}
    for name, row in texts.items():
        groups.setdefault(name if each else tuple(row[o] for o in options), []).append(name)
    table = plain_table("tensors", [*([] if each else ["number"]), "depth", *options])
    for names in groups.values():
        depths = sorted(tensors[name].depth for name in names)
        number = [] if each else [str(len(names))]
        values = [texts[names[0]][option] for option in options]
        label = names[0] if each else _label(names, texts)
        table.add_row(label, *number, _range(depths), *values)
    return table


def _label(names: Sequence[str], among: Iterable[str]) -> str:
    """Return words for what is called `names`, or the first of them."""
    words = shortened(names, among)
    more = f" and {len(words) - _NAMED} more" if len(words) > _NAMED else ""
    return ", ".join(words[:_NAMED]) + more


def _range(depths: Sequence[float]) -> str:
    low, high = (f"{depth:.3g}" for depth in (depths[0], depths[-1]))
    return low if low == high else f"{low} to {high}"


def _text(value: Any) -> str:
    """Return a value as a spec would have it; one for each network where they differ."""
    if isinstance(value, dict):
        several = {name: _text(one) for name, one in value.items()}
        if len(set(several.values())) == 1:
            return next(iter(several.values()))
        return ", ".join(f"{name} {one}" for name, one in several.items())
    return str(value).lower() if isinstance(value, bool) else f"{value:.6g}"
