"""The memory of its own that a run takes, and what its plan said: a program for test_run_memory.

python -m tests.benchmarks.run_memory SPEC OUT
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

import torch

from mergekit_perm import pipeline
from mergekit_perm.spec import load


def own_memory() -> float:
    """Return the memory of this process that is no part of a file, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def main() -> None:
    torch.set_num_threads(1)
    spec, out = sys.argv[1:]
    loaded = load(spec)
    import mergekit_perm.report.html  # noqa: F401 (all that a run loads is the interpreter's own)

    interpreter = own_memory()
    peak = [own_memory()]

    def watch() -> None:
        while True:
            peak[0] = max(peak[0], own_memory())
            time.sleep(0.005)

    threading.Thread(target=watch, daemon=True).start()
    planned = pipeline.make_plan(loaded, out=out).peak_memory / 2**20
    pipeline.run(loaded, out=out)
    print(json.dumps({"MiB": peak[0], "planned MiB": planned, "interpreter MiB": interpreter}))


if __name__ == "__main__":
    main()
