"""Mask transport: the mask of one network, permuted onto another, which is trained under it.

Masks that are compared keep as many weights, and the network is trained from where its own pruning
rewinds it, in the order of examples that it was trained in (arXiv 2404.06498; arXiv 2505.05143).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from mergekit_perm import train
from mergekit_perm.alignment import Alignment
from mergekit_perm.pipeline.aligning import permutation_spec
from mergekit_perm.pipeline.checkpoint_alignments import alignment_at
from mergekit_perm.pipeline.inputs import Inputs, digest
from mergekit_perm.pipeline.keys import (
    VERSION,
    evaluation_key,
    found_at,
    networks_key,
    permutations_key,
)
from mergekit_perm.pipeline.pruning import prunable, rewound, train_masked
from mergekit_perm.pipeline.stage import Stage
from mergekit_perm.pipeline.workshop import (
    Result,
    State,
    Workshop,
    mask_file,
    network_file,
    permutation_file,
)
from mergekit_perm.spec.models import MaskTransportSpec

Pair = tuple[str, str]


def transport_stages(inputs: Inputs) -> Iterator[Stage]:
    """Yield, for every level and kind of mask, the stage that trains networks under it."""
    settings = _settings(inputs)
    if settings is None:
        return
    for level, kind in itertools.product(inputs.spec.chosen_levels(settings.levels), _MASKS):
        if kind == BY_LEVEL and not settings.level_permutations:
            continue
        name, pairs = _name(level, kind), _pairs(inputs, kind)
        key = evaluation_key(inputs, _key(inputs, level, kind, settings), "none", ())
        count = len(pairs) * settings.trainings
        title = f"train under masks of {level}, {kind}: {count} trainings"
        files = tuple(_moved_file(pair, level) for pair in pairs) if kind == MOVED else ()
        work = partial(_train, name, key, level, kind, pairs, settings.trainings)
        yield Stage(name, title, key, files, work)


def transported(inputs: Inputs, results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return how networks do that were trained under a mask, mask by mask."""
    settings = _settings(inputs)
    if settings is None:
        return []
    found = []
    for level, kind in itertools.product(inputs.spec.chosen_levels(settings.levels), _MASKS):
        result = results.get(_name(level, kind))
        for each in result["masks"] if result else ():
            found.append({"mask": kind, "level": level, **each})
    return found


def _settings(inputs: Inputs) -> MaskTransportSpec | None:
    settings = inputs.spec.evaluate
    return None if settings is None or inputs.permutations is None else settings.mask_transport


def _name(level: str, kind: str) -> str:
    return f"masks/{level}/{kind.replace(' ', '-')}"


def _pairs(inputs: Inputs, kind: str) -> list[Pair]:
    """Return whose mask is trained on which network: on every other, or on its own."""
    names = list(inputs.spec.networks)
    if kind in _OF_ITSELF:
        return [(name, name) for name in names]
    return list(itertools.permutations(names, 2))


def _key(inputs: Inputs, level: str, kind: str, settings: MaskTransportSpec) -> str:
    steps = [level] if kind == BY_LEVEL else found_at(inputs)
    moved = permutations_key(inputs, steps) if kind in (MOVED, BY_LEVEL) else None
    return digest(VERSION, "masks", networks_key(inputs, level), kind, moved, settings.trainings)


def _moved_file(pair: Pair, level: str) -> str:
    return mask_file("+".join(pair), level)


# ----------------------------------------------------------------------------------------- work


def _train(
    name: str,
    key: str,
    level: str,
    kind: str,
    pairs: Sequence[Pair],
    trainings: int,
    shop: Workshop,
) -> Result:
    """Train every network under its masks, and keep each result as soon as it is there."""
    known = {(*kept["pair"], kept["training"]): kept for kept in shop.folder.kept_points(name, key)}
    found = []
    for pair in pairs:
        results = []
        for training in range(trainings):
            asked = _Asked(*pair, level, training)
            mask = _MASKS[kind](asked, shop)
            if kind == MOVED and training == 0:
                shop.write(_moved_file(pair, level), mask, content=key)
            if (*pair, training) not in known:
                metrics = _metrics(_trained(asked, kind, mask, shop), shop)
                kept = {"pair": pair, "training": training, "metrics": metrics}
                known[(*pair, training)] = kept
                shop.folder.keep_point(name, key, kept)
            results.append(known[(*pair, training)]["metrics"])
        source, target = pair
        share = train.kept_share(mask)
        found.append({"source": source, "target": target, "kept": share, "trainings": results})
    return {"masks": found}


@dataclass(frozen=True, slots=True)
class _Asked:
    """A mask that is asked for: whose, on which network, of which level, for which training."""

    source: str
    target: str
    level: str
    training: int


def _trained(asked: _Asked, kind: str, mask: train.Mask, shop: Workshop) -> State:
    if kind == OWN and asked.training == 0:  # that is what pruning has trained
        return shop.read(network_file(f"{asked.target}@{asked.level}"))
    task = f"training {asked.target}, {kind} mask of {asked.source} at {asked.level}"
    return train_masked(asked.target, mask, task, shop, training=asked.training)


def _metrics(state: State, shop: Workshop) -> Result:
    # Every network is another one: nothing of an engine before serves the next.
    engine = shop.engine_for(object(), lambda: {"trained": state}, "none")
    measured = engine.measure((1.0,))
    return {split: {"loss": m.loss, "error": m.error, "n": m.n} for split, m in measured.items()}


def _raw(asked: _Asked, shop: Workshop) -> train.Mask:
    return shop.read(mask_file(asked.source, asked.level))


def _moved(asked: _Asked, shop: Workshop) -> train.Mask:
    own = (permutation_file(name) for name in (asked.source, asked.target))
    return carried(_raw(asked, shop), *(Alignment.load(shop.folder.path / file) for file in own))


def _by_level(asked: _Asked, shop: Workshop) -> train.Mask:
    names = asked.source, asked.target
    return carried(_raw(asked, shop), *(alignment_at(name, asked.level, shop) for name in names))


def carried(mask: train.Mask, source: Alignment, target: Alignment) -> train.Mask:
    """Return the mask of one network where another has the neurons that match its own.

    Args:
        mask: of the one.
        source: its alignment to a reference.
        target: that of the other, to the same: the way is along the first and back along this.
    """
    return dict((source @ target.inverse()).apply(mask))


def _at_random(asked: _Asked, shop: Workshop) -> train.Mask:
    spec, names = permutation_spec(shop), list(shop.inputs.spec.networks)
    seed = [names.index(asked.source), names.index(asked.target), asked.training]
    moved = spec.random(generator=np.random.default_rng(seed))
    return dict(Alignment(moved, spec, asked.source).apply(_raw(asked, shop)))


def _one_shot(asked: _Asked, shop: Workshop) -> train.Mask:
    """Return the mask of the largest weights where pruning rewinds to, as many as at the level."""
    start = rewound(asked.target, shop)
    whole = train.whole_mask(start, prunable(asked.target, shop))
    gone = train.kept_count(whole) - train.kept_count(_raw(asked, shop))
    return train.without_lowest(start, whole, gone)


OWN, MOVED, BY_LEVEL = "own", "permuted", "permuted at its level"
_MASKS: Mapping[str, Callable[[_Asked, Workshop], train.Mask]] = {
    OWN: _raw,
    MOVED: _moved,
    BY_LEVEL: _by_level,
    "raw": _raw,
    "random": _at_random,
    "one-shot": _one_shot,
}
_OF_ITSELF = (OWN, "one-shot")
