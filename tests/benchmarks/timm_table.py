"""What derivation makes of timm, measured: keeps specs/architectures/TABLE.md.

    python -m tests.benchmarks.timm_table                       the smallest of every family
    python -m tests.benchmarks.timm_table all --derive-only     every name, without proofs
    python -m tests.benchmarks.timm_table resnet50 vit_tiny_patch16_224
    python -m tests.benchmarks.timm_table --write               the table alone

What is done already is not done again: results and specs are kept in the results folder, and the
results in timm_results.jsonl.gz beside this file as well whenever the table is written.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.sources import ROOT
from tests.benchmarks.timm_jobs import Job, Record, Results, WorkerError, engine, run
from tests.benchmarks.timm_registry import Registry, families, registry
from tests.benchmarks.timm_rendering import table, verdict

TABLE = ROOT / "specs" / "architectures" / "TABLE.md"
ARCHIVE = Path(__file__).with_name("timm_results.jsonl.gz")

# Verification holds less than as many copies of the weights, of eight bytes each.
_COPIES = 1.5

# GiB that one architecture may use by default.
_MEMORY = 16.0

# The share of the machine's memory that workers may use together.
_MACHINE = 0.9


@dataclass(frozen=True, slots=True)
class Choices:
    """Which jobs are due, and which networks are verified.

    Attributes:
        redo: also what is done.
        failed: also what failed.
        stale: also what other code has done.
        derive_only: verify nothing.
        max_parameters: verify networks up to this size.
    """

    redo: bool = False
    failed: bool = False
    stale: bool = False
    derive_only: bool = False
    max_parameters: float = math.inf

    def again(self, record: Record) -> bool:
        """Tell whether to do again from the start what `record` is the outcome of."""
        stale = self.stale and record.get("versions", {}).get("engine") != engine()
        return self.redo or stale or (self.failed and "failure" in record)

    def skipped(self, parameters: int) -> str:
        """Return why a network of this size is not verified, "" if it is."""
        if self.derive_only:
            return "derived only"
        return "too large" if parameters > self.max_parameters else ""


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line, read."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.timm_table",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("names", nargs="*", help="families (the default), all, or architectures")
    add("--results", type=Path, default=ROOT / "out" / "timm_table", help="the results folder")
    add("--table", type=Path, default=TABLE, help="the file to write")
    add("--archive", type=Path, default=ARCHIVE, help="the file that keeps all results")
    add("--write", action="store_true", help="write the table from the results there are")
    add("--no-table", action="store_true", help="leave the table as it is")
    add("--jobs", type=int, default=1, help="how many architectures at once")
    add("--limit", type=float, default=600, help="seconds for one architecture")
    add("--memory", type=float, help="GiB for one architecture (16, or its share of the machine)")
    add("--derive-only", action="store_true", help="do not verify")
    add("--max-parameters", type=float, help="verify networks up to this size (what fits)")
    add("--redo", action="store_true", help="do again what is done")
    add("--failed", action="store_true", help="do again what failed")
    add("--stale", action="store_true", help="do again what other code than today's has done")
    options = parser.parse_args(given)
    if not options.names and not options.write:
        options.names = ["families"]
    return options


def due(
    architectures: Iterable[str], results: Results, names: Registry, choices: Choices
) -> Iterator[Job]:
    """Yield a job for every architecture that is not done as far as it is to be."""
    records = results.read()
    for name in architectures:
        record = records.get(name)
        skipped = choices.skipped(names[name].parameters if name in names else 0)
        if record is None or choices.again(record):
            yield Job(name, verify=not skipped, start={"skipped": skipped} if skipped else {})
        elif "skipped" in record and not skipped:
            rest = {key: value for key, value in record.items() if key != "skipped"}
            there = results.spec_path(name).exists()
            yield Job(name, derive=False, start=rest) if there else Job(name)


def asked(words: Iterable[str], names: Registry) -> list[str]:
    """Return the architectures that the command line names, each once, small ones first."""
    lists = {"families": families(names).values(), "all": names}
    found = {name for word in words for name in lists.get(word, [word])}
    return sorted(found, key=lambda n: (names[n].parameters if n in names else 0, n))


def main(given: Sequence[str] | None = None) -> int:
    """Do what is asked for; return 1 if a job failed, else 0."""
    options = arguments(given)
    results = Results(options.results, options.archive)
    names = registry(options.results)
    try:
        failed = sum("failure" in record for record in _measured(options, results, names))
    except WorkerError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("stopped; what is done is kept")
    _mention_stale(results.read())
    if not options.no_table:
        results.keep()
        options.table.write_text(table(results.read(), names), encoding="utf-8")
    return int(failed > 0)


def _measured(options: argparse.Namespace, results: Results, names: Registry) -> Iterator[Record]:
    """Do the jobs, keep and tell what each gave, and yield the records."""
    memory = options.memory or _memory(options.jobs)
    jobs = list(due(asked(options.names, names), results, names, _choices(options, memory)))
    command = worker_command(results.folder, memory)
    began = time.monotonic()
    records = run(jobs, command, workers=options.jobs, limit=options.limit)
    for done, record in enumerate(records, 1):
        results.append(record)
        place = f"{done}/{len(jobs)}, {time.monotonic() - began:.0f} s"
        _say(f"[{place}] {record['architecture']}: {verdict(record)}")
        yield record


def worker_command(folder: Path, memory: float) -> list[str]:
    """Return what starts a worker that may use so many GiB."""
    module = "tests.benchmarks.timm_worker"
    return [sys.executable, "-m", module, str(folder.resolve()), str(memory)]


def _choices(options: argparse.Namespace, memory: float) -> Choices:
    most = options.max_parameters or memory * 2**30 / (8 * _COPIES)
    return Choices(options.redo, options.failed, options.stale, options.derive_only, most)


def _memory(jobs: int) -> float:
    """Return how many GiB each of several jobs may use."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return min(_MEMORY, _MACHINE * machine / jobs)


def _mention_stale(records: Mapping[str, Record]) -> None:
    today = engine()
    stale = [r for r in records.values() if r.get("versions", {}).get("engine") != today]
    if stale:
        _say(f"{len(stale)} of {len(records)} results are of other code than today's (--stale)")


def _say(text: str) -> None:
    print(" ".join(text.split())[:300], file=sys.stderr, flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that workers end as well
    sys.exit(main())
