"""A merge that has been checked: which recipe, which networks, and what every option is where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mergekit_perm.errors import MergeError, suggest
from mergekit_perm.merge.depth import depths
from mergekit_perm.merge.options import Option, without_effect
from mergekit_perm.merge.recipes import Recipe, find
from mergekit_perm.merge.values import NOTHING, Flaw, Setting, flaws, setting

States = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True, slots=True)
class Plan:
    """A merge that has been checked.

    Attributes:
        recipe: which.
        base_model: its name, or None.
        networks: the names of those that are merged, without the base model.
        depths: of every tensor, by name, in the order of the first network.
        settings: of every option; one for each network where it has a value for each.
    """

    recipe: Recipe
    base_model: str | None
    networks: tuple[str, ...]
    depths: Mapping[str, float]
    settings: Mapping[str, tuple[Setting, ...]]

    def options(self, tensor: str) -> dict[str, Any]:
        """Return the value of every option for the tensor called `tensor`."""
        where = self.depths[tensor]
        values = {
            name: [rules.at(tensor, where) for rules in several]
            for name, several in self.settings.items()
        }
        table = self.recipe.table.options
        return {
            name: several if table[name].each else several[0] for name, several in values.items()
        }


def planned(
    states: States, method: str, base_model: str | None, parameters: Mapping[str, Any]
) -> Plan:
    """Return the merge of `states` by a recipe; see `merge`. No tensor is looked at.

    Raises:
        MergeError: whatever is wrong with it.
    """
    recipe = find(method)
    try:
        networks = _networks(recipe, tuple(states), base_model)
        tensors = _tensors(states)
        given = _given(recipe, parameters)
        settings = {
            name: _settings(name, option, given, networks, base_model)
            for name, option in recipe.table.options.items()
        }
        for name, several in settings.items():
            _check_filters(name, dict(zip(networks, several, strict=False)), tensors)
            _check_values(name, dict(zip(networks, several, strict=False)), tensors)
    except MergeError as error:
        raise MergeError(f"{method}: {error}") from error
    return Plan(recipe, base_model, networks, depths(tensors), settings)


def _networks(recipe: Recipe, names: tuple[str, ...], base_model: str | None) -> tuple[str, ...]:
    """Return which of the networks called `names` are merged: all but the base model."""
    table = recipe.table
    if not names:
        raise MergeError("there are no networks to merge; give at least one")
    if base_model is None and table.base == "required":
        raise MergeError(f"it needs a base model; give base_model, one of {', '.join(names)}")
    if base_model is not None:
        if table.base == "refused":
            raise MergeError(
                "all networks count alike in this recipe, so it has no base model; "
                f"remove base_model, and '{base_model}' is merged like the others"
            )
        if base_model not in names:
            raise MergeError(
                f"no network '{base_model}'{suggest(base_model, names)}, which base_model names; "
                f"networks here: {', '.join(names)}"
            )
    networks = tuple(name for name in names if name != base_model)
    if not table.fewest <= len(networks) <= table.most:
        raise MergeError(f"it takes {_counted(recipe)}, found {', '.join(networks) or 'none'}")
    return networks


def _counted(recipe: Recipe) -> str:
    """Return how many networks the recipe takes, in words."""
    fewest, most = recipe.table.fewest, recipe.table.most
    several = f"{fewest:g} network{'s' * (fewest != 1)}" + (" or more" if most > fewest else "")
    return several + (" besides the base model" if recipe.table.base == "required" else "")


def _tensors(states: States) -> list[str]:
    """Return the names of the tensors of all networks, which have to be the same."""
    (reference, first), *others = states.items()
    expected = list(first.keys())
    for name, state in others:
        found = set(state.keys())
        for tensor in expected:
            if tensor not in found:
                raise MergeError(f"'{name}' has no tensor '{tensor}', which '{reference}' has")
        for tensor in state.keys():  # noqa: SIM118 (a state need not be iterable)
            if tensor not in set(expected):
                raise MergeError(f"'{name}' has a tensor '{tensor}', which '{reference}' has not")
    return expected


def _given(recipe: Recipe, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return `parameters` by the names of options: Python writes ``lambda_`` for ``lambda``."""
    known = recipe.table.options
    given: dict[str, Any] = {}
    for parameter, value in parameters.items():
        name = parameter if parameter in known else parameter.removesuffix("_")
        if name not in known:
            takes = f"it takes {', '.join(known)}" if known else "it takes none"
            takes = without_effect(recipe.name, parameter) or takes
            raise MergeError(f"no parameter '{parameter}'{suggest(parameter, known)}; {takes}")
        given[name] = value
    return given


def _settings(
    name: str,
    option: Option,
    given: Mapping[str, Any],
    networks: Sequence[str],
    base_model: str | None,
) -> tuple[Setting, ...]:
    """Return the rules of one option, for each network where it has a value for each."""
    if name not in given:
        rules: tuple[Setting, ...] = (Setting((), option.default),)
        return rules * len(networks) if option.each else rules
    value = given[name]
    for flaw in flaws(value, option, networks, name=name):
        raise MergeError(_worded(name, flaw, networks, base_model))
    if not option.each:
        return (setting(value, option),)
    several = value if isinstance(value, Mapping) else dict.fromkeys(networks, value)
    return tuple(setting(several[network], option) for network in networks)


def _worded(name: str, flaw: Flaw, networks: Sequence[str], base_model: str | None) -> str:
    path = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in flaw.path)
    found = "" if flaw.value is NOTHING else f", found {flaw.value!r}"
    hint = f"; {flaw.hint}" if flaw.hint else ""
    if flaw.network is not None and flaw.network == base_model:
        return f"{name}{path}: '{base_model}' is the base model, and takes no {name}; remove it"
    if flaw.network is not None:
        hint = f"{suggest(flaw.network, networks)}; networks here: {', '.join(networks)}"
    return f"{name}{path}: {flaw.message}{found}{hint}"


def _check_filters(name: str, settings: Mapping[str, Setting], tensors: Sequence[str]) -> None:
    """Refuse filters that decide about no tensor."""
    for network, rules in settings.items():
        for index, why in rules.idle(tensors):
            raise MergeError(f"{name}, for '{network}', entry {index}: {why}")


def _check_values(name: str, settings: Mapping[str, Setting], tensors: Sequence[str]) -> None:
    """Refuse an option without a default that has no value for some tensor."""
    for rules in settings.values():
        without = [tensor for tensor in tensors if rules.at(tensor, 0.0) is None]
        if without and not rules.rules:
            raise MergeError(f"it needs the parameter '{name}'; give, for example, {name}=0.5")
        if without:
            raise MergeError(
                f"{name}: no filter matches the tensor '{without[0]}', and there is no default; "
                "end the list with an entry {value: ...}"
            )
