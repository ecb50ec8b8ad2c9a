"""The harness of the timm table with workers that only pretend: no network is built here."""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

import pytest
import torch

from mergekit_perm import derive
from tests.benchmarks import timm_table
from tests.benchmarks.timm_jobs import Job, Record, Results, WorkerError, run
from tests.benchmarks.timm_registry import Registered, families
from tests.benchmarks.timm_rendering import causes, table, verdict
from tests.benchmarks.timm_table import Choices, asked, due

NAMES = {
    "small_a": Registered("alpha", 10),
    "large_a": Registered("alpha", 1000),
    "small_b": Registered("beta", 20),
    "equal_b": Registered("beta", 20),
}

# What the pretended worker does is in the name of the architecture.
WORKER = """
import json, os, signal, sys, time

def say(part):
    print(json.dumps(part), flush=True)

say({"versions": {"engine": "e", "torch": "2", "timm": "1", "threads": 1, "pid": os.getpid()}})
for line in sys.stdin:
    order = json.loads(line)
    kind = order["architecture"].partition("_")[0]
    say({"stage": "derive"})
    if kind == "hang":
        time.sleep(60)
    if kind == "die":
        print("one word", "the last word", sep="\\n", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "fail":
        say({"failure": {"stage": "derive", "kind": "error", "reason": "no"}})
    else:
        os.write(1, b'{"deri')
        time.sleep(0.01)
        os.write(1, b'ved": {"lines": 3}}\\n')
    say({"done": True})
"""


def worker(folder: Path, text: str = WORKER) -> list[str]:
    path = folder / "worker.py"
    path.write_text(text)
    return [sys.executable, "-S", str(path)]


def outcome(folder: Path, *names: str, workers: int = 1, limit: float = 20) -> dict[str, Record]:
    jobs = [Job(name) for name in names]
    records = run(jobs, worker(folder), workers=workers, limit=limit)
    return {record["architecture"]: record for record in records}


def record(name: str = "small_a", **changes: object) -> Record:
    """Return the record of a job that went well, but for `changes`; None leaves an entry out."""
    derived = {
        "seconds": {"build": 0.1, "trace": 2.0, "solve": 0.5, "all": 2.6},
        "groups": 5,
        "outermost": 3,
        "factors": 7,
        "coverage": 0.99999,
        "lines": 12,
        "unruled": {},
        "still": {"is an output of the network": 0.00001},
        "fixed": ["head.*: axis 0 is an output of the network"],
    }
    verified = {
        "seconds": 1.5,
        "difference": 2e-15,
        "training_difference": 3e-15,
        "weakest": ["stream", 1e-4],
    }
    complete = {
        "architecture": name,
        "measured": "2026-11-24",
        "versions": {"engine": "e", "torch": "2.15.0", "timm": "1.0.31", "threads": 1},
        "parameters": 10,
        "derived": derived,
        "verified": verified,
        "peak_mib": 700,
        **changes,
    }
    return {key: value for key, value in complete.items() if value is not None}


FAILURE = {"stage": "verify", "kind": "error", "reason": "E: /home/me/lib/timm/x.py:3 | broke"}


# ---------------------------------------------------------------------------------------- the jobs


def test_one_worker_does_job_after_job(tmp_path: Path) -> None:
    found = outcome(tmp_path, "x", "y")
    assert [r["derived"] for r in found.values()] == [{"lines": 3}] * 2
    assert found["x"]["versions"] == found["y"]["versions"]


def test_failures_do_not_stop_the_others_and_end_their_worker(tmp_path: Path) -> None:
    found = outcome(tmp_path, "die_1", "fail_1", "fine_1", "fine_2", "die_2")
    assert [("failure" in found[name]) for name in found] == [True, True, False, False, True]
    died = found["die_1"]["failure"]
    assert died == {
        "stage": "derive",
        "kind": "crash",
        "reason": "killed by SIGKILL: the last word",
    }
    assert found["fail_1"]["failure"]["reason"] == "no"
    processes = [found[name]["versions"]["pid"] for name in ("fail_1", "fine_1", "fine_2")]
    assert processes[0] != processes[1] == processes[2]


def test_time_limit(tmp_path: Path) -> None:
    began = time.monotonic()
    found = outcome(tmp_path, "hang_1", "hang_2", "fine", workers=2, limit=0.5)
    assert time.monotonic() - began < 10
    assert found["hang_1"]["failure"]["kind"] == found["hang_2"]["failure"]["kind"] == "time"
    assert found["hang_1"]["failure"]["reason"] == "took longer than 0.5 seconds"
    assert "failure" not in found["fine"]


def test_workers_that_cannot_start_end_the_run(tmp_path: Path) -> None:
    command = worker(tmp_path, "import sys; sys.exit('no torch here')")
    with pytest.raises(WorkerError, match="ended with 1: no torch here"):
        list(run([Job("x"), Job("y")], command, limit=20))


def test_a_job_adds_to_what_is_known(tmp_path: Path) -> None:
    jobs = [Job("fine", derive=False, start={"parameters": 7})]
    assert next(iter(run(jobs, worker(tmp_path), limit=20)))["parameters"] == 7


# -------------------------------------------------------------------------------------- the results


def test_what_was_measured_elsewhere_is_in_the_archive(tmp_path: Path) -> None:
    archive = tmp_path / "all.jsonl.gz"
    first = Results(tmp_path / "one", archive)
    reasons = {"fixed": ["head.*: output"], "groups": 3}
    first.append({"architecture": "low", "derived": {**reasons, "coverage": 0.5}})
    first.append({"architecture": "high", "derived": {**reasons, "coverage": 1.0}})
    first.keep()
    other = Results(tmp_path / "other", archive)
    assert other.read()["low"]["derived"] == {**reasons, "coverage": 0.5}
    assert other.read()["high"]["derived"] == {"groups": 3, "coverage": 1.0}
    other.append({"architecture": "low", "failure": "newer"})
    assert other.read()["low"] == {"architecture": "low", "failure": "newer"}
    assert Results(tmp_path / "other").read().keys() == {"low"}


def test_a_spec_that_is_not_there_is_derived_again_to_be_verified(tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.append({"architecture": "small_a", "skipped": "derived only", "derived": {}})
    (job,) = due(["small_a"], results, NAMES, Choices())
    assert (job.derive, job.verify) == (True, True)


def test_results_keep_the_latest_record_and_skip_a_line_cut_short(tmp_path: Path) -> None:
    results = Results(tmp_path / "new")
    assert results.read() == {}
    results.append({"architecture": "b", "n": 1})
    with results.path.open("a") as stream:
        stream.write('{"architecture": "c", "n"')
    results.append({"architecture": "b", "n": 2})
    results.append({"architecture": "a", "n": 3})
    assert {name: r["n"] for name, r in results.read().items()} == {"a": 3, "b": 2}
    assert results.spec_path("a.b:c/d").parent == results.folder / "specs"


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        (Choices(), ["late", "new"]),
        (Choices(derive_only=True), ["new"]),
        (Choices(failed=True), ["failed", "late", "new"]),
        (Choices(redo=True), ["done", "failed", "late", "new"]),
        (Choices(stale=True), ["done", "failed", "late", "new"]),
        (Choices(derive_only=True, redo=True), ["done", "failed", "late", "new"]),
    ],
)
def test_what_is_due(tmp_path: Path, choices: Choices, expected: list[str]) -> None:
    results = Results(tmp_path)
    results.append(record("done"))
    results.append(record("failed", failure=FAILURE, verified=None))
    results.append(record("late", skipped="derived only", verified=None))
    results.spec_path("late").parent.mkdir()
    results.spec_path("late").touch()
    jobs = {
        job.architecture: job
        for job in due(["done", "failed", "late", "new"], results, NAMES, choices)
    }
    assert list(jobs) == expected
    assert all(job.verify != choices.derive_only for job in jobs.values())
    if choices == Choices():
        assert not jobs["late"].derive
        assert jobs["late"].start == record("late", verified=None)


def test_large_networks_are_only_derived(tmp_path: Path) -> None:
    jobs = list(due(["small_a", "large_a"], Results(tmp_path), NAMES, Choices(max_parameters=500)))
    assert [(job.verify, job.start) for job in jobs] == [
        (True, {}),
        (False, {"skipped": "too large"}),
    ]


def test_what_is_asked_for() -> None:
    assert families(NAMES) == {"alpha": "small_a", "beta": "equal_b"}
    assert asked(["families", "small_a"], NAMES) == ["small_a", "equal_b"]
    assert asked(["all", "mlp"], NAMES) == ["mlp", "small_a", "equal_b", "small_b", "large_a"]


# ---------------------------------------------------------------------------------------- the table


def test_table_of_families() -> None:
    low = record("equal_b")
    low["derived"] |= {
        "coverage": 0.8,
        "still": {"meets its like": 0.15, "is an output": 0.05},
        "unruled": {"aten.cumsum": 2},
        "fixed": ["a.{i:0..3}.weight: axis 1 meets its like in x.py:3"],
    }
    text = table({"equal_b": low, "small_a": record()}, NAMES)
    assert "| derived | 2 of 2 |" in text
    assert "| coverage of .99 / .999 and more | 1 / 1 |" in text
    assert "| alpha | small_a | 10 | 3 / 7 | 0.9999 | 2.6 | 0.5 | 1.5 | 2e-15 | 12 |  |" in text
    assert "| 15.0 % meets its like; 5.0 % is an output |" in text
    assert "fixed:\n  a.{i:0..3}.weight: axis 1 meets its like in x.py:3\n" in text
    assert "- `aten.cumsum`: equal_b" in text
    assert "All names" not in text
    assert text == table({"small_a": record(), "equal_b": low}, NAMES)


def test_table_of_what_failed_and_of_all_names() -> None:
    late = {"stage": "derive", "kind": "time", "reason": "took longer than 600 seconds"}
    records = {
        "equal_b": record("equal_b", failure=FAILURE, verified=None),
        "large_a": record("large_a", failure=late, derived=None, verified=None),
        "mlp": record("mlp", failure=late),
        "small_b": record("small_b", skipped="too large", verified=None),
    }
    families_, all_names = table(records, NAMES).split("## All names\n")
    assert "| alpha | small_a |  |  |  |  |  |  |  |  | not tried |" in families_
    assert "failed to verify: E: x.py:3 \\| broke" in families_
    assert "| derived | 2 of 4 |\n| verified | 0 |" in all_names
    assert "| beta | equal_b | 10 | 3 / 7 | 0.9999 | 2.6 | 0.5 |  |  | 12 | **failed" in families_
    assert "| failed | 1 |\n| took too long | 1 |\n| not tried | 1 |" in all_names
    assert "- large_a: failed to derive: took longer than 600 seconds" in all_names
    assert "mlp" not in all_names


def test_verdicts() -> None:
    assert verdict(record()).endswith("verified in 1.5 s, difference 2.0e-15")
    assert verdict(record(verified=None, skipped="too large")).endswith("not verified: too large")
    assert verdict(record(failure=FAILURE)) == "failed to verify: E: x.py:3 | broke"


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("axis 0: output of the network", "output of the network"),
        ("axis 1: meets x in mul (m.py:2); axes 2, 3: meets x in linear (n.py:13)", "meets x"),
        ("axes 0, 1 is fixed in m.py:2; axis 2 stands alone", "is fixed, stands alone"),
        ("no reason given", "no reason given"),
    ],
)
def test_causes(reason: str, expected: str) -> None:
    assert causes(reason) == expected


def test_a_run_goes_on_where_it_was_and_writes_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(timm_table, "registry", lambda folder: NAMES)
    monkeypatch.setattr(timm_table, "worker_command", lambda folder, memory: worker(tmp_path))
    given = ["--results", str(tmp_path), "--table", str(tmp_path / "TABLE.md")]
    given += ["--archive", str(tmp_path / "all.jsonl.gz")]
    Results(tmp_path).append(record())
    assert timm_table.main(["small_a", "fail_1", *given]) == 1
    assert "[1/1, 0 s] fail_1: failed to derive: no" in capsys.readouterr().err
    assert "| alpha | small_a | 10 |" in (tmp_path / "TABLE.md").read_text()
    assert timm_table.main(["--write", *given]) == 0
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["architecture"] for line in lines] == ["small_a", "fail_1"]


@pytest.mark.slow
def test_the_worker_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm_table, "registry", lambda folder: NAMES)
    given = ["--results", str(tmp_path), "--table", str(tmp_path / "TABLE.md")]
    given += ["--archive", str(tmp_path / "all.jsonl.gz")]
    assert timm_table.main(["mlp", *given, "--derive-only"]) == 0
    assert timm_table.main(["mlp", "unheard_of", *given]) == 1
    records = Results(tmp_path).read()
    assert records["mlp"]["derived"]["groups"] == records["mlp"]["verified"]["controls"] == 2
    assert records["mlp"]["verified"]["difference"] < 1e-12
    assert "skipped" not in records["mlp"]
    assert "unknown architecture" in records["unheard_of"]["failure"]["reason"]
    assert Results(tmp_path).spec_path("mlp").read_text().startswith("format: perm-merge/permspec")


# ------------------------------------------------------------------------------ what is kept


def kept_families() -> list[dict[str, str]]:
    """Return the rows of the table of families, by the names of its columns."""
    text = timm_table.TABLE.read_text(encoding="utf-8").partition("| family |")
    lines = (text[1] + text[2]).split("\n\n")[0].splitlines()
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return [dict(zip(head, row, strict=True)) for row in rows]


def test_the_kept_table_shows_what_is_claimed_of_families() -> None:
    rows = kept_families()
    assert len(rows) == 98
    assert all(float(row["difference"]) < 1e-9 for row in rows)
    assert sum(float(row["coverage"]) >= 0.99 for row in rows) >= 92
    seconds = [float(row["derive"]) for row in rows]
    assert statistics.median(seconds) < 5 and max(seconds) < 60
    after = (float(row["after tracing"]) for row in rows)
    shares = [part / whole for part, whole in zip(after, seconds, strict=True)]
    assert statistics.median(shares) <= 0.5


def test_the_kept_results_show_what_is_claimed_of_all_names() -> None:
    records = Results(Path("nowhere"), timm_table.ARCHIVE).read()
    derived = [record for record in records.values() if "derived" in record]
    assert len(derived) >= 0.95 * len(records) and len(records) >= 1371
    failed = [record["failure"] for record in records.values() if "failure" in record]
    assert {failure["kind"] for failure in failed} <= {"memory"}
    assert records["resnet50"]["derived"]["seconds"]["all"] < 4


@pytest.mark.bench
def test_resnet50_is_derived_in_four_seconds() -> None:
    torch.set_num_threads(1)
    derive.derivation("resnet18")  # what the first one of a process costs
    found = derive.derivation("resnet50")
    assert sum(found.seconds.values()) < 4
