"""The folder of a sweep: a file in it names the folders of its runs, and what they are to show."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mergekit_perm.files import write_text
from mergekit_perm.report.claims import Claim

FILE = "sweep.json"
_FORMAT = "perm-merge/sweep@1"


@dataclass(frozen=True, slots=True)
class SweepFolder:
    """What is in the folder of a sweep: the folders of its runs, and its claims."""

    runs: tuple[Path, ...]
    claims: tuple[Claim, ...]


def save_sweep(folder: Path, runs: Iterable[Path], claims: Sequence[Claim]) -> None:
    """Make `folder` that of a sweep with these `runs`, folders within it."""
    content = {
        "format": _FORMAT,
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
            tuple(folder / run for run in content["runs"]),
            tuple(Claim.from_json(claim) for claim in content["claims"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
