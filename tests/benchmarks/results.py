"""RESULTS.md from the figures that benchmarks keep beside it.

python -m tests.benchmarks.results
"""

from __future__ import annotations

import json
import platform
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.sections import SECTIONS, Rows
from tests.benchmarks.sources import ROOT, SOURCES, digest

FOLDER = Path(__file__).with_name("results")
PAGE = Path(__file__).with_name("RESULTS.md")

# By benchmark. Looked up on import: what is edited while a benchmark runs is not what it measures.
CODE = {name: digest(ROOT, patterns) for name, patterns in SOURCES.items()}


def keep(name: str, rows: Rows, device: str = "cpu") -> None:
    """Keep the figures of benchmark `name`, with where they were measured, and renew the page.

    Rows that were not kept before are of today's code.
    """
    FOLDER.mkdir(exist_ok=True)
    content = {"where": where(device), "rows": [{"code": CODE[name], **row} for row in rows]}
    (FOLDER / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    write()


def kept(name: str) -> Rows:
    """Return the figures that are there of benchmark `name`.

    The `code` of a row is the digest of the source that it was measured with, "" if that is not
    known.
    """
    content = _read(name)
    return [] if content is None else content["rows"]


def where(device: str) -> str:
    """Return what a benchmark on `device` runs on."""
    name = "CPU" if device == "cpu" else torch.cuda.get_device_name(device)
    version = torch.__version__.partition("+")[0]
    threads = torch.get_num_threads()
    return f"{name}, {platform.machine()}, {threads} thread{'s' * (threads > 1)}, torch {version}"


def write() -> None:
    """Write the page from all figures there are."""
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """Return the page of all figures there are."""
    parts = [
        "# Alignment and evaluation, measured\n",
        "Made by `pytest -m bench tests/benchmarks`; the figures are in results/, and "
        "`python -m tests.benchmarks.results` writes this page from them. Figures are of other "
        "code than today's where a file that decides them (tests/benchmarks/sources.py) has "
        "changed since, or nobody kept what it was.\n",
    ]
    for name, section in SECTIONS.items():
        content = _read(name)
        if content is not None:
            rows = content["rows"]
            measured = f"Measured on {content['where']}.{other_code(rows, name)}\n"
            parts += [section.text(rows), measured]
    return "\n".join(parts)


def other_code(rows: Rows, name: str) -> str:
    """Say which rows of benchmark `name` other code than today's was measured with; "" if none."""
    called = SECTIONS[name].called
    there = Counter(called.format_map(row) for row in rows)
    other = Counter(called.format_map(row) for row in rows if row["code"] != CODE[name])
    if not other:
        return ""
    if other == there:
        return " All of it is of other code than today's."
    which = (
        row if count == there[row] else f"{row} ({count} of {there[row]} figures)"
        for row, count in other.items()
    )
    return f" Of other code than today's: {', '.join(which)}."


def _read(name: str) -> Mapping[str, Any] | None:
    """Return what is kept of benchmark `name`: where it was measured, and the rows."""
    file = FOLDER / f"{name}.json"
    if not file.is_file():
        return None
    content = json.loads(file.read_text(encoding="utf-8"))
    return {**content, "rows": [{"code": "", **row} for row in content["rows"]]}


if __name__ == "__main__":
    write()
