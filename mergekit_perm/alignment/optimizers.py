"""The state of optimizers: numbered parameters, their names, and what moves with each.

A state dict of torch's optimizers is {"state": {number: {"momentum_buffer": tensor, ...}},
"param_groups": [{"params": [number, ...], ...}]}. Parameters are numbered through all groups in the
order in which the optimizer got them.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, TypeGuard

import torch

from mergekit_perm import checkpoints, networks
from mergekit_perm.alignment.moves import Count, Moves
from mergekit_perm.errors import CheckpointError, PermMergeError, PermutationSpecError
from mergekit_perm.permspec import PermutationSpec, Shape

_HELP = (
    "in Python, Alignment.apply_to_optimizer takes their `names`, and an optimizer that is given "
    "network.named_parameters() keeps the names itself"
)


def is_optimizer(value: object) -> TypeGuard[Mapping[str, Any]]:
    """Return whether `value` is what an optimizer's `state_dict()` gives."""
    return (
        isinstance(value, Mapping)
        and isinstance(value.get("state"), Mapping)
        and isinstance(value.get("param_groups"), list)
        and all(isinstance(g, Mapping) and "params" in g for g in value["param_groups"])
    )


def permute_optimizer(
    optimizer: Mapping[str, Any], names: Sequence[str] | None, moves: Moves
) -> tuple[dict[str, Any], Count]:
    """Return `optimizer` permuted, and what was done; see `Alignment.apply_to_optimizer`."""
    if not is_optimizer(optimizer):
        raise CheckpointError(
            "not the state of an optimizer: expected 'state' and 'param_groups', as "
            "optimizer.state_dict() gives them"
        )
    numbers = [number for group in optimizer["param_groups"] for number in group["params"]]
    names = _own_names(optimizer) if names is None else list(names)
    if names is None:
        raise CheckpointError(f"the optimizer's parameters are numbered, not named; {_HELP}")
    if len(names) != len(numbers):
        raise CheckpointError(f"the optimizer has {len(numbers)} parameters, not {len(names)}")
    named = dict(zip(numbers, names, strict=True))
    listed = moves.listed(names)
    state: dict[Any, Any] = {}
    found = moved = 0
    for number, entry in optimizer["state"].items():
        state[number] = entry
        if number in named and named[number] in listed:
            name = named[number]
            state[number], count = _permute_entry(entry, name, listed[name], moves)
            found, moved = found + 1, moved + count
        elif number not in named and has_order(entry):
            raise CheckpointError(f"the optimizer has a state of {number!r}, which no group has")
    return {**optimizer, "state": state}, Count(found=found, moved=moved)


def _permute_entry(
    entry: Mapping[str, Any], name: str, target: str, moves: Moves
) -> tuple[dict[str, Any], int]:
    """Return the state of one parameter permuted, and how many of its tensors moved."""
    result = dict(entry)
    moved = 0
    for key, value in entry.items():
        if not has_order(value):
            continue  # a count of steps, or nothing that has an order
        if not isinstance(value, torch.Tensor):
            raise _other_form(name, f"'{key}' is a {type(value).__name__} of tensors")
        try:
            row = moves.rows({target: tuple(value.shape)}).get(target)
        except PermutationSpecError as error:
            reason = str(error).splitlines()[-1].strip().removeprefix(f"{target}: ")
            raise _other_form(name, f"'{key}' has shape {list(value.shape)} ({reason})") from error
        if row is not None:
            result[key] = moves.move(value, row, name=f"{key} of {name}")
            moved += moves.moves(row)
    return result, moved


def _other_form(name: str, what: str) -> CheckpointError:
    return CheckpointError(
        f"the optimizer's state of '{name}' has not the parameter's own form: {what}. A state "
        "that is factored (Adafactor), flattened or preconditioned cannot be permuted; leave the "
        "optimizer out of the file, and its moments build up again"
    )


def has_order(value: Any) -> bool:
    """Return whether there is a tensor of more than one element in `value`, however deep."""
    if isinstance(value, torch.Tensor):
        return value.numel() > 1
    inner = value.values() if isinstance(value, Mapping) else value
    return isinstance(value, (Mapping, list, tuple)) and any(map(has_order, inner))


# ---------------------------------------------------------------------------------------- naming


def parameter_names(
    optimizer: Mapping[str, Any], spec: PermutationSpec, shapes: Mapping[str, Shape]
) -> list[str]:
    """Return the names of an optimizer's parameters in the order in which it numbers them.

    They are those the optimizer keeps itself, or else the parameters of the architecture of
    `spec`: all in their order, or, in two groups of which one has no weight decay, as timm's
    `param_groups_weight_decay` splits them. Counts and all shapes must agree, with one order only.

    Args:
        optimizer: what `optimizer.state_dict()` gives.
        spec: names the architecture and its options.
        shapes: of the tensors of the network that was trained; may be empty.

    Raises:
        CheckpointError: the names cannot be told with certainty.
    """
    own = _own_names(optimizer)
    if own is not None:
        return own
    if spec.architecture is None:
        raise _unknown("the permutation spec names no architecture to look them up in")
    try:
        module = networks.skeleton(spec.architecture, spec.options)
    except PermMergeError as error:
        raise _unknown(f"the network cannot be built: {error}") from error
    parameters = {n: tuple(shapes.get(n, p.shape)) for n, p in module.named_parameters()}
    missing = [name for name in parameters if shapes and name not in shapes]
    if missing:
        raise _unknown(f"the network in the file has no '{missing[0]}', {spec.architecture} has")
    orders = list(_orders(optimizer["param_groups"], parameters, _without_decay(module)))
    if not orders:
        raise _unknown(_counts(optimizer, parameters, spec.architecture))
    fitting = [order for order in orders if _misfit(optimizer, order, parameters) is None]
    if not fitting:
        raise _unknown(f"{_misfit(optimizer, orders[0], parameters)}")
    if len(fitting) > 1:
        raise _unknown("several orders have the same shapes")
    return fitting[0]


def _unknown(reason: str) -> CheckpointError:
    return CheckpointError(
        "the optimizer's parameters are numbered, and which number is which cannot be told: "
        f"{reason}; {_HELP}"
    )


def _own_names(optimizer: Mapping[str, Any]) -> list[str] | None:
    """Return the names that an optimizer made from named parameters keeps in its groups."""
    groups = optimizer["param_groups"]
    if not groups or any(len(g.get("param_names") or ()) != len(g["params"]) for g in groups):
        return None
    names = [name for group in groups for name in group["param_names"]]
    return list(checkpoints.bare_names(names).values())


def _without_decay(module: torch.nn.Module) -> Collection[str]:
    """Return the patterns of names that timm exempts from weight decay in this network."""
    listing = getattr(module, "no_weight_decay", None)
    return set(listing()) if callable(listing) else set()


def _orders(
    groups: Sequence[Mapping[str, Any]], parameters: Mapping[str, Shape], exempt: Collection[str]
) -> Iterator[list[str]]:
    """Yield the distinct orders of all parameters that fit the sizes of the groups."""
    sizes = [len(group["params"]) for group in groups]
    if len(sizes) == 1 and sizes[0] == len(parameters):
        yield list(parameters)
    exempted = [not group.get("weight_decay", True) for group in groups]
    if sorted(exempted) != [False, True]:
        return
    seen: list[list[str]] = []
    for rule in _rules(parameters, exempt):
        without = [name for name in parameters if rule(name)]
        decayed = [name for name in parameters if not rule(name)]
        split = (without, decayed) if exempted[0] else (decayed, without)
        order = [*split[0], *split[1]]
        if [len(part) for part in split] == sizes and order not in seen:
            seen.append(order)
            yield order


def _rules(
    parameters: Mapping[str, Shape], exempt: Collection[str]
) -> Iterator[Callable[[str], bool]]:
    """Yield what timm.optim.param_groups_weight_decay exempts from decay, by its options."""

    def named(name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in exempt)

    def thin(name: str) -> bool:
        return len(parameters[name]) <= 1 or name.endswith(".bias")

    yield lambda name: thin(name) or named(name)
    yield thin
    yield named


def _misfit(
    optimizer: Mapping[str, Any], order: Sequence[str], parameters: Mapping[str, Shape]
) -> str | None:
    """Say which state has not the shape of its parameter in this `order`; None when all have."""
    numbers = [number for group in optimizer["param_groups"] for number in group["params"]]
    for number, name in zip(numbers, order, strict=True):
        entry = optimizer["state"].get(number, {})
        states = [(k, v) for k, v in entry.items() if has_order(v)]
        shapes = [tuple(v.shape) for _, v in states if isinstance(v, torch.Tensor)]
        if states and parameters[name] not in shapes:
            key, value = states[0]
            shape = list(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
            return (
                f"number {number} would be '{name}', which is {list(parameters[name])}, but its "
                f"'{key}' is {shape}: another order, or a state that is factored (Adafactor)"
            )
    return None


def _counts(
    optimizer: Mapping[str, Any], parameters: Mapping[str, Shape], architecture: str
) -> str:
    groups = optimizer["param_groups"]
    sizes = ", ".join(
        f"{len(group['params'])} (weight decay {group.get('weight_decay', 'not said')})"
        for group in groups
    )
    return (
        f"it has {len(groups)} groups of parameters, of {sizes}; {architecture} has "
        f"{len(parameters)} parameters, and they are told apart only in one group, or in two as "
        "timm splits them by weight decay"
    )
