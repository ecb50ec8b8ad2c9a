"""Names of networks, and of their checkpoints as in ``a@5``, must be those of the spec."""

from __future__ import annotations

from collections.abc import Sequence

from mergekit_perm.spec.parts import Parts
from mergekit_perm.spec.problems import nearest
from mergekit_perm.spec.sequences import END, end_of, split_name, steps_of
from mergekit_perm.yaml_document import Keys, Problem


def unknown_network(path: Keys, name: str, known: Sequence[str], *, key: bool = False) -> Problem:
    """Return the problem of a name that is none of the `known` ones."""
    hint = nearest(name, known) or f"networks here: {', '.join(known)}"
    return Problem(path, f"no network '{name}'", hint, key=key)


def name_problem(path: Keys, full: str, parts: Parts, *, key: bool = False) -> Problem | None:
    """Return what is wrong with the name of a network or of a checkpoint, None if nothing is."""
    name, step = split_name(full)
    if name not in parts.names:
        return unknown_network(path, name, parts.names, key=key)
    steps = sound_steps(name, parts)
    if step is None or steps is None or step in (END, *steps):
        return None
    if not steps:
        trained = parts.networks[name].train is not None
        hint = "add to train, for example: checkpoints: [0, 1, 2, 5, 10]" if trained else None
        message = f"network '{name}' is one checkpoint, and this asks for '{step}' of a sequence"
        return Problem(path, message, hint or f"write {name}", key=key)
    message = f"network '{name}' has no checkpoint '{step}'"
    return Problem(path, message, f"there is {', '.join(steps)}", key=key)


def same_network(one: str, other: str, parts: Parts) -> bool:
    """Tell whether two names mean the same weights, as ``a`` and ``a@end`` do."""
    return _own_name(one, parts) == _own_name(other, parts)


def sound_steps(name: str, parts: Parts) -> tuple[str, ...] | None:
    """Return the checkpoints of network `name`; None where what they depend on is broken."""
    network = parts.networks.get(name)
    broken = "prune" in parts.given and parts.prune is None
    if network is None or parts.train is None or broken:
        return None
    return steps_of(network, parts.train, parts.prune, parts.folder)


def _own_name(full: str, parts: Parts) -> str:
    name, step = split_name(full)
    steps = sound_steps(name, parts)
    return name if step == END or (steps and step == end_of(steps)) else full
