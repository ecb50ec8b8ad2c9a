"""Barriers between three networks after every way to align them.

    pytest -m bench tests/benchmarks/test_solver_barriers.py

Ten seed sets for each architecture and width; what is measured already is kept in
results/barriers.json and not measured again.
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

from tests.benchmarks import results, zoo
from tests.benchmarks.zoo import Kind, State

SEED_SETS = 10
WIDTHS = (16, 32, 64, 128, 256)
RESNETS = (16, 32)
EDGE = 25
GRID = 6

Method = Callable[[Kind, Mapping[str, State], int], Mapping[str, State]]


def naive(_kind: Kind, states: Mapping[str, State], _number: int) -> Mapping[str, State]:
    return states


def random(kind: Kind, states: Mapping[str, State], number: int) -> Mapping[str, State]:
    generator, spec = np.random.default_rng(number), kind.spec()
    return {n: spec.apply(spec.random(generator=generator), s) for n, s in states.items()}


def aligned(
    method: str, to: str, kind: Kind, states: Mapping[str, State], number: int, **options: Any
) -> Mapping[str, State]:
    reference = next(iter(states)) if to == "first" else to
    return kind.aligned(states, method, reference=reference, seed=number, **options).states


METHODS: Mapping[str, Method] = {
    "naive": naive,
    "random permutation": random,
    "weight matching to a reference": partial(aligned, "weight_matching", "first", restarts=2),
    "activation matching to a reference": partial(aligned, "activation_matching", "first"),
    "merge_many": partial(aligned, "merge_many", "joint"),
    "frank_wolfe": partial(aligned, "frank_wolfe", "joint"),
    "joint weight matching": partial(aligned, "weight_matching", "joint"),
    "joint activation matching": partial(aligned, "activation_matching", "joint"),
    "straight_through": partial(aligned, "straight_through", "first"),
    "mixed (default)": partial(aligned, "mixed", "joint"),
}


def points(grid: int) -> list[tuple[float, ...]]:
    shares = itertools.product(range(grid + 1), repeat=3)
    return [tuple(k / grid for k in share) for share in shares if sum(share) == grid]


def measured(kind: Kind, number: int, method: str) -> dict[str, Any]:
    states = kind.family(range(3 * number, 3 * number + 3))
    began = time.perf_counter()
    family = METHODS[method](kind, states, number)
    row: dict[str, Any] = {"kind": kind.name, "set": number, "method": method}
    row["seconds"] = time.perf_counter() - began
    row["networks"] = kind.fingerprint(states)
    far = [(0.0, 1 - k / (EDGE - 1), k / (EDGE - 1)) for k in range(EDGE)]
    for split in ("train", "test"):
        row[f"{split} simplex"] = max(kind.barriers(family, points(GRID), split))
        row[f"{split} far edge"] = max(kind.barriers(family, far, split))
    return row


def all_rows() -> results.Rows:
    rows = results.kept("barriers")
    done = {(row["kind"], row["set"], row["method"]) for row in rows}
    kinds = [*map(zoo.mlp, WIDTHS), *map(zoo.resnet, RESNETS)]
    for number, kind in itertools.product(range(SEED_SETS), kinds):
        missing = [m for m in METHODS if (kind.name, number, m) not in done]
        if missing:
            rows += [measured(kind, number, method) for method in missing]
            order = list(itertools.product([k.name for k in kinds], range(SEED_SETS), METHODS))
            rows.sort(key=lambda row: order.index((row["kind"], row["set"], row["method"])))
            results.keep("barriers", rows)
    return rows


def mean(rows: results.Rows, kind: Kind, method: str, measure: str) -> float:
    found = [r[measure] for r in rows if (r["kind"], r["method"]) == (kind.name, method)]
    assert len(found) == SEED_SETS
    return float(np.mean(found))


@pytest.mark.bench
@pytest.mark.timeout(4 * 3600)
def test_the_default_has_the_lowest_barriers() -> None:
    torch.set_num_threads(1)
    rows = all_rows()
    to_one, default = "weight matching to a reference", "mixed (default)"
    for measure in ("train simplex", "train far edge"):
        barrier = partial(mean, rows, measure=measure)
        for kind in map(zoo.mlp, (32, 64, 128)):
            assert barrier(kind, default) <= 0.3 * barrier(kind, to_one)
        for kind in map(zoo.resnet, RESNETS):
            assert barrier(kind, default) <= 0.2 * barrier(kind, to_one)
            by_activations = barrier(kind, "activation matching to a reference")
            assert barrier(kind, default) <= 0.7 * by_activations
    for measure in ("train simplex", "train far edge"):
        for width in (64, 128, 256):
            narrow, wide = zoo.mlp(width // 4), zoo.mlp(width)
            assert mean(rows, narrow, default, measure) <= mean(rows, wide, to_one, measure)


@pytest.mark.bench
@pytest.mark.timeout(4 * 3600)
def test_a_quarter_of_the_width_with_far_more_search() -> None:
    """How far the default's barrier falls where it is above that of four times the width."""
    torch.set_num_threads(1)
    narrow, wide, default = zoo.mlp(16), zoo.mlp(64), "mixed (default)"
    known = {(row["kind"], row["set"], row["method"]): row for row in results.kept("barriers")}
    today = results.CODE["barriers"]
    rows = []
    for number in range(SEED_SETS):
        others = {
            "wide": known[wide.name, number, "weight matching to a reference"],
            "default": known[narrow.name, number, default],
        }
        states = narrow.family(range(3 * number, 3 * number + 3))
        began = time.perf_counter()
        family = aligned("mixed", "joint", narrow, states, number, restarts=32, exchanges=4000)
        seconds = time.perf_counter() - began
        rows.append({
            "set": number,
            **{name: row["train simplex"] for name, row in others.items()},
            "searched": max(narrow.barriers(family, points(GRID), "train")),
            "seconds": seconds,
            # A comparison with figures of other code is of other code.
            "code": today if all(row["code"] == today for row in others.values()) else "",
        })  # fmt: skip
        results.keep("quarter_width", rows)
    assert np.mean([row["searched"] for row in rows]) < np.mean([row["default"] for row in rows])
