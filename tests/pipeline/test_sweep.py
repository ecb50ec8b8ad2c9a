"""Sweeps: their runs in folders of their own, gone on with, and compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mergekit_perm import pipeline, train
from mergekit_perm.errors import RunError, SpecError
from mergekit_perm.report import Report, compare
from mergekit_perm.report.sweeps import load_sweep_folder
from mergekit_perm.spec import Sweep, load_sweep, loads

Load = Callable[..., Sweep]


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
    return found.runs


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
    assert compare(reports) == swept.comparison
    row = swept.comparison.rows[0]
    assert all(mean is not None and mean.half is not None for mean in row.means)
    # Networks of one seed are trained once, whatever they are aligned by.
    assert not [
        folder for folder in folders[2:] if '"cached": false' in stages(folder, "networks+a")
    ]


def stages(folder: Path, stage: str) -> str:
    return (folder / ".stages" / f"{stage}.json").read_text()


def test_a_sweep_goes_on_where_it_stopped(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = load("{seeds: 2}")
    first = pipeline.run_sweep(sweep, out=Path("out"), jobs=1)
    monkeypatch.setattr(train, "fit", refuse)
    assert pipeline.run_sweep(sweep, out=Path("out"), jobs=1).comparison == first.comparison


def test_several_at_once_are_what_one_after_another_are(load: Load) -> None:
    sweep = load("{seeds: 2}", "evaluate.simplex=null", "merge=[]")
    side_by_side = pipeline.run_sweep(sweep, out=Path("two"), jobs=2)
    alone = pipeline.run_sweep(sweep, out=Path("one"), jobs=1)
    for one, other in zip(alone.comparison.rows, side_by_side.comparison.rows, strict=True):
        assert one.values == pytest.approx(other.values, abs=1e-6)


def test_a_run_that_fails_leaves_the_others(load: Load) -> None:
    sweep = load("{over: {train.learning_rate: [0.1, 1.0e+30]}}", "merge=[]")
    swept = pipeline.run_sweep(sweep, out=Path("out"), jobs=1)
    ((name, error),) = swept.failed.items()
    assert name == "learning_rate-1e-30" and "the loss is" in error
    assert swept.comparison.names == ("learning_rate-0.1",)
    with pytest.raises(RunError, match="all 1 runs failed; the first, learning_rate-1e-30: "):
        pipeline.run_sweep(
            load("{over: {train.learning_rate: [1.0e+30]}}"), out=Path("none"), jobs=1
        )


def test_a_matrix_is_averaged_over_seeds(load: Load) -> None:
    sweep = load(
        "{seeds: 3}", "train.checkpoints=[1]", "evaluate.matrix.points=3", "merge=[]",
        "evaluate.simplex=null",
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
    pipeline.run_sweep(load("{seeds: 1}"), out=out, jobs=1)
    assert loads((out / "spec.yaml").read_text()).sweep is not None
    with pytest.raises(RunError, match="belongs to the sweep 'small'"):
        pipeline.run_sweep(load("{seeds: 1}", "name=other"), out=out, jobs=1)
    pipeline.run_sweep(load("{seeds: 1}", "name=other"), out=out, jobs=1, force=True)
    found = load_sweep_folder(out)
    assert found is not None and found.name == "other"


def test_runs_that_are_not_done_are_left_out(load: Load) -> None:
    pipeline.run_sweep(load("{seeds: 2}"), out=Path("out"), jobs=1)
    found = load_sweep_folder(Path("out"))
    assert found is not None
    (found.runs[0] / "report.json").unlink()
    assert [report.name for report in found.reports()] == ["small-1"]
    (found.runs[1] / "report.json").unlink()
    with pytest.raises(RunError, match="the sweep 'small' has no run that is done"):
        found.reports()


def test_a_folder_that_is_no_sweep(tmp_path: Path) -> None:
    assert load_sweep_folder(tmp_path) is None
    for text in ("[]", '{"format": "another"}', "{"):
        (tmp_path / "sweep.json").write_text(text)
        assert load_sweep_folder(tmp_path) is None
