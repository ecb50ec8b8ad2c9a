"""What asks for sequences must find them: of every network, of the same epochs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from mergekit_perm.spec.fields import PRUNED
from mergekit_perm.spec.parts import Parts
from mergekit_perm.spec.sequences import of_checkpoints, steps_of
from mergekit_perm.yaml_document import Keys, Problem


def sequence_problems(parts: Parts) -> Iterator[Problem]:
    """Yield a problem for every step that sequences do not have, and for what needs them."""
    asking = dict(_asking(parts))
    if not asking:
        return
    yield from _matrix(parts)
    yield from _transport(parts)
    yield from _stacked(parts)
    broken = "prune" in parts.given and parts.prune is None
    if parts.train is None or broken or len(parts.networks) < len(parts.names):
        return
    own = {
        name: steps_of(network, parts.train, parts.prune, parts.folder)
        for name, network in parts.networks.items()
    }
    problem = _different(own)
    if problem is not None:
        yield problem
        return
    known = next(iter(own.values()))
    for path, steps in asking.items():
        for place, step in steps:
            if step not in ("end", *known):
                message = f"no checkpoint '{step}'"
                yield Problem((*path, *place), message, f"there is {', '.join(known)}")


def pruning_problems(parts: Parts) -> Iterator[Problem]:
    """Yield a problem for pruning that has nothing to train, or rewinds to where it ends."""
    trained = {name: network for name, network in parts.networks.items() if network.train}
    if parts.prune is not None and not trained and len(parts.networks) == len(parts.names):
        message = "pruning trains again, and all networks are read from checkpoints"
        yield Problem(("prune",), message, "remove it, or train a network here", key=True)
    if parts.train is None:
        return
    for name, network in trained.items():
        pruning = network.prune or parts.prune
        recipe = network.train.over(parts.train) if network.train else parts.train
        if pruning is not None and pruning.rewind >= recipe.epochs:
            path: Keys = ("networks", name) if network.prune else ()
            message = f"cannot rewind to epoch {pruning.rewind}: the training has {recipe.epochs}"
            yield Problem((*path, "prune", "rewind"), message)


def _asking(parts: Parts) -> Iterator[tuple[Keys, list[tuple[Keys, object]]]]:
    """Yield where sequences are asked for, and for which steps of them."""
    if parts.align is not None:
        if parts.align.at != "end":
            yield ("align", "at"), _placed(parts.align.at)
        if parts.align.apply_to == "sequence":
            yield ("align", "apply_to"), []
    if parts.evaluate is not None and parts.evaluate.matrix is not None:
        matrix = parts.evaluate.matrix
        for field in ("found_at", "applied_at"):
            steps = getattr(matrix, field)
            yield ("evaluate", "matrix", field), [] if steps == "all" else _placed(steps)
    if parts.evaluate is not None and parts.evaluate.mask_transport is not None:
        levels = parts.evaluate.mask_transport.levels
        path: Keys = ("evaluate", "mask_transport", "levels")
        yield path, [] if levels == "all" else _placed(levels)


def _placed(steps: object) -> list[tuple[Keys, object]]:
    """Return steps with their places in a list."""
    if isinstance(steps, Sequence) and not isinstance(steps, str):
        return [((place,), step) for place, step in enumerate(steps)]
    return [((), steps)]


def _stacked(parts: Parts) -> Iterator[Problem]:
    align = parts.align
    if align is not None and isinstance(align.at, tuple) and align.method != "weight_matching":
        message = f"several checkpoints are stacked, which {align.method} cannot do"
        yield Problem(("align", "at"), message, "write method: weight_matching, or one epoch")


def _matrix(parts: Parts) -> Iterator[Problem]:
    if parts.evaluate is None or parts.evaluate.matrix is None:
        return
    path: Keys = ("evaluate", "matrix")
    if "align" not in parts.given:
        message = "a matrix is of permutations, and the spec has no 'align'"
        yield Problem(path, message, "add align: {}", key=True)
    pairs = parts.evaluate.pairs
    if pairs == "none" or (not isinstance(pairs, str) and all(map(of_checkpoints, pairs))):
        message = "a matrix is of pairs of networks, and evaluate has none"
        yield Problem(path, message, "write pairs: all")


def _transport(parts: Parts) -> Iterator[Problem]:
    """Yield what masks that are carried to other networks lack."""
    settings = parts.evaluate.mask_transport if parts.evaluate else None
    if settings is None:
        return
    path: Keys = ("evaluate", "mask_transport")
    if "align" not in parts.given:
        message = "masks are permuted as networks are aligned, and the spec has no 'align'"
        yield Problem(path, message, "add align: {}", key=True)
    if len(parts.names) == 1:
        yield Problem(path, "a mask is carried to another network, and the spec has one", key=True)
    broken = "prune" in parts.given and parts.prune is None
    for name, network in parts.networks.items():
        if not broken and not (network.train and (network.prune or parts.prune)):
            message = f"network '{name}' is not pruned, so that it has no mask"
            hint = "add prune: {levels: 12, rewind: 2} to the spec"
            yield Problem(("networks", name), message, hint, key=True)
    for place, level in _placed(() if settings.levels == "all" else settings.levels):
        if not str(level).startswith(PRUNED):
            message = f"'{level}' is no level of pruning"
            yield Problem((*path, "levels", *place), message, "write, for example, prune3")


def _different(steps: Mapping[str, Sequence[str]]) -> Problem | None:
    """Return the problem of the first network without a sequence, or with another one."""
    first, common = next(iter(steps.items()))
    for name, own in steps.items():
        if not own:
            message = f"network '{name}' is one checkpoint, and this asks for a sequence"
            hint = "add to train, for example: checkpoints: [0, 1, 2, 5, 10]"
            return Problem(("networks", name), message, hint, key=True)
        if own != common:
            message = (
                f"the sequences of '{first}' and '{name}' differ: {', '.join(common)} and "
                f"{', '.join(own)}"
            )
            hint = "all networks need the same checkpoints"
            return Problem(("networks", name), message, hint, key=True)
    return None
