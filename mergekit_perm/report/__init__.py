"""Reports: what a run found out, as data, in a terminal, and beside other runs."""

from mergekit_perm.report.compare import Comparison, compare
from mergekit_perm.report.compare_terminal import render_comparison, render_findings
from mergekit_perm.report.exports import to_csv, to_markdown
from mergekit_perm.report.model import Report
from mergekit_perm.report.terminal import render

__all__ = [
    "Comparison",
    "Report",
    "compare",
    "render",
    "render_comparison",
    "render_findings",
    "to_csv",
    "to_markdown",
]
