"""Runs that stop and go on, folders that belong to others, and disks that are full."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mergekit_perm import evaluate, pipeline, train
from mergekit_perm.errors import EvaluationError, RunError
from mergekit_perm.pipeline.folder import RunFolder
from mergekit_perm.spec import RunSpec

Small = Callable[..., RunSpec]
Killed = Callable[[Callable[[], object], int], list[Any]]
FOLDER = Path("out/small")


def refuse(*_args: Any, **_options: Any) -> Any:
    raise AssertionError("this was done already")


def stamps() -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in (FOLDER / ".stages").iterdir()}


def test_a_finished_run_does_nothing_again(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    first = pipeline.run(small())
    before = stamps()
    for module, name in ((train, "fit"), (evaluate, "measure_points")):
        monkeypatch.setattr(module, name, refuse)
    assert pipeline.run(small()).barriers == first.barriers
    assert stamps() == before


def test_a_failed_run_goes_on_where_it_stopped(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:

        def fail(*_args: Any, **_options: Any) -> Any:
            raise EvaluationError("the device is gone")

        broken.setattr(evaluate, "measure_points", fail)
        with pytest.raises(
            EvaluationError, match="evaluate/naive/none/networks: the device is gone"
        ):
            pipeline.run(small())
    before = stamps()
    assert {"networks+a.json", "align.json", "merge+mean.json"} <= before.keys()
    monkeypatch.setattr(train, "fit", refuse)
    report = pipeline.run(small())
    assert len(report.barriers) == 32
    assert {name: stamps()[name] for name in before} == before


def test_points_that_were_measured_are_kept(small: Small, killed: Killed) -> None:
    # After the three networks and two points of the first pair.
    seen = killed(lambda: pipeline.run(small("evaluate.points=9")), 5)
    (kept,) = FOLDER.glob(".stages/*.points.jsonl")
    with kept.open("a", encoding="utf-8") as file:
        file.write('\n{"key": "cut o')
    first = list(seen)
    report = pipeline.run(small("evaluate.points=9"))
    naive = seen[: seen.index((1.0, 0.0, 0.0), 1)]
    assert len(naive) == len(set(naive)) and naive[:5] == first
    assert not list(FOLDER.glob(".stages/*.points.jsonl"))
    again = pipeline.run(small("evaluate.points=9"), out="out/again")
    assert again.barriers == report.barriers


def test_force_redoes_points_too(small: Small) -> None:
    first = pipeline.run(small())
    name = "evaluate/naive/none/a+b"
    folder = RunFolder(FOLDER)
    record = json.loads((FOLDER / ".stages/evaluate+naive+none+a+b.json").read_text())
    for point in record["result"]["points"]:
        for metrics in point["metrics"].values():
            metrics["loss"] = 99.0
        folder.keep_point(name, record["key"], point)
    assert pipeline.run(small(), force=True).barriers == first.barriers


def test_a_changed_spec_redoes_only_what_depends_on_it(small: Small) -> None:
    pipeline.run(small())
    before = stamps()
    pipeline.run(small("align.seed=5"))
    changed = {name for name, stamp in stamps().items() if before.get(name) != stamp}
    assert "align.json" in changed and "merge+mean.json" in changed
    assert "evaluate+aligned+none+a+b.json" in changed
    untouched = {"networks+a.json", "permutations.json", "evaluate+naive+none+a+b.json"}
    assert not changed & untouched


def test_a_file_that_was_changed_by_hand_is_made_again(small: Small) -> None:
    pipeline.run(small())
    file = FOLDER / "aligned/b.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    pipeline.run(small())
    assert file.read_bytes() == content


def test_what_a_run_no_longer_has_is_removed(small: Small) -> None:
    pipeline.run(small())
    assert (FOLDER / "merged/mean/model.safetensors").exists()
    pipeline.run(small("merge=[{name: other, method: linear}]"))
    assert not (FOLDER / "merged/mean/model.safetensors").exists()
    assert (FOLDER / "merged/other/model.safetensors").exists()


def test_trained_networks_are_shared_between_runs(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.run(small())
    monkeypatch.setattr(train, "fit", refuse)
    pipeline.run(small("name=other"))
    assert Path("out/other/networks/a.safetensors").exists()


def test_a_network_in_the_cache_that_is_cut_off_is_trained_again(
    small: Small, tmp_path: Path
) -> None:
    pipeline.run(small())
    good = (FOLDER / "networks/a.safetensors").read_bytes()
    for cached in (tmp_path / "cache/networks").iterdir():
        cached.write_bytes(cached.read_bytes()[:50])
    pipeline.run(small("name=other"))
    assert Path("out/other/networks/a.safetensors").read_bytes() == good


def test_force_redoes_everything(small: Small) -> None:
    pipeline.run(small())
    before = stamps()
    pipeline.run(small(), force=True)
    assert all(stamps()[name] > stamp for name, stamp in before.items())


def test_a_folder_of_another_spec_is_refused(small: Small) -> None:
    pipeline.run(small(), out="here")
    with pytest.raises(RunError) as error:
        pipeline.run(small("name=other"), out="here")
    assert str(error.value) == (
        "here: belongs to another spec, 'small', and this one is 'other'; choose another folder "
        "with --out, or overwrite with --force"
    )
    pipeline.run(small("name=other"), out="here", force=True)
    assert RunFolder(Path("here")).claim("other", force=False) is None


def test_a_folder_of_something_else_is_refused(small: Small) -> None:
    Path("here").mkdir()
    Path("here/thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="here: holds files that are no run of perm-merge"):
        pipeline.run(small(), out="here")
    Path("there").write_text("")
    with pytest.raises(RunError, match="there: is a file; choose another folder with --out"):
        pipeline.run(small(), out="there")
    assert Path("here/thesis.tex").read_text() == "years of work"


def test_a_full_disk_keeps_what_is_finished(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = Path.replace

    def full(self: Path, target: Path) -> Path:
        if "aligned" in str(target):
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(self, target)

    with monkeypatch.context() as disk:
        disk.setattr(Path, "replace", full)
        with pytest.raises(RunError) as error:
            pipeline.run(small())
    assert str(error.value) == (
        "out/small: cannot write: no space is left on the device; 4 finished stages are kept, "
        "so make room and run again to go on"
    )
    assert not list(FOLDER.rglob("*.tmp"))
    assert not list((FOLDER / "aligned").glob("*"))
    assert len(pipeline.run(small()).barriers) == 32


def test_a_killed_run_finishes_without_redoing(small_text: str) -> None:
    Path("small.yaml").write_text(small_text.replace("epochs: 2", "epochs: 20"))
    command = [sys.executable, "-c", "from mergekit_perm.cli import main; main()"]
    command += ["run", "small.yaml"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    record = FOLDER / ".stages/networks+a.json"
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        while not record.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    before, trained = record.stat().st_mtime_ns, json.loads(record.read_text())
    assert not (FOLDER / "report.json").exists()
    pipeline.run("small.yaml")
    assert record.stat().st_mtime_ns == before
    assert trained["result"]["origin"] == "trained"
    assert json.loads((FOLDER / "report.json").read_text())["name"] == "small"


def test_a_record_that_is_cut_off_counts_as_unfinished(small: Small) -> None:
    pipeline.run(small())
    record = FOLDER / ".stages/align.json"
    record.write_text(record.read_text()[:40])
    pipeline.run(small())
    assert json.loads(record.read_text())["stage"] == "align"


def test_nothing_temporary_is_left_behind(small: Small) -> None:
    pipeline.run(small())
    assert not [p for p in Path("out").rglob("*") if p.name.endswith(".tmp")]


def test_a_checkpoint_that_changed_is_read_again(small: Small) -> None:
    pipeline.run(small())
    read = small(
        "name=read",
        "networks.a={checkpoint: local-dir:out/small/merged/mean}",
        "networks.b={checkpoint: out/small/networks/b.safetensors}",
    )
    first = pipeline.run(read)
    pipeline.run(
        small("merge=[{name: mean, method: linear, parameters: {weight: {a: 1, b: 0, c: 0}}}]")
    )
    second = pipeline.run(read)
    assert first.networks["a"] != second.networks["a"]
    assert first.networks["b"] == second.networks["b"]


def test_a_relative_image_folder_starts_from_the_spec(small_text: str, tmp_path: Path) -> None:
    from PIL import Image

    for split in ("train", "test"):
        for label in ("cats", "dogs"):
            folder = tmp_path / "study/images" / split / label
            folder.mkdir(parents=True)
            for number in range(2):
                Image.new("L", (8, 8), 60 * number).save(folder / f"{number}.png")
    text = small_text.replace(
        "digits", "{source: 'folder:images', options: {size: 8, channels: 1}}"
    )
    (tmp_path / "study/run.yaml").write_text(text)
    report = pipeline.run(tmp_path / "study/run.yaml")
    assert report.networks["a"]["test"].n == 4
