"""Ten ResNet-50 checkpoints merged by both programs: time and own memory, imports counted.

export PERM_MERGE_MERGEKIT=/path/to/bin/mergekit-pytorch
pytest -m bench tests/benchmarks/test_merge_speed.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from mergekit_perm import networks
from tests.benchmarks import results

COMMAND = os.environ.get("PERM_MERGE_MERGEKIT", "")
COUNT = 10
ROUNDS = 3
# Recipe, the density that task vectors are trimmed to, and the most of mergekit's time that ours
# may take; None is only told of, as what is not trimmed is hardly TIES.
CASES = (("linear", None, 0.8), ("ties", 0.5, 0.2), ("ties", 1.0, None))


_STATISTICS = ("num_batches_tracked", "running_var", "running_mean")


def write_networks(folder: Path) -> list[str]:
    """Write ten networks near one; mergekit refuses those whose counters differ, so they do not."""
    base = networks.build("resnet50", {}, seed=0).state_dict()
    names = []
    for seed in range(COUNT):
        generator = torch.Generator().manual_seed(seed)
        state = {
            name: value + 0.01 * torch.randn(value.shape, generator=generator).abs()
            if value.is_floating_point()
            else value
            for name, value in base.items()
        }
        names.append(f"n{seed}")
        save_file(state, folder / f"n{seed}.safetensors")
    return names


def ours(method: str, density: float | None, names: list[str], out: str) -> list[str]:
    base = []
    if density is not None:
        base = ["--base-model", names[0], "--parameter", f"density={density}"]
    return [
        str(Path(sys.executable).with_name("perm-merge")), "merge",
        *(f"{name}.safetensors" for name in names),
        "--architecture", "resnet50", "--no-align", "--method", method, *base, "-o", out,
    ]  # fmt: skip


def theirs(
    method: str, density: float | None, names: list[str], out: str, folder: Path
) -> list[str]:
    base = None if density is None else names[0]
    parameters = {"weight": 1.0} | ({} if density is None else {"density": density})
    models = [
        {"model": str(folder / f"{name}.safetensors"), "parameters": parameters}
        for name in names
        if name != base
    ]
    config = {"merge_method": method, "models": models, "dtype": "float32"}
    if base is not None:
        config["base_model"] = str(folder / f"{base}.safetensors")
    (folder / f"{out}.yml").write_text(yaml.safe_dump(config))
    return [COMMAND, f"{out}.yml", out]


def measured(command: list[str], folder: Path, cache: str = "cache") -> tuple[float, float]:
    """Return the seconds that a command takes, and its most memory of its own, in MiB."""
    began = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "2", "PERM_MERGE_CACHE": str(folder / cache)},
    )  # fmt: skip
    peak = [0.0]

    def watch() -> None:
        while process.poll() is None:
            peak[0] = max(peak[0], own_memory(process.pid))
            time.sleep(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    seconds = time.perf_counter() - began
    watcher.join()
    assert code == 0, command
    return seconds, peak[0]


def own_memory(process: int) -> float:
    """Return the memory of a process that is no part of a file, in MiB."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    found = [line for line in lines if line.startswith("RssAnon")]
    return int(found[0].split()[1]) / 1024 if found else 0.0


@pytest.mark.bench
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not COMMAND, reason="PERM_MERGE_MERGEKIT names no mergekit-pytorch")
def test_ten_networks_are_merged_sooner_than_by_mergekit(tmp_path: Path) -> None:
    names = write_networks(tmp_path)
    measured(ours("linear", None, names, "known"), tmp_path)
    size = (tmp_path / "n0.safetensors").stat().st_size / 2**20
    rows = []
    for method, density, _ in CASES:
        pairs = []
        # What a first run has to build, timm imported for it, later ones know.
        first = measured(
            ours(method, density, names, "first"), tmp_path, cache=f"{method}{density}"
        )
        shutil.rmtree(tmp_path / "first")
        for number in range(ROUNDS):  # one after another: the machine may change its pace
            mine, their = (f"{whose}-{method}-{density}-{number}" for whose in ("ours", "theirs"))
            own = measured(ours(method, density, names, mine), tmp_path)
            other = measured(theirs(method, density, names, their, tmp_path), tmp_path)
            pairs.append((own, other))
        ratio = sorted(own[0] / other[0] for own, other in pairs)[ROUNDS // 2]
        rows.append({
            "method": method, "density": density, "networks": COUNT, "MiB each": size,
            "ratio": ratio,
            "first seconds": first[0],
            "seconds": min(own[0] for own, _ in pairs),
            "mergekit seconds": min(other[0] for _, other in pairs),
            "MiB": max(own[1] for own, _ in pairs),
            "mergekit MiB": max(other[1] for _, other in pairs),
        })  # fmt: skip
        mean = load_file(tmp_path / mine / f"merged/{method}/model.safetensors")
        same = load_file(next((tmp_path / their).glob("*.safetensors")))
        compared = [name for name in mean if not name.endswith(_STATISTICS)]
        other = sum(int((~torch.isclose(mean[n], same[n], 1e-5, 1e-5)).sum()) for n in compared)
        # Of numbers that are equal but for rounding, each program keeps others.
        assert other <= (1e-6 if density == 0.5 else 0) * sum(mean[n].numel() for n in compared)
    results.keep("merge_speed", rows)
    for row, (_, _, most) in zip(rows, CASES, strict=True):
        assert most is None or row["ratio"] <= most, row
        assert row["MiB"] < row["mergekit MiB"], row
