"""What only several sections of a run spec together can tell; files are in `file_checks`."""

from __future__ import annotations

from collections.abc import Iterator

from mergekit_perm.spec.alignment import AlignSpec
from mergekit_perm.spec.file_checks import file_problems
from mergekit_perm.spec.merge_checks import merge_problems
from mergekit_perm.spec.models import EvaluateSpec, GateSpec, NetworkTrain
from mergekit_perm.spec.name_checks import name_problem, same_network, unknown_network
from mergekit_perm.spec.parts import Parts
from mergekit_perm.spec.problems import nearest
from mergekit_perm.spec.run_spec import JOINT, chosen_pairs
from mergekit_perm.spec.sequence_checks import pruning_problems, sequence_problems
from mergekit_perm.yaml_document import Keys, Problem


def cross_problems(parts: Parts) -> list[Problem]:
    """Return every problem between the sections of a spec, each once."""
    return list(dict.fromkeys(problem for check in _CHECKS for problem in check(parts)))


def _names(parts: Parts) -> Iterator[Problem]:
    if JOINT in parts.names:
        message = f"the name '{JOINT}' is taken: it means a reference that is no network"
        yield Problem(("networks", JOINT), message, "choose another name", key=True)


def _architectures(parts: Parts) -> Iterator[Problem]:
    if "architecture" in parts.given:
        return
    without = [name for name, network in parts.networks.items() if network.architecture is None]
    if without and len(without) == len(parts.names):
        hint = "add it, for example: architecture: mlp"
        yield Problem((), "the field 'architecture' is missing", hint, key=True)
        return
    for name in without:
        message = "no architecture, neither here nor for the whole run"
        yield Problem(("networks", name), message, "add, for example: architecture: mlp", key=True)


def _one_architecture(parts: Parts) -> Iterator[Problem]:
    """Networks that are aligned, merged or mixed must have the same tensors."""
    used = {name: own.architecture or parts.architecture for name, own in parts.networks.items()}
    known = {name: architecture for name, architecture in used.items() if architecture}
    if not known or not _mixes(parts):
        return
    first, common = next(iter(known.items()))
    for name, architecture in known.items():
        if architecture != common:
            yield Problem(
                ("networks", name, "architecture"),
                f"'{architecture}' cannot be aligned, merged or mixed with the '{common}' "
                f"of network '{first}'",
                "networks of one run have one architecture",
            )


def _mixes(parts: Parts) -> bool:
    evaluate = parts.evaluate
    mixed = evaluate is not None and (evaluate.pairs != "none" or evaluate.simplex is not None)
    return mixed or bool(parts.given & {"align", "merge"})


def _data(parts: Parts) -> Iterator[Problem]:
    if "data" in parts.given:
        return
    hint = "add, for example: data: digits"
    trained = [name for name, network in parts.networks.items() if network.train is not None]
    if trained:
        path = ("networks", trained[0], "train")
        yield Problem(path, "training needs data, and the spec has none", hint, key=True)
    if "evaluate" in parts.given:
        yield Problem(("evaluate",), "measuring needs data, and the spec has none", hint, key=True)
    for index, merge in parts.merge.items():
        if merge.calibrate != "none":
            message = "calibrating looks at data, and the spec has none"
            yield Problem(("merge", index, "calibrate"), message, hint)


def _training(parts: Parts) -> Iterator[Problem]:
    if parts.train is None:
        return
    for name, network in parts.networks.items():
        if network.train is None:
            continue
        recipe = network.train.over(parts.train)
        if recipe.schedule == "step" and not recipe.milestones:
            hint = "add, for example: milestones: [30, 45]"
            path = _set_at(name, network.train, "schedule")
            yield Problem(path, "the schedule 'step' needs milestones", hint)
        late = [epoch for epoch in recipe.checkpoints if epoch > recipe.epochs]
        if late:
            message = f"no checkpoint after epoch {late[0]}: the training has {recipe.epochs}"
            yield Problem(_set_at(name, network.train, "checkpoints"), message)
        if recipe.warmup_epochs > recipe.epochs:
            message = (
                f"a warm-up of {recipe.warmup_epochs:g} epochs is longer than the training, "
                f"which has {recipe.epochs}"
            )
            yield Problem(_set_at(name, network.train, "warmup_epochs"), message)


def _set_at(name: str, own: NetworkTrain, field: str) -> Keys:
    """Return the path at which the value of a training field of network `name` is set."""
    return ("train", field) if getattr(own, field) is None else ("networks", name, "train", field)


def _align(parts: Parts) -> Iterator[Problem]:
    if "align" in parts.given and len(parts.names) == 1:
        yield Problem(("align",), "aligning needs two networks or more, found one", key=True)
    if parts.align is None or not parts.names:
        return
    reference = parts.align.reference
    if reference not in (JOINT, *parts.names):
        yield unknown_network(("align", "reference"), reference, (JOINT, *parts.names))
    if parts.align.needs_data and "data" not in parts.given:
        yield _without_data(parts.align)


def _without_data(align: AlignSpec) -> Problem:
    message = f"{align.method} looks at training data, and the spec has none"
    hint = "add, for example: data: digits; weight_matching looks at weights alone"
    if "objective" in align.options:  # this one decides
        objective = align.options["objective"]
        message = f"the objective '{objective}' looks at training data, and the spec has none"
        hint = "add, for example: data: digits; 'distance' looks at weights alone"
        return Problem(("align", "objective"), message, hint)
    return Problem(("align", "method"), message, hint)


def _pairs(parts: Parts) -> Iterator[Problem]:
    if parts.evaluate is None or isinstance(parts.evaluate.pairs, str):
        return
    path: Keys = ("evaluate", "pairs")
    seen: set[frozenset[str]] = set()
    for index, pair in enumerate(parts.evaluate.pairs):
        for place, name in enumerate(pair):
            if problem := name_problem((*path, index, place), name, parts):
                yield problem
        if same_network(*pair, parts):
            yield Problem((*path, index), f"'{pair[0]}' is paired with itself")
        elif frozenset(pair) in seen:
            yield Problem((*path, index), f"the pair of {pair[0]} and {pair[1]} is listed twice")
        seen.add(frozenset(pair))


def _evaluate(parts: Parts) -> Iterator[Problem]:
    if parts.evaluate is None:
        return
    if parts.evaluate.simplex is not None and len(parts.names) == 1:
        message = "a simplex needs two networks or more, found one"
        yield Problem(("evaluate", "simplex"), message, key=True)
    if parts.evaluate.pairs in ("spokes", "far_edges") and not _broken(parts, "align"):
        found = "is joint" if parts.align else "is missing, as the spec has no 'align'"
        if parts.align is None or parts.align.reference == JOINT:
            message = f"'{parts.evaluate.pairs}' needs a network as align.reference, which {found}"
            yield Problem(("evaluate", "pairs"), message, "write pairs: all, or name a reference")


def _missing(parts: Parts) -> Iterator[Problem]:
    for place, each in parts.missing.items():
        if each.network is not None and each.network not in parts.names:
            yield unknown_network(("missing", place, "network"), each.network, parts.names)
        if each.policy == "intersection" and "evaluate" in parts.given:
            message = "merged networks would lack tensors, so that they could not be measured"
            hint = "remove 'evaluate', or write policy: union"
            yield Problem(("missing", place, "policy"), message, hint)


def _controls(parts: Parts) -> Iterator[Problem]:
    if parts.evaluate is not None and parts.evaluate.controls and "align" not in parts.given:
        message = "controls are of permutations, and the spec has no 'align'"
        yield Problem(("evaluate", "controls"), message, "add align: {}", key=True)


def _composition(parts: Parts) -> Iterator[Problem]:
    settings = parts.evaluate.composition if parts.evaluate else None
    if settings is None:
        return
    path: Keys = ("evaluate", "composition")
    if "align" not in parts.given:
        message = "networks are matched in pairs as in 'align', and the spec has none"
        yield Problem(path, message, "add align: {}", key=True)
    count = len(parts.names)
    for field, needed in (("lengths", 1), ("cycles", 0)):
        for place, length in enumerate(getattr(settings, field) or ()):
            if length + needed > count:
                message = f"this takes {length + needed} networks, and the spec has {count}"
                yield Problem((*path, field, place), message)


def _broken(parts: Parts, section: str) -> bool:
    return section in parts.given and getattr(parts, section) is None


def _gates(parts: Parts) -> Iterator[Problem]:
    for index, gate in parts.gates.items():
        path: Keys = ("gates", index)
        if gate.alignment == "aligned" and "align" not in parts.given:
            hint = "add align: {}, or write alignment: naive"
            message = "this gate is for aligned networks, and the spec has no 'align'"
            yield Problem((*path, "alignment"), message, hint)
        if "evaluate" not in parts.given:
            hint = "add evaluate: {}, which measures all pairs"
            yield Problem(path, "a gate needs a barrier, and the spec has no 'evaluate'", hint)
        yield from _measured(path, gate, parts)


def _measured(path: Keys, gate: GateSpec, parts: Parts) -> Iterator[Problem]:
    """Check that `evaluate` computes the barrier of `gate`."""
    evaluate = parts.evaluate
    if evaluate is None:
        return
    if gate.barrier == "simplex" and evaluate.simplex is None:
        hint = "add simplex: {grid: 6} to evaluate"
        yield Problem((*path, "barrier"), "evaluate has no simplex", hint)
    if gate.barrier == "pair" and _no_pairs(evaluate, parts):
        hint = "write pairs: all in evaluate" if len(parts.names) > 1 else "add a second network"
        yield Problem((*path, "barrier"), "evaluate has no pairs", hint)
    if gate.split not in evaluate.splits:
        near = nearest(gate.split, evaluate.splits)
        hint = near or f"splits in evaluate: {', '.join(evaluate.splits)}"
        yield Problem((*path, "split"), f"evaluate has no split '{gate.split}'", hint)
    if gate.calibration not in evaluate.calibration:
        measured = ", ".join(evaluate.calibration)
        message = f"evaluate has no calibration '{gate.calibration}'"
        yield Problem((*path, "calibration"), message, f"calibration in evaluate: {measured}")


def _no_pairs(evaluate: EvaluateSpec, parts: Parts) -> bool:
    if not parts.names or _broken(parts, "align"):
        return False
    return not chosen_pairs(evaluate, parts.names, parts.align)


_CHECKS = (
    _names,
    _architectures,
    _one_architecture,
    _data,
    _training,
    _align,
    merge_problems,
    _pairs,
    _evaluate,
    _composition,
    _controls,
    _missing,
    _gates,
    sequence_problems,
    pruning_problems,
    file_problems,
)
