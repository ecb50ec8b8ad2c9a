"""The claims of specs/claims, measured: python docs/claims.py [NAME ...] writes RESULTS.md there.

Sweeps are kept in out/claims and gone on with: what is done is not done again.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from pathlib import Path

import torch

from mergekit_perm import pipeline
from mergekit_perm.pipeline.sweep import Swept
from mergekit_perm.report import to_markdown
from mergekit_perm.report.compare import compare_groups
from mergekit_perm.report.compare_terminal import finding_words
from mergekit_perm.report.sweeps import load_sweep_folder
from mergekit_perm.spec import load_sweep

CLAIMS = Path(__file__).parent.parent / "specs" / "claims"
OUT = Path("out/claims")
SECONDS = "seconds.json"


def main() -> None:
    """Run the sweeps that are named, or all, and write the page of all that have been run."""
    known = {path.stem: path for path in sorted(CLAIMS.glob("*.yaml"))}
    for name in sys.argv[1:] or known:
        folder = OUT / name
        # A cache of its own: how long a sweep takes does not depend on others before it.
        os.environ["PERM_MERGE_CACHE"] = str(folder.absolute() / "cache")
        before = load_sweep_folder(folder)
        complete = before is not None and before.is_done()
        began = time.perf_counter()
        swept = pipeline.run_sweep(load_sweep(known[name]), out=folder)
        file = folder / SECONDS
        if not (complete and file.is_file()):  # all attempts together
            earlier = json.loads(file.read_text())["seconds"] if file.is_file() else 0.0
            seconds = earlier + time.perf_counter() - began
            file.write_text(json.dumps({"seconds": seconds, "cores": os.cpu_count()}))
        (folder / "findings.md").write_text(page(name, folder, swept), encoding="utf-8")
    parts = [
        "# The claims, measured\n",
        "Made by `python docs/claims.py` from the sweeps in this folder; nothing here is typed by "
        "hand. Means over sets of seeds, with 95 % t-intervals. A claim holds if the whole "
        "interval of its margins is on the right side, fails if it is on the wrong one.\n",
        *(
            (OUT / name / "findings.md").read_text(encoding="utf-8")
            for name in known
            if (OUT / name / "findings.md").is_file()
        ),
    ]
    (CLAIMS / "RESULTS.md").write_text("\n".join(parts), encoding="utf-8")


def page(name: str, folder: Path, swept: Swept) -> str:
    """Return the section of one sweep: its claims, and what was measured."""
    found = load_sweep_folder(folder)
    assert found is not None
    groups = found.done()
    taken = json.loads((folder / SECONDS).read_text())
    version = torch.__version__.partition("+")[0]
    rows = [
        f"| {finding.claim.text} | {finding.run} | **{finding.verdict}** | "
        f"{finding_words(finding)} |"
        for finding in swept.findings
    ]
    tables = [
        to_markdown(compare_groups(groups, split="train", metric=metric))
        for metric in ("error", "loss")
    ]
    return "\n".join([
        f"## {name}\n",
        f"`perm-merge sweep {name}`: {len(found.runs)} runs, {taken['seconds'] / 60:.1f} minutes "
        f"on {taken['cores']} cores ({platform.machine()}, torch {version}).\n",
        "| claim | runs | verdict | measured |\n| --- | --- | --- | --- |",
        *rows,
        "",
        *tables,
    ])  # fmt: skip


if __name__ == "__main__":
    main()
