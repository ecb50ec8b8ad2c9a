"""The figures of a comparison: every line over all columns, and the curves of worst pairs.

Where runs repeat one another there are means, with 95 % t-intervals as bars and bands.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import altair as alt

from mergekit_perm.report.charts import (
    Figure,
    Record,
    case_words,
    excess_axis,
    excess_words,
    file_name,
    gaps,
    layers,
    named_apart,
    plot,
    shown,
    steps_chart,
)
from mergekit_perm.report.compare import Comparison
from mergekit_perm.report.intervals import Mean
from mergekit_perm.report.summaries import Case

# The height of a curve and of a column in a line, in pixels.
_CURVE = 260
_LINE = 14


def compared_figures(comparison: Comparison) -> list[Figure]:
    """Return all figures of `comparison`; no two have one name."""
    return named_apart([figure for kind in KINDS for figure in kind(comparison)])


def _heights(comparison: Comparison) -> Iterator[Figure]:
    for case in dict.fromkeys(row.case for row in comparison.rows):
        records = [
            {"figure": row.full_label, **_spread(mean, case), "run": name}
            for row in comparison.rows
            if row.case == case and row.alignment is not None
            for name, mean in zip(comparison.names, row.means, strict=True)
            if mean is not None
        ]
        if records:
            yield Figure(
                file_name("barriers", case, "compared"),
                "Barriers",
                case_words(case),
                f"{excess_words(case)} at its highest: every line of the comparison."
                f"{_intervals(comparison)}{gaps(records)}",
                _height_chart(records, comparison, case),
            )


def _height_chart(records: list[Record], comparison: Comparison, case: Case) -> alt.LayerChart:
    lines = list(dict.fromkeys(record["figure"] for record in records))
    base = plot(records).encode(
        y=alt.Y("figure:N", sort=lines, title=None),
        yOffset=alt.YOffset("run:N", sort=list(comparison.names)),
        color=_colour(comparison),
        tooltip=[alt.Tooltip("run:N"), alt.Tooltip("figure:N"), *_TOOLTIP],
    )
    return layers(
        base.mark_rule(strokeWidth=1.5).encode(
            x=alt.X("low:Q", title=excess_axis(case)), x2="high:Q"
        ),
        base.mark_circle(size=45, opacity=1).encode(x="excess:Q"),
        width="container",
        height=_LINE * len(lines) * (len(comparison.columns) + 1),
    )


def _curves(comparison: Comparison) -> Iterator[Figure]:
    for compared in comparison.curves:
        records = [
            {"share": share, **_spread(mean, compared.case), "run": name}
            for name, curve in zip(comparison.names, compared.curves, strict=True)
            for share, mean in curve or ()
        ]
        yield Figure(
            file_name("curves", compared.case, compared.alignment),
            f"Worst curves, {compared.alignment}",
            case_words(compared.case),
            f"{excess_words(compared.case)} along the path of the worst pair of every run, from "
            f"its first network (0) to its second (1).{_intervals(comparison)}{gaps(records)}",
            _curve_chart(records, comparison, compared.case),
        )


def _curve_chart(records: list[Record], comparison: Comparison, case: Case) -> alt.LayerChart:
    base = plot(records).encode(
        x=alt.X("share:Q", title="share of the second network"),
        color=_colour(comparison),
        tooltip=[alt.Tooltip("run:N"), alt.Tooltip("share:Q", format=".4"), *_TOOLTIP],
    )
    return layers(
        base.mark_area(opacity=0.2, line=False).encode(
            y=alt.Y("low:Q", title=excess_axis(case)), y2="high:Q"
        ),
        base.mark_line(point=alt.OverlayMarkDef(size=25), strokeWidth=1.5).encode(y="excess:Q"),
        width="container",
        height=_CURVE,
    )


def _checkpoints(comparison: Comparison) -> Iterator[Figure]:
    for matrix in comparison.matrices:
        rows = [("none", matrix.naive), *zip(matrix.found_at, matrix.barriers, strict=True)]
        records = [
            {"found": found, "applied": applied, **_spread(mean, matrix.case)}
            for found, row in rows
            for applied, mean in zip(matrix.applied_at, row, strict=True)
        ]
        pair = " - ".join(matrix.networks)
        yield Figure(
            file_name("checkpoints", matrix.case, f"{matrix.column}-{'-'.join(matrix.networks)}"),
            f"Permutations over checkpoints, {matrix.column}: {pair}",
            case_words(matrix.case),
            f"{excess_words(matrix.case)} at its highest on the path of the pair: permutations "
            "found at the epoch or level of a row, applied at that of a column; the first row is "
            f"without.{_intervals(comparison)}{gaps(records)}",
            steps_chart(records, [found for found, _ in rows], matrix.case),
        )


KINDS: tuple[Callable[[Comparison], Iterator[Figure]], ...] = (
    _heights,
    _curves,
    _checkpoints,
)
"""Every kind of figure: a function from a comparison to the figures it has of that kind."""

_TOOLTIP = (
    alt.Tooltip("excess:Q", format=".5"),
    alt.Tooltip("low:Q", format=".5"),
    alt.Tooltip("high:Q", format=".5"),
    alt.Tooltip("n:Q", title="runs"),
)


def _colour(comparison: Comparison) -> alt.Color:
    legend = alt.Legend(orient="bottom", columns=3)
    return alt.Color("run:N", title=None, sort=list(comparison.names), legend=legend)


def _spread(mean: Mean, case: Case) -> Record:
    """Return a mean and the ends of its interval; what is infinite or no number is a gap."""
    if not math.isfinite(mean.value):
        return {"excess": None, "low": None, "high": None, "n": mean.n}
    value, half = shown(mean.value, case), shown(mean.half or 0.0, case)
    return {"excess": value, "low": value - half, "high": value + half, "n": mean.n}


def _intervals(comparison: Comparison) -> str:
    """Return a sentence on what is a mean, if anything is."""
    if all(len(column.runs) == 1 for column in comparison.columns):
        return ""
    return " Of runs that repeat one another, the mean and its 95 % t-interval."
