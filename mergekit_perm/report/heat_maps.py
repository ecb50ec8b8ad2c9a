"""Heat maps: a scale of colours, and squares whose numbers can be read on it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import altair as alt
from altair.expr.core import Expression

from mergekit_perm.report.charts import Record, excess_axis, layers, plot
from mergekit_perm.report.summaries import Case

Domain = tuple[float, float]

# The height of a row over checkpoints, the width of the squares of pairs, and that of a legend.
_CELL = 28
_SQUARE = 300
_LEGEND = 200

# Up to here viridis is dark: black is as easy to read on what is above as white on what is below.
_DARK = 0.43


def domain(values: Iterable[float]) -> Domain:
    """Return where a scale of colours begins and ends: at 0, or at what is below; at the highest.

    Barriers that hardly differ have colours that hardly differ then.
    """
    known = [0.0, *values]
    low, high = min(known), max(known)
    return low, high if high > low else low + 1


def colour(field: str, case: Case, shades: Domain | None = None) -> alt.Color:
    """Return the colour of `field`, with a legend below, where it is as wide as it has to be."""
    ends = alt.Undefined if shades is None else list(shades)
    scale = alt.Scale(scheme="viridis", domain=ends)
    legend = alt.Legend(orient="bottom", gradientLength=_LEGEND, tickCount=3)
    return alt.Color(f"{field}:Q", title=excess_axis(case), scale=scale, legend=legend)


def words_on(value: Expression, shades: Domain) -> alt.ColorValue:
    """Return the colour of words on a cell that has the colour of `value`: black or white."""
    low, high = shades
    light = value > low + _DARK * (high - low)
    return alt.ColorValue("#fff", condition={"test": light, "value": "#000"})


def pairs_chart(
    records: Sequence[Record], names: Sequence[str], case: Case, shades: Domain
) -> alt.LayerChart:
    """Return the barrier of every pair, each twice, networks in the order of `names`."""
    base = plot(records).encode(
        x=alt.X("other:N", title=None, sort=names, axis=alt.Axis(orient="top", labelAngle=0)),
        y=alt.Y("one:N", title=None, sort=names),
        tooltip=[
            alt.Tooltip("one:N"),
            alt.Tooltip("other:N"),
            alt.Tooltip("barrier:Q", format=".5"),
        ],
    )
    cells = base.mark_rect().encode(color=colour("barrier", case, shades))
    text = base.mark_text(fontSize=11).encode(
        text=alt.Text("barrier:Q", format=".3~f" if shades[1] < 100 else ".3~s"),
        color=words_on(alt.datum.barrier, shades),
    )
    side = min(_SQUARE, 70 * len(names))
    return layers(cells, text, width=side, height=side)


def steps_chart(
    records: Sequence[Record], rows: Sequence[str], case: Case, shades: Domain
) -> alt.LayerChart:
    """Return where permutations are found, in `rows`, and where they are applied."""
    columns = list(dict.fromkeys(record["applied"] for record in records))
    base = plot([record for record in records if record["excess"] is not None]).encode(
        x=alt.X(
            "applied:N",
            title="applied at",
            sort=columns,
            axis=alt.Axis(orient="top", labelAngle=0),
        ),
        y=alt.Y("found:N", title="found at", sort=rows),
        tooltip=[
            alt.Tooltip("found:N"),
            alt.Tooltip("applied:N"),
            alt.Tooltip("excess:Q", format=".5"),
        ],
    )
    cells = base.mark_rect().encode(color=colour("excess", case, shades))
    text = base.mark_text(fontSize=10).encode(
        text=alt.Text("excess:Q", format=".2~f"), color=words_on(alt.datum.excess, shades)
    )
    return layers(cells, text, width="container", height=_CELL * len(rows))
