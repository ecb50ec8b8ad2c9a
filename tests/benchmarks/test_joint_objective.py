"""Five networks: joint weight matching against Frank-Wolfe (C2M3, arXiv 2405.17897).

pytest -m bench tests/benchmarks/test_joint_objective.py
"""

from __future__ import annotations

import time

import pytest
import torch

from tests.benchmarks import results, zoo

SEED_SETS = 10
NETWORKS = 5


@pytest.mark.bench
@pytest.mark.timeout(2 * 3600)
def test_descent_reaches_what_frank_wolfe_does_in_a_fifth_of_its_time() -> None:
    torch.set_num_threads(1)
    rows = []
    for kind in (zoo.mlp(128), zoo.resnet(32)):
        for number in range(SEED_SETS):
            states = kind.family(range(NETWORKS * number, NETWORKS * (number + 1)))
            row: dict[str, object] = {"kind": kind.name, "set": number}
            for key, method in (("matching", "weight_matching"), ("frank_wolfe", "frank_wolfe")):
                began = time.perf_counter()
                row[key] = kind.aligned(states, method, seed=number).objective
                row[f"{key} seconds"] = time.perf_counter() - began
            rows.append(row)
            results.keep("joint_objective", rows)
    for name in {row["kind"] for row in rows}:
        of_kind = [row for row in rows if row["kind"] == name]
        assert sum(row["matching"] >= row["frank_wolfe"] for row in of_kind) >= 8
        ours, theirs = (
            sum(row[f"{key} seconds"] for row in of_kind) for key in ("matching", "frank_wolfe")
        )
        assert ours <= theirs / 5
