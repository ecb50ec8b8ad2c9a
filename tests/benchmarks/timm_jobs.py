"""Jobs in processes of their own, and the file that keeps what they found.

One job measures one architecture. A worker process does jobs one after another; it is replaced
when one fails, takes too long or leaves much memory in use, so that nothing an architecture does
stops the others.

A worker gets one JSON object per line and answers with lines of its own: first `{"versions": ..}`,
then, for every job, parts of its record, `{"stage": "verify"}` when it begins something else, and
`{"done": true}`.
"""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.benchmarks.sources import ROOT, digest

Record = dict[str, Any]

# Seconds that a worker may take until it is ready.
_START = 300.0

# Seconds between the end of a worker's output and its own.
_DYING = 10.0

# A worker that keeps more memory than this between jobs is replaced.
_RESIDENT_MIB = 2048

_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
# glibc keeps the memory of large tensors for the next ones, instead of asking for new pages.
_ENVIRONMENT |= {"MALLOC_MMAP_THRESHOLD_": str(2**26), "MALLOC_TRIM_THRESHOLD_": str(2**29)}

# What the outcome depends on.
_ENGINE = ("*.py", "derive/**/*.py", "networks/**/*.py")


class WorkerError(Exception):
    """No worker can be started, so that there is no point in going on."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be done for one architecture.

    Attributes:
        architecture: its name.
        derive: whether to derive the spec, or to take the one on file.
        verify: whether to verify it.
        start: what the record has already.
    """

    architecture: str
    derive: bool = True
    verify: bool = True
    start: Mapping[str, Any] = field(default_factory=dict)


def engine() -> str:
    """Return a short hash of the code that derives and verifies."""
    return digest(ROOT / "mergekit_perm", _ENGINE)


# The coverage from which nobody asks what stays fixed.
_FULL = 0.99


class Results:
    """The results folder: a line of JSON for every finished job, and the specs as YAML.

    Measuring all names takes hours; what was measured elsewhere is in `archive`, if there is one.
    """

    def __init__(self, folder: Path, archive: Path | None = None) -> None:
        self.folder = folder
        self.path = folder / "results.jsonl"
        self.archive = archive

    def read(self) -> dict[str, Record]:
        """Return the latest record of every architecture, by name."""
        lines = self.path.read_bytes().splitlines() if self.path.exists() else []
        if self.archive is not None and self.archive.exists():
            lines = gzip.decompress(self.archive.read_bytes()).splitlines() + lines
        records: dict[str, Record] = {}
        for line in lines:
            with suppress(ValueError):  # a line cut short when a run was killed
                record = json.loads(line)
                records[record["architecture"]] = record
        return dict(sorted(records.items()))

    def keep(self) -> None:
        """Put all records in the archive, without the reasons that the specs have as well."""
        if self.archive is None:
            return
        lines = []
        for record in self.read().values():
            derived = record.get("derived", {})
            if derived.get("coverage", 0) >= _FULL:
                record = {**record, "derived": {k: v for k, v in derived.items() if k != "fixed"}}
            lines.append(json.dumps(record))
        content = gzip.compress("\n".join(lines).encode(), mtime=0)
        self.archive.write_bytes(content)

    def append(self, record: Record) -> None:
        """Add the record of a finished job."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as stream:
            stream.seek(max(stream.tell() - 1, 0))
            cut_short = stream.read(1) not in (b"", b"\n")
            stream.write(b"\n" * cut_short + json.dumps(record).encode() + b"\n")

    def spec_path(self, architecture: str) -> Path:
        """Return where the YAML of an architecture is kept."""
        return self.folder / "specs" / f"{quote(architecture, safe='')}.yaml"


def run(
    jobs: Iterable[Job], command: Sequence[str], *, workers: int = 1, limit: float
) -> Iterator[Record]:
    """Do `jobs` and yield their records as they are finished.

    Args:
        jobs: in the order in which they are begun.
        command: what starts a worker.
        workers: how many jobs run at once.
        limit: seconds that a job may take.

    Raises:
        WorkerError: a worker ends before it is ready.
    """
    waiting = deque(jobs)
    idle: list[_Worker] = []
    busy: list[_Worker] = []
    try:
        while waiting or busy:
            while waiting and len(busy) < workers:
                worker = idle.pop() if idle else _Worker(command)
                busy.append(worker)
                worker.begin(waiting.popleft(), limit)
            _listen(busy)
            for worker in [worker for worker in busy if worker.finished]:
                busy.remove(worker)
                idle += [worker] if worker.may_go_on() else []
                yield worker.record
    finally:
        for worker in idle + busy:
            worker.stop()


def _listen(busy: Sequence[_Worker]) -> None:
    """Wait until a worker says something or one's time is over."""
    pause = max(0.0, min(worker.deadline for worker in busy) - time.monotonic())
    heard = wait([worker.output for worker in busy], pause)
    for worker in busy:
        if worker.output in heard:
            worker.listen()
        elif time.monotonic() >= worker.deadline:
            worker.fail("time", f"took longer than {worker.limit:g} seconds")


class _Worker:
    """A process that does one job at a time, and the record of the one it is at."""

    def __init__(self, command: Sequence[str]) -> None:
        self.errors = tempfile.TemporaryFile("a+b")  # noqa: SIM115 (open as long as the worker)
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            cwd=ROOT,
            env={**os.environ, **_ENVIRONMENT},
            start_new_session=True,
        )
        assert self.process.stdout is not None
        self.output = self.process.stdout.fileno()
        self.versions: Record = {}
        self.heard = b""

    def begin(self, job: Job, limit: float) -> None:
        """Start on `job`; its time begins when the worker is ready."""
        self.limit = limit
        self.deadline = time.monotonic() + (limit if self.versions else _START)
        self.record: Record = {**job.start, "architecture": job.architecture, **self.versions}
        self.record["measured"] = date.today().isoformat()
        self.stage, self.finished = "start", False
        if self.versions:  # what a worker says that cannot start stays to be told
            self.errors.truncate(0)
        order = {key: getattr(job, key) for key in ("architecture", "derive", "verify")}
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # then the output ends as well, which says more
            self.process.stdin.write(json.dumps(order).encode() + b"\n")
            self.process.stdin.flush()

    def listen(self) -> None:
        """Take in what the worker has said."""
        said = os.read(self.output, 1 << 16)
        *lines, self.heard = (self.heard + said).split(b"\n")
        for line in lines:
            self._take(json.loads(line))
        if not said and not self.finished:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(_DYING)
            self.fail("crash", self._last_words())

    def _take(self, part: Record) -> None:
        if "versions" in part:
            self.versions = part
            self.deadline = time.monotonic() + self.limit
        self.stage = part.pop("stage", self.stage)
        self.finished = part.pop("done", False)
        self.record.update(part)
        if self.finished:
            self.record["peak_mib"] = memory(self.process.pid, "VmHWM")

    def fail(self, kind: str, reason: str) -> None:
        """End the job and the worker.

        Raises:
            WorkerError: the worker was not ready.
        """
        self.record["peak_mib"] = memory(self.process.pid, "VmHWM")
        self.record["failure"] = {"stage": self.stage, "kind": kind, "reason": reason}
        self.finished = True
        self.stop()
        if not self.versions:
            raise WorkerError(f"a worker did not start: {reason}")

    def may_go_on(self) -> bool:
        """Tell whether the worker is fit for another job; end it if not."""
        resident = memory(self.process.pid, "VmRSS") or 0
        fit = "failure" not in self.record and resident < _RESIDENT_MIB
        if not fit:
            self.stop()
        return fit

    def stop(self) -> None:
        """End the process and what it has started."""
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            with suppress(OSError):
                stream.close()  # type: ignore[union-attr]

    def _last_words(self) -> str:
        code = self.process.returncode
        how = "says nothing" if code is None else f"ended with {code}"
        if code is not None and code < 0:
            how = f"killed by {signal.Signals(-code).name}"
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").split("\n")
        words = [line.strip() for line in lines if line.strip()]
        return f"{how}: {words[-1]}" if words else how


def memory(process: int, entry: str) -> int | None:
    """Return an entry of a process's status in MiB; None where the system does not tell."""
    with suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().split("\n"):
            if line.startswith(f"{entry}:"):
                return int(line.split()[1]) // 1024
    return None
