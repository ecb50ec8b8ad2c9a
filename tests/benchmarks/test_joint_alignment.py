"""Joint alignment against alignment to one network, on the networks of the shipped run specs.

    pytest -m bench tests/benchmarks/test_joint_alignment.py

trains three networks for each of ten seed sets, and writes the table to JOINT.md beside this file.
The far edge is the pair that does not contain the reference: b and c, after alignment to a. Its
barrier is that of the training loss over 25 points.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import mergekit_perm as pm
from mergekit_perm import checkpoints, data, derive, networks, shipped, spec, train

SEED_SETS = 10
TABLE = Path(__file__).with_name("JOINT.md")

Family = dict[str, dict[str, torch.Tensor]]


def trained(run: spec.RunSpec, digits: data.Data, seeds: range) -> Family:
    architecture, options = run.architecture_of("a"), run.options_of("a")
    family = {}
    for name, seed in zip("abc", seeds, strict=True):
        module = networks.build(architecture, options, seed=seed)
        recipe = train.Recipe(**run.training("a").keywords())
        train.fit(module, digits.splits["train"], recipe, seed=seed)
        family[name] = {k: v.detach().clone() for k, v in module.state_dict().items()}
    return family


def far_edge(run: spec.RunSpec, digits: data.Data, states: Family, calibration: str) -> float:
    module = networks.build(run.architecture_of("a"), run.options_of("a"), seed=0)
    barriers = pm.barrier(
        states, module, digits, pairs=[("b", "c")], splits=["train"], calibration=calibration,
        device="cpu",
    )  # fmt: skip
    return next(barrier.barrier for barrier in barriers if barrier.metric == "loss")


def rows(name: str, calibration: str) -> list[tuple[float, float, float, float]]:
    """Return objective and far edge, to one network and joint, for every seed set."""
    run = spec.load(shipped.run_specs()[name])
    digits = data.load("digits")
    result = []
    for number in range(SEED_SETS):
        family = trained(run, digits, range(3 * number, 3 * number + 3))
        shapes = checkpoints.shapes(family["a"])
        permutations = derive.find(run.architecture_of("a"), run.options_of("a"), shapes).spec
        found = [pm.align(family, permutations, reference=r) for r in ("a", "joint")]
        edges = [far_edge(run, digits, each.states, calibration) for each in found]
        result.append((found[0].objective, found[1].objective, edges[0], edges[1]))
    return result


def table(name: str, calibration: str, results: list[tuple[float, float, float, float]]) -> str:
    lower = sum(joint < one for _, _, one, joint in results)
    lines = [
        f"## {name}, calibration {calibration}",
        "",
        f"The far edge is lower with `joint` in {lower} of {len(results)} seed sets.",
        "",
        "| seeds | objective, to a | objective, joint | far edge, to a | far edge, joint |",
        "|---|---|---|---|---|",
    ]
    for number, (one, joint, edge_one, edge_joint) in enumerate(results):
        seeds = f"{3 * number}-{3 * number + 2}"
        lines.append(f"| {seeds} | {one:.1f} | {joint:.1f} | {edge_one:.4f} | {edge_joint:.4f} |")
    return "\n".join(lines) + "\n"


@pytest.mark.bench
@pytest.mark.timeout(3600)
def test_joint_alignment_beats_alignment_to_one_network() -> None:
    torch.set_num_threads(2)
    cases = {"quickstart": "none", "resnet_digits": "batch_norm"}
    results = {name: rows(name, calibration) for name, calibration in cases.items()}
    head = [
        "# Joint alignment against alignment to one network",
        "",
        "Made by `pytest -m bench tests/benchmarks/test_joint_alignment.py`"
        f" on a CPU, 2 threads, torch {torch.__version__.partition('+')[0]}.",
        "Networks and training are those of the shipped run spec; the objective is the sum of all",
        "pairwise inner products of the weights; the far edge is the barrier of the training loss",
        "between b and c.",
        "",
    ]
    tables = [table(name, cases[name], found) for name, found in results.items()]
    TABLE.write_text("\n".join(head) + "\n" + "\n".join(tables))
    for found in results.values():
        assert all(joint >= one for one, joint, _, _ in found)
        assert sum(joint < one for _, _, one, joint in found) >= 8
