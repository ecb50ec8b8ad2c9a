"""A comparison as one HTML file that needs no network: its tables, and figures to hover over."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence

from mergekit_perm.report.charts import case_words
from mergekit_perm.report.claims import Finding
from mergekit_perm.report.compare import ComparedRow, Comparison
from mergekit_perm.report.compare_figures import compared_figures
from mergekit_perm.report.compare_terminal import (
    change_words,
    column_words,
    finding_words,
    spread_words,
)
from mergekit_perm.report.numbers import number
from mergekit_perm.report.page import figure_places, page, table


def comparison_to_html(comparison: Comparison, findings: Sequence[Finding] = ()) -> str:
    """Return the comparison as the text of an HTML file, complete with the scripts it needs.

    Args:
        comparison: of runs.
        findings: what they say about claims.
    """
    drawn = compared_figures(comparison)
    body = [
        *_claims(findings), *_columns(comparison), *_rows(comparison), *figure_places(drawn)
    ]  # fmt: skip
    return page(" / ".join(comparison.names), body, drawn)


def _claims(findings: Sequence[Finding]) -> Iterator[str]:
    if findings:
        yield "<h2>Claims</h2>"
        rows = [
            [finding.claim.text, finding.run, finding.verdict, finding_words(finding)]
            for finding in findings
        ]
        yield from table(["", "runs", "verdict", "measured"], rows, "Claims")


def _columns(comparison: Comparison) -> Iterator[str]:
    words = column_words(comparison)
    rows = [
        [each.name, of_column, ", ".join(each.runs)]
        for each, of_column in zip(comparison.columns, words, strict=True)
    ]
    yield from table(["", "alignment", "runs"], rows, "Alignments")
    if len(comparison.columns) > 1:
        first = html.escape(comparison.columns[0].name)
        yield f'<p class="dim">In brackets: the difference to {first}.</p>'


def _rows(comparison: Comparison) -> Iterator[str]:
    for case in dict.fromkeys(row.case for row in comparison.rows):
        yield f"<h2>{html.escape(case_words(case))}</h2>"
        rows = [row for row in comparison.rows if row.case == case]
        places = range(len(comparison.columns))
        best = [(i, place) for i, row in enumerate(rows) for place in places if row.is_best(place)]
        body = [[row.full_label, *(_cell(row, place) for place in places)] for row in rows]
        yield from table(["", *comparison.names], body, case_words(case), strong=best)


def _cell(row: ComparedRow, place: int) -> str:
    metric = row.case.metric
    shown = number(row.values[place], metric=metric)
    spread = spread_words(row.means[place], metric)
    return f"{shown}{spread}{change_words(row.differences[place], metric)}"
