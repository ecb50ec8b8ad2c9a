"""timm's registered names, the module family of each, and how many parameters they have.

Counted once by building every network on the meta device (minutes), in a process of its own, and
kept in `counts.json` of the results folder for as long as timm stays the same version. Names that
timm lists are meant: deprecated ones, and those that perm-merge itself registers, are left out.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from tests.benchmarks.sources import ROOT


@dataclass(frozen=True, slots=True)
class Registered:
    """A name of timm: its module family, and its number of parameters."""

    family: str
    parameters: int


Registry = Mapping[str, Registered]


def registry(folder: Path) -> Registry:
    """Return every registered name, counting parameters if `folder` does not have them yet."""
    path = folder / "counts.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if known.get("timm") != version("timm"):
        print("counting the parameters of all networks of timm, some minutes", file=sys.stderr)
        command = [sys.executable, "-m", __name__, str(path)]
        subprocess.run(command, check=True, cwd=ROOT)
        known = json.loads(path.read_text(encoding="utf-8"))
    return {name: Registered(*entry) for name, entry in known["networks"].items()}


def families(names: Registry) -> dict[str, str]:
    """Return the smallest variant of every family; of equals the first by name."""
    ordered = sorted(names, key=lambda n: (names[n].family, names[n].parameters, n))
    smallest: dict[str, str] = {}
    for name in ordered:
        smallest.setdefault(names[name].family, name)
    return smallest


def counted() -> dict[str, tuple[str, int]]:
    """Return family and number of parameters of every name, in alphabetical order."""
    import timm
    import torch
    from timm.models import model_entrypoint

    found = {}
    for name in sorted(timm.list_models()):
        family = model_entrypoint(name).__module__
        if family.startswith("timm.models."):
            with torch.device("meta"):
                module = timm.create_model(name)
            count = sum(parameter.numel() for parameter in module.parameters())
            found[name] = (family.rpartition(".")[2], count)
    return found


def main(path: Path) -> None:
    """Count, and write the outcome to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"timm": version("timm"), "networks": counted()}, indent=0)
    path.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
