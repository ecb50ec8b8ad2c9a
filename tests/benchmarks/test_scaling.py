"""Time and peak memory of joint alignment as networks become more.

    pytest -m bench tests/benchmarks/test_scaling.py

Every measurement has a process of its own, so that peaks do not add up.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from tests.benchmarks import results

NETWORKS = (2, 4, 8, 16, 32)
METHODS = ("weight_matching", "activation_matching", "mixed")

ONE = """
import json, pathlib, sys, time, torch
from tests.benchmarks import zoo
torch.set_num_threads(1)

def peak():
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024

method, count = sys.argv[1], int(sys.argv[2])
kind = zoo.mlp(128)
states = kind.family(range(count))
kind.aligned({name: states[name] for name in list(states)[:2]}, method, **{"max_sweeps": 1})
# From here on: a process inherits the peak of the one that starts it, and training has one too.
pathlib.Path("/proc/self/clear_refs").write_text("5")
before = peak()
began = time.perf_counter()
options = {"steps": 20, "restarts": 1} if method == "mixed" else {}
kind.aligned(states, method, **options)
seconds = time.perf_counter() - began
mib = peak() - before
print(json.dumps({"method": method, "networks": count, "seconds": seconds, "mib": mib}))
"""


@pytest.mark.bench
@pytest.mark.timeout(3600)
def test_time_and_memory_grow_no_faster_than_the_networks() -> None:
    torch.set_num_threads(1)
    rows = []
    for method in METHODS:
        for count in NETWORKS:
            command = [sys.executable, "-c", ONE, method, str(count)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
        results.keep("scaling", rows)
    for method in METHODS:
        of_method = [row for row in rows if row["method"] == method]
        small, large = of_method[1], of_method[-1]
        times = large["networks"] / small["networks"]
        assert large["seconds"] <= 1.5 * times * small["seconds"]
        assert large["mib"] <= 1.5 * times * max(small["mib"], 8.0)
