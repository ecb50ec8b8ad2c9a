"""The mixtures that a run measures: along paths of pairs, and over the simplex."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from mergekit_perm import evaluate
from mergekit_perm.pipeline.inputs import Inputs
from mergekit_perm.pipeline.keys import Weights


def paths(inputs: Inputs) -> list[evaluate.Path]:
    """Return what barriers are measured on: every pair asked for, then the simplex."""
    spec, settings = inputs.spec, inputs.spec.evaluate
    if settings is None or len(spec.networks) < 2:
        return []
    return evaluate.paths_between(
        tuple(spec.networks),
        spec.pairs,
        reference=spec.align.reference if spec.align else None,
        points=settings.points,
        simplex=settings.simplex.grid if settings.simplex else None,
        samples=settings.simplex.samples if settings.simplex else 0,
        seed=settings.simplex.seed if settings.simplex else 0,
    )


def point_sets(inputs: Inputs) -> dict[str, list[Weights]]:
    """Return the mixtures to measure by what they belong to, each mixture once.

    "networks" are the networks themselves, "a+b" the inside of a path, "simplex" what the grid
    has besides those. Weights are one number per network of the run.
    """
    names = list(inputs.spec.networks)
    if inputs.spec.evaluate is None:
        return {}
    sets = {"networks": [evaluate.vertex(len(names), place) for place in range(len(names))]}
    for path in paths(inputs):
        label = "+".join(path.networks) if path.kind == "pair" else path.kind
        sets[label] = _new(path.points(names), sets)
    return sets


def _new(points: Iterable[Weights], sets: dict[str, list[Weights]]) -> list[Weights]:
    known = set(itertools.chain.from_iterable(sets.values()))
    return [point for point in points if point not in known]
