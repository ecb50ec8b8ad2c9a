"""Controls: what a barrier is where the answer is known.

Permuted at random, networks are as far apart as they are without permutation, or further. A copy
of a network, permuted at random, is that network: alignment must find its neurons again, and then
there is no barrier (arXiv 2110.06296 calls the population of such copies S').
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

from mergekit_perm import evaluate
from mergekit_perm.alignment import Alignment
from mergekit_perm.pipeline.aligning import match, permutation_spec
from mergekit_perm.pipeline.inputs import Inputs, calibrations, digest
from mergekit_perm.pipeline.keys import matching_key, measuring, networks_key
from mergekit_perm.pipeline.pair_barriers import Place, pair_barriers
from mergekit_perm.pipeline.stage import Stage
from mergekit_perm.pipeline.stages import Beside
from mergekit_perm.pipeline.workshop import Result, Workshop, network_file
from mergekit_perm.spec.run_spec import JOINT

RANDOM, PLANTED = "random_permutation", "planted_copy"

# What they are called in reports.
_LABELS = {RANDOM: "random permutation", PLANTED: "planted copy"}


def control_stages(inputs: Inputs) -> Iterator[Stage]:
    """Yield the stages that measure the controls that the spec asks for."""
    for kind, calibration in itertools.product(_kinds(inputs), calibrations(inputs)):
        which = digest(networks_key(inputs), _points(inputs))
        if kind == PLANTED:
            which = digest(which, matching_key(inputs, _planted(inputs), _planted(inputs)))
        title = f"evaluating {_LABELS[kind]}"
        title += "" if calibration == "none" else f", {calibration}"
        (name, key), beside = measuring(inputs, which, calibration, (), partial(_name, kind))
        yield Stage(name, title, key, (), partial(_WORK[kind], name, key, calibration, beside))


def controls(inputs: Inputs, results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the barrier of every control, pair, calibration, split and metric."""
    return [
        {
            "kind": _LABELS[kind], "networks": pair["networks"], "calibration": calibration,
            "split": split, "metric": metric, "barrier": pair["barriers"][split][metric],
            "found": pair["found"],
        }
        for kind, calibration in itertools.product(_kinds(inputs), calibrations(inputs))
        for pair in results[_name(kind, calibration)]["pairs"]
        for split, metric in itertools.product(inputs.splits, evaluate.METRICS)
    ]  # fmt: skip


def count_points(inputs: Inputs) -> int:
    """Return how many mixtures the controls take."""
    pairs = {RANDOM: len(inputs.spec.pairs), PLANTED: 1}
    count = sum(pairs[kind] for kind in _kinds(inputs))
    return count * len(calibrations(inputs)) * _points(inputs)


def _kinds(inputs: Inputs) -> tuple[str, ...]:
    settings = inputs.spec.evaluate
    return () if settings is None or inputs.permutations is None else settings.controls


def _points(inputs: Inputs) -> int:
    settings = inputs.spec.evaluate
    return settings.points if settings else 0


def _name(kind: str, calibration: str) -> str:
    return f"control/{calibration}/{kind}"


def _planted(inputs: Inputs) -> str:
    """Return the network that is copied: the reference, or the first."""
    align = inputs.spec.align
    first = next(iter(inputs.spec.networks))
    return first if align is None or align.reference == JOINT else align.reference


# ----------------------------------------------------------------------------------------- work


def _random(name: str, key: str, calibration: str, beside: Beside, shop: Workshop) -> Result:
    """Measure all pairs, the second of each permuted at random."""
    pairs = shop.inputs.spec.pairs
    found = []
    for done, (one, other) in enumerate(pairs):
        shop.progress(f"evaluating {_LABELS[RANDOM]}", done, len(pairs))
        moved = _at_random(other, done, shop).apply(shop.read(network_file(other)))
        pair = {one: shop.read(network_file(one)), other: dict(moved)}
        place = Place(name, key, (one, other), beside)
        found.append(_measured(place, pair, calibration, None, shop))
    shop.progress(f"evaluating {_LABELS[RANDOM]}", len(pairs), len(pairs))
    return {"pairs": found}


def _plant(name: str, key: str, calibration: str, beside: Beside, shop: Workshop) -> Result:
    """Align a permuted copy of a network to it, and measure what is between them."""
    own, copy = _planted(shop.inputs), "copy"
    network = shop.read(network_file(own))
    planted = _at_random(own, 0, shop)
    pair = {own: network, copy: dict(planted.apply(network))}
    aligned = match(pair, own, shop)
    back = planted @ Alignment(aligned.permutations[copy], permutation_spec(shop))
    pair[copy] = aligned.states[copy]
    place = Place(name, key, (own,), beside)
    return {"pairs": [_measured(place, pair, calibration, back.fixed, shop)]}


_WORK = {RANDOM: _random, PLANTED: _plant}


def _at_random(name: str, seed: int, shop: Workshop) -> Alignment:
    spec = permutation_spec(shop)
    return Alignment(spec.random(generator=np.random.default_rng(seed)), spec, name)


def _measured(
    place: Place,
    pair: dict[str, dict[str, torch.Tensor]],
    calibration: str,
    found: float | None,
    shop: Workshop,
) -> Result:
    heights = pair_barriers(place, pair, _points(shop.inputs), calibration, shop)
    return {"networks": list(place.which), "barriers": heights, "found": found}
