"""The folder of a sweep: a file in it names the folders of its runs, and what they are to show."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mergekit_perm.errors import RunError
from mergekit_perm.files import write_text
from mergekit_perm.report.claims import Claim
from mergekit_perm.report.model import FILE as REPORT
from mergekit_perm.report.model import Report

FILE = "sweep.json"
_FORMAT = "perm-merge/sweep@1"


@dataclass(frozen=True, slots=True)
class SweepFolder:
    """What is in the folder of a sweep: its name, the folders of its runs, and its claims."""

    name: str
    runs: tuple[Path, ...]
    claims: tuple[Claim, ...]

    def reports(self) -> list[Report]:
        """Return the reports of the runs that are done.

        Raises:
            RunError: none is, or a report cannot be read.
        """
        done = [run for run in self.runs if (run / REPORT).is_file()]
        if not done:
            raise RunError(f"the sweep '{self.name}' has no run that is done; run it again")
        return [Report.load(run) for run in done]


def save_sweep(folder: Path, name: str, runs: Iterable[Path], claims: Sequence[Claim]) -> None:
    """Make `folder` that of a sweep with these `runs`, folders within it."""
    content = {
        "format": _FORMAT,
        "name": name,
        "runs": [run.relative_to(folder).as_posix() for run in runs],
        "claims": [claim.to_json() for claim in claims],
    }
    write_text(folder / FILE, json.dumps(content, indent=1) + "\n")


def load_sweep_folder(folder: Path) -> SweepFolder | None:
    """Return what is in the folder of a sweep; None where it is no such folder."""
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            return None
        return SweepFolder(
            content["name"],
            tuple(folder / run for run in content["runs"]),
            tuple(Claim.from_json(claim) for claim in content["claims"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
