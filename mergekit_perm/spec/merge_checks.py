"""What is wrong with the recipes of a run spec: their networks, base models and parameters."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from mergekit_perm.errors import MergeError
from mergekit_perm.merge.options import Option, Table, without_effect
from mergekit_perm.merge.values import NOTHING, Flaw, flaws
from mergekit_perm.spec.merge_models import MergeSpec
from mergekit_perm.spec.name_checks import name_problem, same_network, unknown_network
from mergekit_perm.spec.parts import Parts
from mergekit_perm.spec.problems import bool_hint, found, nearest, number_hint
from mergekit_perm.spec.recipes import DATA_RECIPES, DIVIDED, counted, recipe_table
from mergekit_perm.yaml_document import Keys, Problem


def merge_problems(parts: Parts) -> Iterator[Problem]:
    """Yield every problem of the entries of `merge` that are sound by themselves."""
    taken: dict[str, int] = {}
    for index, merge in parts.merge.items():
        path: Keys = ("merge", index)
        first = taken.setdefault(merge.name, index)
        if first != index:
            message = f"the name '{merge.name}' is taken by merge[{first}]"
            yield Problem((*path, "name"), message, "choose another name")
        yield from _networks((*path, "networks"), merge, parts)
        try:
            table = recipe_table(merge.method)
        except MergeError as error:
            yield Problem((*path, "method"), str(error))
            continue
        yield from _base_model(path, merge, table, parts)
        yield from _number(path, merge, table, parts)
        yield from _parameters((*path, "parameters"), merge, table, parts)
        yield from _data(path, merge, parts)
        yield from _targets((*path, "parameters", "weight"), merge, parts)


def _networks(path: Keys, merge: MergeSpec, parts: Parts) -> Iterator[Problem]:
    names = merge.networks or ()
    for place, name in enumerate(names):
        if problem := name_problem((*path, place), name, parts):
            yield problem
        for other in names[:place]:
            if same_network(name, other, parts):
                message = f"'{name}' and '{other}' are the same network"
                yield Problem((*path, place), message, "remove one of the two")


def _base_model(path: Keys, merge: MergeSpec, table: Table, parts: Parts) -> Iterator[Problem]:
    if merge.base_model is None:
        if table.base == "required" and parts.names:
            hint = f"add, for example: base_model: {parts.names[0]}"
            yield Problem(path, f"{merge.method} needs a base model", hint, key=True)
    elif table.base == "refused":
        message = f"{merge.method} has no base model: all its networks count alike"
        hint = "remove it; what networks are aligned to is align.reference"
        yield Problem((*path, "base_model"), message, hint, key=True)
    elif problem := name_problem((*path, "base_model"), merge.base_model, parts):
        yield problem


def _merged(merge: MergeSpec, parts: Parts) -> list[str]:
    """Return the names of the networks that are merged, without the base model."""
    names = parts.names if merge.networks is None else merge.networks
    return [name for name in names if name != merge.base_model]


def _number(path: Keys, merge: MergeSpec, table: Table, parts: Parts) -> Iterator[Problem]:
    names = _merged(merge, parts)
    if table.base == "required" and merge.base_model is None:
        return  # which one of these it is decides how many are left
    if parts.names and not table.fewest <= len(names) <= table.most:
        message = f"{merge.method} merges {counted(table)}, found {', '.join(names) or 'none'}"
        some = [name for name in parts.names if name != merge.base_model][: int(table.fewest)]
        enough = len(some) == table.fewest
        hint = (
            f"name those to merge, for example: networks: [{', '.join(some)}]" if enough else None
        )
        listed = merge.networks is not None
        yield Problem((*path, "networks") if listed else path, message, hint, key=True)


def _parameters(path: Keys, merge: MergeSpec, table: Table, parts: Parts) -> Iterator[Problem]:
    given, known = merge.parameters.model_dump(), table.options
    names = _merged(merge, parts)
    strangers = [name for name in given if name not in known]
    for name in strangers:
        reason = without_effect(merge.method, name)
        listing = f"known keys here: {', '.join(known)}" if known else "it has none"
        hint = reason or nearest(name, known) or listing
        message = f"{merge.method} has no parameter '{name}'"
        yield Problem((*path, name), message, hint, key=True)
    broken = False
    for name, option in known.items():
        if name in given:
            for flaw in flaws(given[name], option, names, name=name):
                broken = True
                if isinstance(flaw.value, float) and not math.isfinite(flaw.value):
                    continue  # `not_finite` says so, wherever it stands
                yield _problem((*path, name), name, option, flaw, merge, parts)
        elif option.default is None and not any(nearest(one, [name]) for one in strangers):
            hint = f"add, for example: parameters: {{{name}: 0.5}}"
            yield Problem(path[:-1], f"{merge.method} needs the parameter '{name}'", hint, key=True)
    if not broken:
        yield from _cancelling((*path, "weight"), merge, names)
        yield from _chances((*path, "epsilon"), merge, names)


def _problem(
    path: Keys, name: str, option: Option, flaw: Flaw, merge: MergeSpec, parts: Parts
) -> Problem:
    path = (*path, *flaw.path)
    if flaw.network is not None:
        if flaw.network == merge.base_model:
            message = f"'{flaw.network}' is the base model, and takes no {name}"
            return Problem(path, message, "remove it", key=True)
        if flaw.network in parts.names:
            return Problem(path, f"network '{flaw.network}' is not merged here", key=True)
        merged = _merged(merge, parts)
        return unknown_network(path, flaw.network, merged, key=True)
    if flaw.value is NOTHING:
        return Problem(path, flaw.message, flaw.hint or None, key=flaw.key)
    hint = flaw.hint or _written(flaw.value, option)
    value = flaw.value
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # as it is likely to be written: defaults have made it a float
    return Problem(path, f"{flaw.message}, found {found(value)}", hint)


def _written(value: Any, option: Option) -> str | None:
    """Return what to write in place of text that means a number, or true or false."""
    if not isinstance(value, str):
        return None
    return bool_hint(value) if option.kind == "flag" else number_hint(value, whole=False)


def _cancelling(path: Keys, merge: MergeSpec, names: Sequence[str]) -> Iterator[Problem]:
    """Check that weights that are divided by their sum have one."""
    given = merge.parameters.model_dump()
    flag = DIVIDED.get(merge.method, "")
    if flag == "" or (flag is not None and given[flag] is not True):
        return
    weights = _numbers(given["weight"], names)
    if weights and abs(math.fsum(weights)) <= 1e-12 * math.fsum(map(abs, weights)):
        hint = "change them" if flag is None else f"change them, or write {flag}: false"
        yield Problem(path, "the weights sum to 0, so they cannot be normalised", hint)


def _chances(path: Keys, merge: MergeSpec, names: Sequence[str]) -> Iterator[Problem]:
    """Check that what della makes of its numbers are chances."""
    given = merge.parameters.model_dump()
    if not merge.method.startswith("della"):
        return
    pairs = zip(_numbers(given["density"], names), _numbers(given["epsilon"], names), strict=False)
    for density, epsilon in pairs:
        if density != 1 and not (density - epsilon >= 0 and density + epsilon <= 1):
            message = (
                f"density {density:g} with epsilon {epsilon:g} means chances to be kept from "
                f"{density - epsilon:g} to {density + epsilon:g}, which have to lie within 0 and 1"
            )
            most = min(density, 1 - density)
            yield Problem(path[:-1], message, f"write epsilon: {most:g} or less", key=True)
            return


def _data(path: Keys, merge: MergeSpec, parts: Parts) -> Iterator[Problem]:
    """Check that recipes that look at data have some; a greedy soup some to be held out."""
    if merge.method not in DATA_RECIPES:
        return
    if "data" not in parts.given:
        message = f"{merge.method} looks at data, and the spec has none"
        yield Problem((*path, "method"), message, "add, for example: data: digits")
    elif merge.method == "greedy_soup" and "evaluate" not in parts.given:
        message = "a greedy soup is chosen on a split that is evaluated, and nothing is"
        yield Problem((*path, "method"), message, "add evaluate: {splits: [train, test]}")
    elif merge.method == "greedy_soup" and parts.evaluate and parts.evaluate.splits == ("train",):
        message = "a greedy soup is chosen on held-out examples, and only 'train' is evaluated"
        yield Problem((*path, "method"), message, "add another split to evaluate.splits")
    weight = merge.parameters.model_dump().get("weight", 1.0)
    for value in weight.values() if isinstance(weight, dict) else [weight]:
        if isinstance(value, list):
            message = f"{merge.method} takes one weight for each network, the same in all tensors"
            yield Problem((*path, "parameters", "weight"), message, "write a number")
            return


def _targets(path: Keys, merge: MergeSpec, parts: Parts) -> Iterator[Problem]:
    """Check that there are statistics between those of the networks, where `repair` needs them."""
    measured = parts.evaluate.calibration if parts.evaluate else ()
    repaired = [name for name in (merge.calibrate, *measured) if "repair" in name]
    given = merge.parameters.model_dump().get("weight")
    if not repaired or merge.method != "linear" or not isinstance(given, dict):
        return
    for name, weight in given.items():
        if isinstance(weight, int | float) and weight < 0:
            message = f"{repaired[0]} mixes statistics of networks, by weights of 0 or more"
            hint = "take a weight of 0 or more, or another calibration"
            yield Problem((*path, name), message, hint)


def _numbers(value: Any, names: Sequence[str]) -> list[float]:
    """Return the numbers for `names`; none where one depends on the tensor."""
    several = [value[name] for name in names] if isinstance(value, dict) else [value] * len(names)
    return several if all(isinstance(one, int | float) for one in several) else []
