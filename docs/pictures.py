"""The pictures of the README, from a real run of specs/quickstart.yaml: python docs/pictures.py."""

from __future__ import annotations

import io
import re
from pathlib import Path

import torch
from rich.console import Console

from mergekit_perm import pipeline
from mergekit_perm.report import render
from mergekit_perm.report.figures import figures
from mergekit_perm.report.pictures import save_figures

HERE = Path(__file__).parent
SPEC = HERE.parent / "specs" / "quickstart.yaml"
FIGURE = "simplex-train-loss-none-aligned"


def main() -> None:
    """Run the spec and write report.svg, the terminal's, and the figure of the simplex."""
    torch.set_num_threads(1)
    report = pipeline.run(SPEC)
    console = Console(record=True, width=80, file=io.StringIO(), force_terminal=True)
    render(report, console)
    picture = console.export_svg(title="perm-merge run specs/quickstart.yaml")
    # Without fonts from elsewhere: a page that shows it may not fetch them.
    picture = re.sub(r"@font-face \{.*?\}", "", picture, flags=re.DOTALL)
    (HERE / "report.svg").write_text(picture, encoding="utf-8")
    chosen = [figure for figure in figures(report) if figure.name == FIGURE]
    for file in save_figures(chosen, HERE):
        if file.suffix == ".png":
            file.unlink()


if __name__ == "__main__":
    main()
