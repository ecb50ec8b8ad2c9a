"""What asks for sequences must find them: of every network, of the same epochs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from mergekit_perm.spec.parts import Parts
from mergekit_perm.spec.sequences import epochs_of
from mergekit_perm.yaml_document import Keys, Problem


def sequence_problems(parts: Parts) -> Iterator[Problem]:
    """Yield a problem for every step that sequences do not have, and for what needs them."""
    asking = dict(_asking(parts))
    if not asking:
        return
    yield from _matrix(parts)
    yield from _stacked(parts)
    if parts.train is None or len(parts.networks) < len(parts.names):
        return
    epochs = {
        name: epochs_of(network, parts.train, parts.folder)
        for name, network in parts.networks.items()
    }
    problem = _different(epochs)
    if problem is not None:
        yield problem
        return
    known = next(iter(epochs.values()))
    for path, steps in asking.items():
        for place, step in steps:
            if step != "end" and step not in known:
                there = ", ".join(map(str, known))
                message = f"no checkpoint of epoch {step}"
                yield Problem((*path, *place), message, f"checkpoints are of epochs {there}")


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
    if parts.evaluate.pairs == "none":
        yield Problem(path, "a matrix is of pairs, and evaluate has none", "remove pairs: none")


def _different(epochs: Mapping[str, Sequence[int]]) -> Problem | None:
    """Return the problem of the first network without a sequence, or with another one."""
    first, common = next(iter(epochs.items()))
    for name, own in epochs.items():
        if not own:
            message = f"network '{name}' is one checkpoint, and this asks for a sequence"
            hint = "add to train, for example: checkpoints: [0, 1, 2, 5, 10]"
            return Problem(("networks", name), message, hint, key=True)
        if own != common:
            message = (
                f"the sequences of '{first}' and '{name}' differ: epochs {_words(common)} and "
                f"{_words(own)}"
            )
            hint = "all networks need checkpoints of the same epochs"
            return Problem(("networks", name), message, hint, key=True)
    return None


def _words(epochs: Sequence[int]) -> str:
    return ", ".join(map(str, epochs))
