"""Permutations composed along paths of networks: each matched to the next, on to the last.

Matched in pairs, networks need not agree on where a neuron belongs: composed along a -> b -> c, a's
permutation onto c is worse than one found for a and c, and around a cycle it is not the identity
(arXiv 2404.06498, section 5). Beside it are the same ends as the run itself has aligned them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial, reduce
from typing import Any

import numpy as np

from mergekit_perm import evaluate
from mergekit_perm.alignment import Alignment
from mergekit_perm.pipeline.aligning import keep_permutations, match_pair
from mergekit_perm.pipeline.inputs import Inputs, calibrations, digest
from mergekit_perm.pipeline.keys import (
    found_at,
    matching_key,
    measuring,
    networks_key,
    permutations_key,
)
from mergekit_perm.pipeline.pair_barriers import Place, pair_barriers
from mergekit_perm.pipeline.stage import Stage
from mergekit_perm.pipeline.workshop import Result, Workshop, network_file, permutation_file
from mergekit_perm.spec.models import CompositionSpec

Networks = tuple[str, ...]

# Where a spec does not say: paths of up to so many matchings, and cycles of so many networks.
_LONGEST = 3


def composition_stages(inputs: Inputs) -> Iterator[Stage]:
    """Yield the stages that match pairs, and that measure barriers along paths and cycles."""
    settings = _settings(inputs)
    if settings is None:
        return
    chosen = routes(list(inputs.spec.networks), settings)
    for one, other in _steps(chosen):
        yield Stage(
            f"match/{one}+{other}",
            f"match {one} to {other}",
            matching_key(inputs, one, other),
            (permutation_file(f"{one}+{other}"),),
            partial(_match, one, other),
        )
    for calibration in calibrations(inputs):
        family = [networks_key(inputs), permutations_key(inputs, found_at(inputs))]
        place = _place(inputs, digest(family, chosen, settings.points), calibration)
        title = f"evaluating {len(chosen)} paths and cycles of matched networks"
        title += "" if calibration == "none" else f", {calibration}"
        work = partial(_measure, place, calibration, chosen, title)
        yield Stage(place.stage, title, place.key, (), work)


def routes(names: Sequence[str], settings: CompositionSpec) -> list[Networks]:
    """Return the paths and cycles to measure: of a length, all there are or random ones.

    A path of length L has L matchings and L + 1 networks; a cycle ends where it began.
    """
    generator = np.random.default_rng(settings.seed)
    lengths, cycles = settings.lengths, settings.cycles
    if lengths is None:
        lengths = tuple(range(1, min(_LONGEST, len(names) - 1) + 1))
    if cycles is None:
        cycles = (_LONGEST,) if len(names) >= _LONGEST else ()
    found: list[Networks] = []
    for length in lengths:
        found += _some(list(itertools.permutations(names, length + 1)), settings.paths, generator)
    for count in cycles:
        around = [cycle for cycle in itertools.permutations(names, count) if cycle[0] == min(cycle)]
        chosen = _some(around, settings.paths, generator)
        found += [(*cycle, cycle[0]) for cycle in chosen]
    return found


def count_points(inputs: Inputs) -> int:
    """Return how many mixtures the paths and cycles take: of a path those of the run's too."""
    settings = _settings(inputs)
    if settings is None:
        return 0
    chosen = routes(list(inputs.spec.networks), settings)
    curves = sum(1 if route[0] == route[-1] else 2 for route in chosen)
    return len(calibrations(inputs)) * curves * settings.points


def compositions(inputs: Inputs, results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the barrier of every path and cycle, calibration, split and metric."""
    if _settings(inputs) is None:
        return []
    return [
        {
            "networks": route["networks"], "calibration": calibration, "split": split,
            "metric": metric, "fixed": route["fixed"],
            "barrier": route["composed"][split][metric],
            "aligned": route["aligned"] and route["aligned"][split][metric],
        }
        for calibration in calibrations(inputs)
        for route in results[_name(calibration)]["routes"]
        for split, metric in itertools.product(inputs.splits, evaluate.METRICS)
    ]  # fmt: skip


def _settings(inputs: Inputs) -> CompositionSpec | None:
    evaluating, aligning = inputs.spec.evaluate, inputs.permutations
    return None if evaluating is None or aligning is None else evaluating.composition


def _some(all_of: list[Networks], count: int, generator: np.random.Generator) -> list[Networks]:
    if len(all_of) <= count:
        return all_of
    return [all_of[place] for place in sorted(generator.permutation(len(all_of))[:count])]


def _steps(chosen: Sequence[Networks]) -> list[tuple[str, str]]:
    """Return the pairs that are matched along `chosen`, each once."""
    return sorted({step for route in chosen for step in itertools.pairwise(route)})


def _name(calibration: str) -> str:
    return f"composition/{calibration}"


def _place(inputs: Inputs, which: str, calibration: str) -> Place:
    """Return where paths and cycles are measured, all of which have the key `which`."""
    (stage, key), beside = measuring(inputs, which, calibration, (), _name)
    return Place(stage, key, (), beside)


# ----------------------------------------------------------------------------------------- work


def _match(one: str, other: str, shop: Workshop) -> Result:
    """Find the permutation of network `one` that matches it to network `other`."""
    found = match_pair(one, other, shop)
    keep_permutations([one], found, lambda name: permutation_file(f"{name}+{other}"), shop)
    return {"cut_off": found.cut_off}


def _measure(
    place: Place, calibration: str, chosen: Sequence[Networks], task: str, shop: Workshop
) -> Result:
    """Measure every path and cycle, and keep each as soon as it is measured."""
    done_before = shop.folder.kept_points(place.stage, place.key)
    known = {tuple(kept["networks"]): kept for kept in done_before}
    for done, route in enumerate(chosen):
        shop.progress(task, done, len(chosen))
        if route not in known:
            known[route] = _measured(route, place, calibration, shop)
            shop.folder.keep_point(place.stage, place.key, known[route])
    shop.progress(task, len(chosen), len(chosen))
    return {"routes": [known[route] for route in chosen]}


def _measured(route: Networks, place: Place, calibration: str, shop: Workshop) -> Result:
    settings = _settings(shop.inputs)
    points = settings.points if settings else 2
    steps = [_alignment(f"{one}+{other}", shop) for one, other in itertools.pairwise(route)]
    composed = reduce(lambda before, after: before @ after, steps)
    first, last = (shop.read(network_file(name)) for name in (route[0], route[-1]))
    ends = {"composed": {"first": dict(composed.apply(first)), "last": last}}
    is_cycle = route[0] == route[-1]
    if not is_cycle:
        own = [_alignment(name, shop) for name in (route[0], route[-1])]
        moved = [dict(alignment.apply(s)) for alignment, s in zip(own, (first, last), strict=True)]
        ends["aligned"] = dict(zip(("first", "last"), moved, strict=True))
    heights = {
        kind: pair_barriers(replace(place, which=(route, kind)), pair, points, calibration, shop)
        for kind, pair in ends.items()
    }
    fixed = composed.fixed if is_cycle else None
    return {"networks": list(route), "fixed": fixed, "aligned": None, **heights}


def _alignment(name: str, shop: Workshop) -> Alignment:
    return Alignment.load(shop.folder.path / permutation_file(name))
