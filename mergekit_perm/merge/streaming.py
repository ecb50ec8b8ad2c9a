"""Merging tensor by tensor, so that one tensor of each network is in memory at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

import torch
from torch import Tensor

from mergekit_perm.checkpoints import completed, once
from mergekit_perm.errors import MergeError
from mergekit_perm.merge import buffers
from mergekit_perm.merge.options import keyword
from mergekit_perm.merge.plan import Plan, States, planned
from mergekit_perm.merge.recipes import Recipe
from mergekit_perm.weighted import mismatch, wide


def merge(
    states: States,
    *,
    method: str,
    base_model: str | None = None,
    ties: Mapping[str, str] = {},
    **parameters: Any,
) -> dict[str, Tensor]:
    """Return one state dict merged from `states` by a recipe of `RECIPES`.

    Sums are taken in float64 and rounded once, to the dtype of the first network. Counters and
    statistics of normalisation layers have rules of their own (see `buffers`).

    Args:
        states: state dicts by network name, with the same tensor names and shapes. Any mapping
            will do: tensors are read once each, network by network and name by name.
        method: a mergekit id, such as ``"ties"``, or a recipe of another distribution.
        base_model: the network that task vectors start from, or slerp's t = 0.
        ties: names of tensors that have another name as well, which stands for them: options and
            random numbers are those of that name (`checkpoints.ties` of a module gives them).
        parameters: the recipe's own options. A number, or filters such as
            ``[{"filter": "glob:layer4*", "value": 0.3}, {"value": 0.5}]`` (a part of tensor names,
            ``glob:``, ``regex:``; the first that matches counts), or a gradient, a list of numbers
            over depth (`depths`); or a mapping from network to any of these, where an option has a
            value for each network. Depth goes by the order of names in the first network: let that
            be of a module's `state_dict()`, as files of safetensors have names sorted.

    Raises:
        MergeError: unknown method, or anything that does not fit, before a tensor is read; or
            networks whose tensors differ in shape.
    """
    pairs = merge_tensors(states, method=method, base_model=base_model, ties=ties, **parameters)
    return completed(dict(pairs), ties)


def merge_tensors(
    states: States,
    *,
    method: str,
    base_model: str | None = None,
    ties: Mapping[str, str] = {},
    **parameters: Any,
) -> Iterator[tuple[str, Tensor]]:
    """Return what `merge` does as pairs (name, tensor), made one after another.

    Names that others stand for are left out. Everything but shapes is checked in this call, before
    the first pair is asked for.
    """
    names: dict[str, Any] = {
        network: once(dict.fromkeys(state.keys()), ties) for network, state in states.items()
    }
    plan = planned(names, method, base_model, parameters)
    _try_out(plan)
    return ((tensor, _merged(plan, tensor, states)) for tensor in plan.depths)


def explain(
    networks: Sequence[str],
    tensors: Sequence[str],
    *,
    method: str,
    base_model: str | None = None,
    **parameters: Any,
) -> dict[str, dict[str, Any]]:
    """Return for each tensor what every option is there, as `merge` would take it.

    An option with a value for each network is a list, in the order of `networks` without the base
    model. No weights are needed, so that a merge can be checked before there are any.

    Args:
        networks: their names.
        tensors: their names, in the order of the network.
        method, base_model, parameters: as for `merge`.

    Raises:
        MergeError: as `merge`, except for shapes.
    """
    names: dict[str, Any] = dict.fromkeys(tensors)
    plan = planned(dict.fromkeys(networks, names), method, base_model, parameters)
    _try_out(plan)
    return {tensor: plan.options(tensor) for tensor in plan.depths}


def _try_out(plan: Plan) -> None:
    """Call the recipe with all its options on tiny tensors, so that it refuses them in time."""
    tried = set()
    for name in plan.depths:
        options = plan.options(name)
        if repr(options) not in tried:
            tried.add(repr(options))
            count = len(plan.networks)
            tiny = [torch.full((2, 2), 1.0 + index, dtype=torch.float64) for index in range(count)]
            base = None if plan.base_model is None else torch.zeros(2, 2, dtype=torch.float64)
            _call(plan, name, tiny, base, options)


@torch.no_grad()
def _merged(plan: Plan, name: str, states: States) -> Tensor:
    """Return the tensor called `name`, merged."""
    found = {network: state[name] for network, state in states.items()}
    if problem := mismatch({network: {name: tensor} for network, tensor in found.items()}):
        raise MergeError(
            f"{plan.recipe.name}: {problem}; only networks of one architecture can be merged"
        )
    first = next(iter(found.values()))
    base = None if plan.base_model is None else found[plan.base_model]
    tensors, options = [found[network] for network in plan.networks], plan.options(name)
    if buffers.is_counter(first):
        return buffers.copied(tensors, base, options)
    tensors, base = [_real(tensor) for tensor in tensors], None if base is None else _real(base)
    if buffers.is_statistic(name):
        result = buffers.merged_statistic(_Wide(tensors), _maybe_wide(base), options)
    elif plan.recipe.as_stored:
        result = _call(plan, name, tensors, base, options)
    else:
        result = _call(plan, name, _Wide(tensors), _maybe_wide(base), options)
    return _narrow(result, first)


def _call(
    plan: Plan,
    name: str,
    tensors: Sequence[Tensor],
    base: Tensor | None,
    options: Mapping[str, Any],
) -> Tensor:
    """Return what the recipe makes of `tensors`."""
    function, keywords = plan.recipe.function, _keywords(plan.recipe, options)
    if plan.recipe.table.base != "refused":
        keywords["base"] = base
    if plan.recipe.table.random:
        keywords["generators"] = [
            _generator(options["seed"], network, name) for network in plan.networks
        ]
    try:
        result = function(tensors, **keywords)
    except MergeError as error:
        raise MergeError(f"{plan.recipe.name}: {error}") from error
    if result.shape != tensors[0].shape:
        raise MergeError(
            f"{plan.recipe.name}: the recipe made {tuple(result.shape)} of tensors of the shape "
            f"{tuple(tensors[0].shape)}"
        )
    return result


def _keywords(recipe: Recipe, options: Mapping[str, Any]) -> dict[str, Any]:
    own = {
        name: value
        for name, value in options.items()
        if not (name == "seed" and recipe.table.random)
    }
    return {keyword(name, recipe.function): value for name, value in own.items()}


def _generator(seed: int, network: str, tensor: str) -> torch.Generator:
    """Return random numbers that depend on nothing else, so that order and memory do not matter."""
    content = "\0".join((str(seed), network, tensor)).encode()
    number = int.from_bytes(hashlib.sha256(content).digest()[:7], "big")
    return torch.Generator().manual_seed(number)


class _Wide(Sequence[Tensor]):
    """Tensors in the dtype that sums are taken in, each made when it is asked for."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = tensors

    @overload
    def __getitem__(self, index: int) -> Tensor: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Tensor]: ...

    def __getitem__(self, index: int | slice) -> Tensor | Sequence[Tensor]:
        found = self._tensors[index]
        return found.to(wide(found)) if isinstance(found, Tensor) else _Wide(found)

    def __len__(self) -> int:
        return len(self._tensors)


def _maybe_wide(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.to(wide(tensor))


def _real(tensor: Tensor) -> Tensor:
    """Return complex numbers as pairs."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _narrow(tensor: Tensor, like: Tensor) -> Tensor:
    """Return `tensor` in the dtype of `like`."""
    if like.is_complex():
        tensor = torch.view_as_complex(tensor.contiguous())
    return tensor.to(like.dtype)
