"""Planted permutations of every shipped architecture up to 30 M parameters.

    pytest -m bench tests/benchmarks/test_planted.py

A network against a permuted copy with noise. Where the planted permutation does not come back from
one start, there are more. Where the objective is higher than with the planted permutation, that is
no longer what a method that raises it looks for. What is measured already is not measured again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mergekit_perm as pm
from mergekit_perm import checkpoints, derive, networks, shipped
from mergekit_perm.align.descent import pairwise_objective
from mergekit_perm.align.evidence import matched_tensors
from tests.benchmarks import results

LARGEST = 30_000_000
NOISES = (0.0, 0.3, 1.0)
METHODS = ("weight_matching",)
STARTS = (1, 6)


def planted(name: str, path: Path, method: str, noise: float) -> dict[str, Any] | None:
    written = pm.PermutationSpec.load(path)
    assert written.architecture
    architecture, options = written.architecture, dict(written.options)
    module = networks.build(architecture, options, seed=0)
    if sum(p.numel() for p in module.parameters()) > LARGEST:
        return None
    state = {key: value.clone() for key, value in module.state_dict().items()}
    spec = derive.find(architecture, options, checkpoints.shapes(module)).spec
    generator = torch.Generator().manual_seed(0)
    # A fresh network has channels no one can tell apart: scales of 1, biases of 0.
    for key, value in state.items():
        if key in spec.axes and value.is_floating_point() and value.ndim == 1:
            value += 0.1 * torch.randn(value.shape, generator=generator)
    member = spec.random(generator=np.random.default_rng(1))
    copy = spec.apply(member, state)
    for value in copy.values():
        if value.is_floating_point() and value.numel() > 1:
            deviation = value.std()
            value += noise * deviation * torch.randn(value.shape, generator=generator)
    undone = spec.apply({group: p.inverse() for group, p in member.items()}, copy)
    tensors = matched_tensors(spec, state)
    pair = {"a": state, "b": undone}
    sought = pairwise_objective({n: {t: s[t] for t in tensors} for n, s in pair.items()})
    for starts in STARTS:
        family = pm.align(
            {"a": state, "b": copy}, spec, reference="a", method=method, restarts=starts
        )
        found = family.permutations["b"]
        recovered = sum(found[group] == p.inverse() for group, p in member.items())
        above = recovered < len(member) and family.objective > sought
        if above or recovered == len(member):
            break
    return {
        "architecture": name, "method": method, "noise": noise, "groups": len(member),
        "recovered": recovered, "above": above, "starts": starts, "seconds": family.seconds,
    }  # fmt: skip


@pytest.mark.bench
@pytest.mark.timeout(4 * 3600)
def test_planted_permutations_come_back() -> None:
    torch.set_num_threads(1)
    rows = results.kept("planted")
    done = {(row["architecture"], row["method"], row["noise"]) for row in rows}
    for name, path in shipped.architecture_specs().items():
        for method in METHODS:
            for noise in NOISES:
                if (name, method, noise) not in done and (
                    row := planted(name, path, method, noise)
                ):
                    rows.append(row)
        results.keep("planted", rows)
    lost = [r for r in rows if r["recovered"] < r["groups"] and not r["above"]]
    assert not lost, [(r["architecture"], r["noise"], r["recovered"], r["groups"]) for r in lost]
