"""What all figures are made of: a chart with a caption, and the words on its axes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import altair as alt

from mergekit_perm.report.summaries import Case

Record = dict[str, Any]

# The height of curves, in pixels.
_CURVE = 260

BELOW = alt.Legend(orient="bottom", columns=3, symbolOpacity=1)
"""A legend below a figure, in full colours where marks such as bands are pale."""

# The same for words that are too long to be side by side in a narrow window.
_LIST = alt.Legend(orient="bottom", columns=1, symbolOpacity=1)


@dataclass(frozen=True, slots=True)
class Values:
    """The values of a figure as a table, for who cannot see it: titles of columns, and lines."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure.

    Attributes:
        name: of a file, without an ending.
        kind: what it shows, a few words.
        case: of which split, metric and calibration, "" where it is of none.
        caption: what is shown, and in which unit.
        chart: how it is drawn.
        values: what is drawn, as a table.
        wide: whether it is as wide as there is room.
    """

    name: str
    kind: str
    case: str
    caption: str
    chart: alt.Chart | alt.LayerChart
    values: Values
    wide: bool = True

    @property
    def title(self) -> str:
        """What it shows, and in which case."""
        return f"{self.kind}: {self.case}" if self.case else self.kind

    def specification(self) -> Record:
        """Return the Vega-Lite specification, complete with its data."""
        found: Record = self.chart.to_dict(validate=False)
        return found


def values_of(
    records: Sequence[Record],
    case: Case | None = None,
    *,
    without: Sequence[str] = (),
    **titles: str,
) -> Values:
    """Return what is in `records` as a table.

    Places in a plane are left out, and ends of intervals where there is none.

    Args:
        records: of one figure; all have the same fields. Of none, there is nothing to tell.
        case: which tells the units.
        without: fields to leave out as well.
        titles: of columns, where they are not those that fields have in all figures.
    """
    if not records:
        return Values((), ())
    told = _TITLES | ({} if case is None else _units(case)) | titles
    unseen = {"x", "y", *without}
    if all(record.get("low") == record.get("high") for record in records):
        unseen |= {"low", "high"}
    fields = [field for field in records[0] if field not in unseen]
    return Values(
        tuple(told.get(field, field) for field in fields),
        tuple(tuple(_cell(record[field]) for field in fields) for record in records),
    )


# Titles of columns of values, where fields have others.
_TITLES = {
    "line": "",
    "one": "network",
    "other": "other network",
    "share": "share of the second network",
    "found": "found at",
    "applied": "applied at",
    "kept": "weights that are left, %",
    "before": "mean cosine before",
    "after": "mean cosine after",
    "moved": "units moved",
    "size": "units",
    "n": "runs",
}


def _units(case: Case) -> dict[str, str]:
    own = "error, %" if case.metric == "error" else "loss, nats"
    axis = excess_axis(case)
    ends = {"low": "from", "high": "to"}
    return {"excess": axis, "barrier": axis, "value": own} | ends


def _cell(value: Any) -> str:
    if value is None:
        return "infinite or no number"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def named_apart(figures: Sequence[Figure]) -> list[Figure]:
    """Return `figures`, those numbered whose name another one has before them."""
    found: list[Figure] = []
    for figure in figures:
        same = sum(other.name == figure.name for other in found)
        found.append(replace(figure, name=f"{figure.name}-{same + 1}") if same else figure)
    return found


def plot(records: Sequence[Record]) -> alt.Chart:
    """Return a chart of `records`, without marks."""
    return alt.Chart(alt.InlineData(values=list(records)))


def layers(*charts: alt.Chart, width: int | str, height: int) -> alt.LayerChart:
    """Return `charts` on top of one another."""
    layered = alt.layer(*charts)
    assert isinstance(layered, alt.LayerChart), "no chart has facets"
    return layered.properties(width=width, height=height)


def measured(excess: float, value: float, case: Case) -> Record:
    """Return figures for a chart; what is infinite or no number is a gap."""
    return {
        "excess": shown(excess, case) if math.isfinite(excess) else None,
        "value": shown(value, case) if math.isfinite(value) else str(value),
    }


def shown(value: float, case: Case) -> float:
    """Return `value` in the unit of an axis: an error in percent."""
    return 100 * value if case.metric == "error" else value


def gaps(records: Sequence[Record], of: str = "excess") -> str:
    """Return a sentence on points that are not shown, as they have no number `of`, if any."""
    count = sum(record[of] is None for record in records)
    are = "point is" if count == 1 else "points are"
    return f" {count} {are} infinite or no number, and not shown." if count else ""


def case_words(case: Case) -> str:
    """Return what was measured."""
    calibrated = "" if case.calibration == "none" else f", calibration {case.calibration}"
    return f"{case.split} {case.metric}{calibrated}"


def excess_words(case: Case) -> str:
    """Return what a height is, to begin a sentence with."""
    unit = "in percentage points" if case.metric == "error" else "in nats"
    return f"Excess of the {case.metric} over the mix of the networks' own, {unit},"


def excess_axis(case: Case) -> str:
    """Return the title of an axis of heights."""
    return "excess, points" if case.metric == "error" else "excess, nats"


def file_name(kind: str, case: Case, alignment: str) -> str:
    """Return the name of a figure."""
    parts = (kind, case.split, case.metric, case.calibration, alignment)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(parts))


def along_pruning(
    found_at: Sequence[str], applied_at: Sequence[str], end: str
) -> Iterator[tuple[str, int | None, int]]:
    """Yield what a figure of barriers along pruning has of a matrix.

    Yields:
        Which permutations, the row (None is the one without permutations), and the column.
    """
    for column, step in enumerate(applied_at):
        if step != end and step.isdecimal():  # an epoch before the end
            continue
        yield "none", None, column
        if end in found_at:
            yield "of the dense networks", found_at.index(end), column
        if step in found_at:
            yield "of the level itself", found_at.index(step), column


def sparsity_chart(records: list[Record], case: Case) -> alt.LayerChart:
    """Return curves over the share of weights that is left, with bands where there are any."""
    base = plot([record for record in records if record["excess"] is not None]).encode(
        x=alt.X(
            "kept:Q",
            title="weights that are left, %",
            scale=alt.Scale(type="log", reverse=True, nice=False),
        ),
        color=alt.Color("permutations:N", title="permutations", legend=_LIST),
        tooltip=[
            alt.Tooltip("permutations:N"),
            alt.Tooltip("kept:Q", format=".3"),
            alt.Tooltip("excess:Q", format=".5"),
        ],
    )
    return banded(base, case)


def banded(base: alt.Chart, case: Case, ends: tuple[float, float] | None = None) -> alt.LayerChart:
    """Return curves of `excess` with a band from `low` to `high` around each.

    Args:
        base: what they are of, with the horizontal axis and the colours.
        case: of the excess.
        ends: where the vertical axis begins and ends; None is where the bands do.
    """
    scale = alt.Undefined if ends is None else alt.Scale(domain=list(ends))
    return layers(
        base.mark_area(opacity=0.2, line=False).encode(
            y=alt.Y("low:Q", title=excess_axis(case), scale=scale), y2=alt.Y2("high:Q")
        ),
        base.mark_line(point=alt.OverlayMarkDef(size=25), strokeWidth=1.5).encode(
            y=alt.Y("excess:Q")
        ),
        width="container",
        height=_CURVE,
    )
