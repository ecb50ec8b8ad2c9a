"""A pair of ResNet-50 with weakly correlated weights: against the textbook loop, over seeds.

How long either takes, and how high it ends, depends on the random order of its visits.

pytest -m bench tests/benchmarks/test_pair_speed.py
pytest -m gpu tests/benchmarks/test_pair_speed.py
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

import mergekit_perm as pm
from mergekit_perm import checkpoints, derive, networks
from mergekit_perm.align.descent import pairwise_objective
from mergekit_perm.align.evidence import matched_tensors
from mergekit_perm.align.weight_matching import weight_matching
from mergekit_perm.permutation import Indices
from tests.benchmarks import results, textbook

State = dict[str, torch.Tensor]

THREADS = 2
SEEDS = range(5)


def pair(
    correlation: float,
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], pm.PermutationSpec]:
    """Return a network, and a permuted one whose weights are correlated with its so much."""
    module = networks.build("resnet50", {}, seed=0)
    ours = {name: value.clone() for name, value in module.state_dict().items()}
    spec = derive.find("resnet50", {}, checkpoints.shapes(module)).spec
    generator = torch.Generator().manual_seed(1)
    theirs = {}
    for name, value in ours.items():
        theirs[name] = value.clone()
        if value.ndim > 1:
            noise = torch.randn(value.shape, generator=generator) * value.std()
            theirs[name] = correlation * value + (1 - correlation**2) ** 0.5 * noise
    planted = spec.random(generator=np.random.default_rng(1))
    return ours, spec.apply(planted, theirs), spec


def objective(
    ours: State, theirs: State, spec: pm.PermutationSpec, moves: dict[str, Indices]
) -> float:
    """Return the inner product of the weights once `theirs` has moved."""
    tensors, moved = matched_tensors(spec, ours), spec.act(moves, theirs)
    return pairwise_objective(
        {name: {t: s[t] for t in tensors} for name, s in (("a", ours), ("b", moved))}
    )


def textbook_run(
    ours: State, theirs: State, spec: pm.PermutationSpec, seed: int
) -> dict[str, Indices]:
    return textbook.weight_matching(ours, theirs, spec, seed=seed)[0]


def ours_run(
    ours: State,
    theirs: State,
    spec: pm.PermutationSpec,
    seed: int,
    **options: Any,
) -> dict[str, Indices]:
    pair = {"a": ours, "b": theirs}
    return weight_matching(pair, spec, reference="a", seed=seed, **options).members["b"]


SEARCHES: Mapping[str, Callable[..., dict[str, Indices]]] = {
    "the textbook loop": textbook_run,
    "weight_matching": ours_run,
    "weight_matching, restarts: 2": partial(ours_run, restarts=2),
    "weight_matching, order: forward": partial(ours_run, order="forward"),
}


def compared(device: torch.device) -> results.Rows:
    """Return time and objective of the loop and of ours by seed, with the weights on `device`."""
    rows = []
    for correlation in (0.0, 0.05, 0.1):
        ours, theirs, spec = pair(correlation)
        ours, theirs = ({k: v.to(device) for k, v in state.items()} for state in (ours, theirs))
        for seed, (key, work) in itertools.product(SEEDS, SEARCHES.items()):
            began = time.perf_counter()
            moves = work(ours, theirs, spec, seed)
            seconds = time.perf_counter() - began
            reached = objective(ours, theirs, spec, moves)
            row = {"correlation": correlation, "seed": seed, "search": key}
            rows.append(row | {"seconds": seconds, "objective": reached})
    return rows


def check(rows: results.Rows, times: float) -> None:
    """Assert that ours is `times` as fast on average where there is something to find."""
    for correlation in (0.05, 0.1):
        seconds, heights = (
            {
                search: np.mean([r[key] for r in rows if (r["search"], r["correlation"]) == pair])
                for search in SEARCHES
                for pair in [(search, correlation)]
            }
            for key in ("seconds", "objective")
        )
        assert heights["weight_matching"] >= heights["the textbook loop"]
        assert seconds["the textbook loop"] >= times * seconds["weight_matching"]


@pytest.mark.bench
@pytest.mark.timeout(3600)
def test_a_pair_is_matched_three_times_as_fast_at_no_lower_objective() -> None:
    torch.set_num_threads(THREADS)
    rows = compared(torch.device("cpu"))
    results.keep("pair_speed", rows)
    check(rows, times=3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.timeout(3600)
def test_a_pair_on_an_accelerator() -> None:
    torch.set_num_threads(THREADS)
    device = torch.device("cuda")
    ours, theirs, spec = pair(0.1)
    pair_there = {"a": ours, "b": theirs}
    weight_matching(pair_there, spec, reference="a", device=device, max_sweeps=1)  # warm
    rows = compared(device)
    results.keep("pair_speed_gpu", rows, "cuda")
    check(rows, times=1)
