"""Sweeps: their runs in folders of their own, gone on with, and compared."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mergekit_perm as pm
from mergekit_perm import pipeline, train
from mergekit_perm.errors import RunError, SpecError
from mergekit_perm.report import Report, compare
from mergekit_perm.report.sweeps import load_sweep_folder
from mergekit_perm.spec import Sweep, load_sweep, loads

Load = Callable[..., Sweep]

# For runs of which nothing but that they are runs, and differ, is looked at.
SHORT = ("evaluate.simplex=null", "evaluate.points=3", "merge=[]")


@pytest.fixture
def load(small_text: str, tmp_path: Path) -> Load:
    """Return a function that loads the small run as a sweep, with overrides."""

    def loaded(sweep: str, *overrides: str) -> Sweep:
        file = tmp_path / "swept.yaml"
        file.write_text(f"{small_text}sweep: {sweep}\n")
        return load_sweep(file, overrides=overrides)

    return loaded


def runs_of(folder: Path) -> tuple[Path, ...]:
    found = load_sweep_folder(folder)
    assert found is not None
    return tuple(run.folder for run in found.runs)


def refuse(*_args: Any, **_options: Any) -> Any:
    raise AssertionError("this was done already")


def test_runs_are_compared_with_seeds_averaged(load: Load) -> None:
    sweep = load("{seeds: 2, over: {align.method: [weight_matching, merge_many]}}")
    said: list[tuple[int, int]] = []
    swept = pipeline.run_sweep(
        sweep, out=Path("out"), jobs=1,
        progress=lambda task, done, total, *_: said.append((done, total))
        if task == "runs of small" else None,
    )  # fmt: skip
    assert said == [(done, 4) for done in range(5)]
    assert swept.failed == {}
    assert swept.comparison.names == ("weight_matching", "merge_many")
    folders = runs_of(Path("out"))
    assert [folder.name for folder in folders] == [
        "weight_matching-0", "weight_matching-1", "merge_many-0", "merge_many-1",
    ]  # fmt: skip
    reports = [Report.load(folder) for folder in folders]
    assert compare(reports).rows == swept.comparison.rows
    row = swept.comparison.rows[0]
    assert all(mean is not None and mean.half is not None for mean in row.means)
    # Networks of one seed are trained once, whatever they are aligned by.
    assert not [
        folder for folder in folders[2:] if '"cached": false' in stages(folder, "networks+a")
    ]


def stages(folder: Path, stage: str) -> str:
    return (folder / ".stages" / f"{stage}.json").read_text()


def test_a_sweep_goes_on_where_it_stopped(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = load("{seeds: 2}", *SHORT)
    first = pipeline.run_sweep(sweep, out=Path("out"), jobs=1)
    monkeypatch.setattr(train, "fit", refuse)
    assert pipeline.run_sweep(sweep, out=Path("out"), jobs=1).comparison == first.comparison


def test_several_at_once_are_what_one_after_another_are(load: Load) -> None:
    sweep = load("{seeds: 2}", *SHORT, "train.epochs=1")
    side_by_side = pipeline.run_sweep(sweep, out=Path("two"), jobs=2)
    alone = pipeline.run_sweep(sweep, out=Path("one"), jobs=1)
    for one, other in zip(alone.comparison.rows, side_by_side.comparison.rows, strict=True):
        assert one.values == pytest.approx(other.values, abs=1e-6)


def test_a_run_that_fails_leaves_the_others(load: Load) -> None:
    sweep = load("{over: {train.learning_rate: [0.1, 1.0e+30]}}", *SHORT)
    swept = pipeline.run_sweep(sweep, out=Path("out"), jobs=1)
    ((name, error),) = swept.failed.items()
    assert name == "learning_rate-1e-30" and "the loss is" in error
    assert swept.comparison.names == ("learning_rate-0.1",)
    kept = load_sweep_folder(Path("out"))
    assert kept is not None and dict(kept.done()[0].values) == {"train.learning_rate": 0.1}
    with pytest.raises(RunError, match="all 1 runs failed; the first, learning_rate-1e-30: "):
        pipeline.run_sweep(
            load("{over: {train.learning_rate: [1.0e+30]}}"), out=Path("none"), jobs=1
        )


def test_a_matrix_is_averaged_over_seeds(load: Load) -> None:
    sweep = load(
        "{seeds: 3}", "train.checkpoints=[1]", "evaluate.matrix.points=3", *SHORT,
    )  # fmt: skip
    swept = pipeline.run_sweep(sweep, out=Path("out"), jobs=1)
    (first, *_) = swept.comparison.matrices
    own = [Report.load(folder).matrices[0] for folder in runs_of(Path("out"))]
    assert (first.networks, first.found_at) == (("a", "b"), ("1", "2"))
    assert first.barriers[0][1].n == 3
    values = [matrix.barriers[0][1] for matrix in own]
    assert first.barriers[0][1].value == pytest.approx(sum(values) / 3)


def test_a_sweep_is_no_run(load: Load) -> None:
    sweep = load("{seeds: 2}")
    with pytest.raises(SpecError, match="'small' is a sweep of several runs"):
        pipeline.run(sweep.spec)
    alone = loads(sweep.text, overrides=["sweep=null"])
    assert pipeline.run(alone).name == "small"


def test_the_folder_of_another_is_refused(load: Load, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").touch()
    with pytest.raises(RunError, match="is no folder of a sweep; choose another folder with --out"):
        pipeline.run_sweep(load("{seeds: 1}"), out=out, jobs=1)
    out = tmp_path / "mine"
    pipeline.run_sweep(load("{seeds: 1}", *SHORT), out=out, jobs=1)
    assert loads((out / "spec.yaml").read_text()).sweep is not None
    with pytest.raises(RunError, match="belongs to the sweep 'small'"):
        pipeline.run_sweep(load("{seeds: 1}", "name=other"), out=out, jobs=1)
    pipeline.run_sweep(load("{seeds: 1}", "name=other", *SHORT), out=out, jobs=1, force=True)
    found = load_sweep_folder(out)
    assert found is not None and found.name == "other"


def test_runs_that_are_not_done_are_left_out(load: Load) -> None:
    pipeline.run_sweep(load("{seeds: 2}", *SHORT), out=Path("out"), jobs=1)
    found = load_sweep_folder(Path("out"))
    assert found is not None
    (found.runs[0].folder / "report.json").unlink()
    assert not found.is_done()
    assert [[r.name for r in group.reports] for group in found.done()] == [["small-1"]]
    (found.runs[1].folder / "report.json").unlink()
    with pytest.raises(RunError, match="the sweep 'small' has no run that is done"):
        found.done()


def test_reports_of_an_earlier_sweep_are_not_taken_for_those_of_this_one(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.run_sweep(load("{seeds: 2}", *SHORT), out=Path("out"), jobs=1)
    monkeypatch.setattr(train, "fit", refuse)
    with pytest.raises(RunError, match="all 2 runs failed; the first, small-0: AssertionError"):
        pipeline.run_sweep(load("{seeds: 2}", *SHORT, "train.epochs=3"), out=Path("out"), jobs=1)
    found = load_sweep_folder(Path("out"))
    assert found is not None and not found.is_done()
    with pytest.raises(RunError, match="has no run that is done"):
        found.done()


def test_runs_are_grouped_by_what_the_sweep_varies(load: Load) -> None:
    sweep = load("{seeds: 2, over: {align.seed: [0, 1]}}", *SHORT)
    swept = pipeline.run_sweep(sweep, out=Path("out"), jobs=1)
    assert [column.runs for column in swept.comparison.columns] == [
        ("seed-0-0", "seed-0-1"), ("seed-1-0", "seed-1-1"),
    ]  # fmt: skip


def test_claims_are_about_the_checkpoints_of_each_run(load: Load) -> None:
    claim = "{text: t, value: {found_at: end, applied_at: all}, at_most: 9, split: test}"
    sweep = load(
        f"{{seeds: 2, over: {{train.epochs: [2, 3]}}, claims: [{claim}]}}",
        "train.checkpoints=[1]", "evaluate.matrix.points=3", *SHORT,
    )  # fmt: skip
    swept = pipeline.run_sweep(sweep, out=Path("out"), jobs=1)
    for finding, epochs in zip(swept.findings, (2, 3), strict=True):
        assert finding.run == f"epochs-{epochs}"
        reports = [Report.load(Path(f"out/runs/epochs-{epochs}-{seeds}")) for seeds in (0, 1)]
        own = [
            max(
                max(m.barriers[m.found_at.index(str(epochs))])
                for m in report.matrices
                if (m.split, m.metric) == ("test", "loss")
            )
            for report in reports
        ]
        assert finding.value.value == pytest.approx(sum(own) / 2)


def test_a_run_is_not_put_into_the_folder_of_a_sweep(load: Load) -> None:
    sweep = load("{seeds: 1}", *SHORT)
    pipeline.run_sweep(sweep, out=Path("out/small"), jobs=1)
    with pytest.raises(RunError, match="out/small: is the folder of a sweep"):
        pipeline.run(loads(sweep.text, overrides=["sweep=null"]))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks at /proc")
def test_workers_end_with_the_process_that_started_them(load: Load, tmp_path: Path) -> None:
    load("{seeds: 4}", "train.epochs=3000")
    program = (
        "from pathlib import Path\n"
        "from mergekit_perm import pipeline\n"
        "from mergekit_perm.spec import load_sweep\n"
        "if __name__ == '__main__':\n"
        "    sweep = load_sweep('swept.yaml', overrides=['train.epochs=3000'])\n"
        "    pipeline.run_sweep(sweep, out=Path('out'), jobs=2)\n"
    )
    (tmp_path / "program.py").write_text(program)
    paths = os.pathsep.join(
        [str(Path(pm.__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    parent = subprocess.Popen(
        [sys.executable, "program.py"], env={**os.environ, "PYTHONPATH": paths}
    )
    workers = wait_for(lambda: children_of(parent.pid) if (tmp_path / "out/runs").exists() else [])
    assert workers
    parent.kill()
    parent.wait()
    wait_for(lambda: not any(alive(worker) for worker in workers))


def wait_for(happens: Callable[[], Any]) -> Any:
    for _ in range(600):
        if found := happens():
            return found
        time.sleep(0.1)
    raise AssertionError("it has not happened within a minute")


def children_of(process: int) -> list[int]:
    text = Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(word) for word in text.split()]


def alive(process: int) -> bool:
    try:
        return "zombie" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


def test_a_folder_that_is_no_sweep(tmp_path: Path) -> None:
    assert load_sweep_folder(tmp_path) is None
    for text in ("[]", '{"format": "another"}', "{"):
        (tmp_path / "sweep.json").write_text(text)
        assert load_sweep_folder(tmp_path) is None
