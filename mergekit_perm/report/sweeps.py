"""The folder of a sweep: a file in it names its runs, and what they are to show."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mergekit_perm.errors import RunError
from mergekit_perm.files import write_text
from mergekit_perm.report.claims import Claim
from mergekit_perm.report.model import FILE as REPORT
from mergekit_perm.report.model import Report
from mergekit_perm.report.repeats import Repeats

FILE = "sweep.json"
_FORMAT = "perm-merge/sweep@1"


@dataclass(frozen=True, slots=True)
class SweptRun:
    """One run of a sweep.

    Attributes:
        folder: of the run.
        label: of its variation, which runs that differ by seeds share.
        spec_sha256: of the spec that it is of: a report of another one is of an earlier sweep.
        values: by field what the sweep sets it to.
    """

    folder: Path
    label: str
    spec_sha256: str
    values: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def report(self) -> Report | None:
        """Return its report; None where it is not done, or that of another spec."""
        if not (self.folder / REPORT).is_file():
            return None
        found = Report.load(self.folder)
        return found if found.provenance.spec_sha256 == self.spec_sha256 else None


@dataclass(frozen=True, slots=True)
class SweepFolder:
    """What is in the folder of a sweep: its name, its runs, and its claims."""

    name: str
    runs: tuple[SweptRun, ...]
    claims: tuple[Claim, ...]

    def done(self) -> list[Repeats]:
        """Return the runs that are done, those of one label together.

        Raises:
            RunError: none is, or a report cannot be read.
        """
        groups: dict[str, list[Report]] = {}
        for run in self.runs:
            if (report := run.report()) is not None:
                groups.setdefault(run.label, []).append(report)
        if not groups:
            raise RunError(f"the sweep '{self.name}' has no run that is done; run it again")
        values = {run.label: run.values for run in self.runs}
        return [Repeats(label, tuple(reports), values[label]) for label, reports in groups.items()]

    def is_done(self) -> bool:
        """Tell whether every run is done."""
        return all(run.report() is not None for run in self.runs)


def save_sweep(folder: Path, sweep: SweepFolder) -> None:
    """Make `folder` that of `sweep`, whose runs have folders within it."""
    content = {
        "format": _FORMAT,
        "name": sweep.name,
        "runs": [
            {
                "folder": run.folder.relative_to(folder).as_posix(),
                "label": run.label,
                "spec_sha256": run.spec_sha256,
                "values": run.values,
            }
            for run in sweep.runs
        ],
        "claims": [claim.to_json() for claim in sweep.claims],
    }
    write_text(folder / FILE, json.dumps(content, indent=1) + "\n")


def load_sweep_folder(folder: Path) -> SweepFolder | None:
    """Return what is in the folder of a sweep; None where it is no such folder."""
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            return None
        runs: Sequence[SweptRun] = [
            SweptRun(
                folder / run["folder"], run["label"], run["spec_sha256"], run.get("values", {})
            )
            for run in content["runs"]
        ]
        claims = tuple(Claim.from_json(claim) for claim in content["claims"])
        return SweepFolder(content["name"], tuple(runs), claims)
    except (OSError, ValueError, KeyError, TypeError):
        return None
