"""What plans say of memory against what runs take: networks of ResNet-50 merged, and aligned first.

pytest -m bench tests/benchmarks/test_run_memory.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mergekit_perm import checkpoints, derive, networks
from tests.benchmarks import results

LINEAR = "method: linear"
TRIMMED = "base_model: n0, parameters: {density: 0.5}"
CASES = {
    "2 merged": (2, LINEAR, ""),
    "8 merged": (8, LINEAR, ""),
    "32 merged": (32, LINEAR, ""),
    "50 merged": (50, LINEAR, ""),
    "10 merged by ties": (10, f"method: ties, {TRIMMED}", ""),
    "6 merged by della": (6, f"method: della, {TRIMMED}", ""),
    "4 merged by karcher": (4, "method: karcher", ""),
    "2 aligned to one, merged": (
        2, LINEAR, "align: {reference: n0, method: weight_matching, max_sweeps: 2}"
    ),
    "4 aligned jointly, merged": (
        4, LINEAR, "align: {reference: joint, method: weight_matching, max_sweeps: 2, restarts: 1}"
    ),
}  # fmt: skip


def row(case: str, folder: Path) -> dict[str, Any]:
    count, recipe, align = CASES[case]
    named = (f"n{i}: {{checkpoint: n{i % 4}.safetensors}}" for i in range(count))
    (folder / "spec.yaml").write_text(
        "format: perm-merge/run@1\nname: memory\narchitecture: resnet50\n"
        f"networks: {{{', '.join(named)}}}\n{align}\nmerge: [{{name: m, {recipe}}}]\n"
    )
    sizes = [t.nbytes for t in checkpoints.map_state(folder / "n0.safetensors").values()]
    environment = {
        **os.environ, "PERM_MERGE_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    spec, out = str(folder / "spec.yaml"), str(folder / case.replace(" ", "-"))
    command = Path(sys.executable).with_name("perm-merge")
    # What a plan has to build it remembers, so that the run does without.
    subprocess.run([command, "plan", spec], check=True, env=environment, capture_output=True)
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.run_memory", spec, out],
        check=True, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    bound = sum(sizes) + 3 * max(sizes)
    return {
        "case": case, **json.loads(done.stdout), "result and three tensors MiB": bound / 2**20,
    }  # fmt: skip


@pytest.mark.bench
@pytest.mark.timeout(3600)
def test_plans_say_what_runs_take_within_a_quarter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERM_MERGE_CACHE", str(tmp_path / "cache"))
    shapes = checkpoints.shapes(networks.skeleton("resnet50"))
    spec = derive.find("resnet50", {}, shapes).spec
    # Proving builds networks, once; what is measured is a run after that.
    derive.proven(spec, "resnet50", {}, partial(derive.probe, "resnet50", {}, spec))
    for seed in range(4):
        state = networks.build("resnet50", {}, seed=seed).state_dict()
        checkpoints.save(tmp_path / f"n{seed}.safetensors", state)
    rows = [row(case, tmp_path) for case in CASES]
    results.keep("run_memory", rows)
    for each in rows:
        assert each["planned MiB"] == pytest.approx(each["MiB"], rel=0.25), each
        if CASES[each["case"]][1:] == (LINEAR, ""):
            bound = each["result and three tensors MiB"] + each["interpreter MiB"]
            assert each["MiB"] < bound, each
