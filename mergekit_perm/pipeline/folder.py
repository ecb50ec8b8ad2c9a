"""The folder of a run: whose it is, what is finished in it, and what is left over.

Every finished stage has a record in `.stages/`: the content key it was run with, its result, and
the hash of every file it wrote. A stage is done when the key is the same and its files are as it
left them; so a run that was killed goes on where it stopped, and a changed spec redoes just what
it changes.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergekit_perm import yaml_document
from mergekit_perm.checkpoints.hashes import content_sha256
from mergekit_perm.errors import RunError, SpecError
from mergekit_perm.files import write_text

SPEC = "spec.yaml"
SWEEP = "sweep.json"
_RECORDS = ".stages"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder at `path`, which may not exist yet."""

    path: Path

    def claim(self, name: str, *, force: bool) -> None:
        """Make the folder this run's own.

        Raises:
            RunError: it holds something that is not a run, or the run of another spec.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path}: is a file; choose another folder with --out")
        if force or not self.path.is_dir() or not any(self.path.iterdir()):
            return
        if (self.path / SWEEP).is_file():
            raise RunError(
                f"{self.path}: is the folder of a sweep; choose another folder with --out"
            )
        owner = self._owner()
        if owner is None:
            raise RunError(
                f"{self.path}: holds files that are no run of perm-merge; choose another folder "
                "with --out, or overwrite with --force"
            )
        if owner != name:
            raise RunError(
                f"{self.path}: belongs to another spec, '{owner}', and this one is '{name}'; "
                "choose another folder with --out, or overwrite with --force"
            )

    def _owner(self) -> str | None:
        try:
            return str(yaml_document.read_file(self.path / SPEC).data["name"])
        except (SpecError, TypeError, KeyError):
            return None  # no spec of ours

    def result(self, stage: str, key: str) -> dict[str, Any] | None:
        """Return the result of `stage` if it finished with this key and its files are intact."""
        record = self._record(stage)
        if record is None or record["key"] != key:
            return None
        for name, sha256 in record["files"].items():
            path = self.path / name
            if not path.is_file() or content_sha256(path) != sha256:
                return None
        result: dict[str, Any] = record["result"]
        return result

    def sha256(self, stage: str, file: str) -> str:
        """Return the hash of a file that `stage` has written, as it was when it finished."""
        record = self._record(stage)
        if record is None or file not in record["files"]:
            return content_sha256(self.path / file)
        return str(record["files"][file])

    def finish(self, stage: str, key: str, result: dict[str, Any], files: Iterable[str]) -> None:
        """Record that `stage` is finished; `files` are relative to the folder."""
        hashes = {name: content_sha256(self.path / name) for name in files}
        self._remove_what_was_left(stage, hashes)
        record = {"stage": stage, "key": key, "result": result, "files": hashes}
        write_text(self._record_path(stage), json.dumps(record, indent=1))
        self.forget_points(stage)

    def _remove_what_was_left(self, stage: str, kept: Collection[str]) -> None:
        """Delete what `stage` wrote before and does not any more, unless it is another stage's."""
        before = self._record(stage)
        stale = set() if before is None else before["files"].keys() - kept
        if stale:
            records = map(self._read, (self.path / _RECORDS).glob("*.json"))
            stale -= {f for r in records if r and r["stage"] != stage for f in r["files"]}
        for name in stale:
            (self.path / name).unlink(missing_ok=True)

    def forget_points(self, stage: str) -> None:
        """Delete the points that `stage` had measured when it was cut off."""
        self._points_path(stage).unlink(missing_ok=True)

    def keep_point(self, stage: str, key: str, point: dict[str, Any]) -> None:
        """Keep a point that `stage` has measured until the stage is finished."""
        path = self._points_path(stage)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            # Lines begin anew: the last one may have been cut off.
            file.write("\n" + json.dumps({"key": key, "point": point}))

    def kept_points(self, stage: str, key: str) -> list[dict[str, Any]]:
        """Return the points that `stage` had measured with this key when it was cut off."""
        try:
            text = self._points_path(stage).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return []
        found = map(_parsed, text.splitlines())
        return [kept["point"] for kept in found if kept and kept["key"] == key]

    def remove_leftovers(self, stages: Collection[str]) -> None:
        """Delete what stages wrote that the run no longer has."""
        records = [self._read(path) for path in (self.path / _RECORDS).glob("*.json")]
        known = [record for record in records if record is not None]
        wanted = {file for r in known if r["stage"] in stages for file in r["files"]}
        for record in known:
            if record["stage"] not in stages:
                for name in record["files"].keys() - wanted:
                    (self.path / name).unlink(missing_ok=True)
                self._record_path(record["stage"]).unlink(missing_ok=True)
        kept = {self._points_path(stage) for stage in stages}
        for path in (self.path / _RECORDS).glob("*.points.jsonl"):
            if path not in kept:
                path.unlink(missing_ok=True)

    def _record(self, stage: str) -> dict[str, Any] | None:
        return self._read(self._record_path(stage))

    def _record_path(self, stage: str) -> Path:
        return self.path / _RECORDS / f"{stage.replace('/', '+')}.json"

    def _points_path(self, stage: str) -> Path:
        return self.path / _RECORDS / f"{stage.replace('/', '+')}.points.jsonl"

    @staticmethod
    def _read(path: Path) -> dict[str, Any] | None:
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None  # never finished, or cut off by something that is not us: redo it
        complete = isinstance(record, dict) and {"stage", "key", "result", "files"} <= record.keys()
        return record if complete else None


def _parsed(line: str) -> dict[str, Any] | None:
    """Return what a line of kept points says; None where the run was killed while writing it."""
    try:
        kept = json.loads(line)
    except ValueError:
        return None
    return kept if isinstance(kept, dict) and {"key", "point"} <= kept.keys() else None
