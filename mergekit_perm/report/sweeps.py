"""The folder of a sweep: a file in it names the folders of its runs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from mergekit_perm.files import write_text

FILE = "sweep.json"


def save_runs(folder: Path, runs: Iterable[Path]) -> None:
    """Make `folder` that of a sweep with these `runs`, folders within it."""
    names = [run.relative_to(folder).as_posix() for run in runs]
    content = {"format": "perm-merge/sweep@1", "runs": names}
    write_text(folder / FILE, json.dumps(content, indent=1) + "\n")


def runs_of(folder: Path) -> list[Path] | None:
    """Return the folders of the runs of the sweep in `folder`; None where that is no sweep."""
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return [folder / run for run in content["runs"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
