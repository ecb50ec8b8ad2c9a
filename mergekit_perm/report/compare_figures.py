"""The figures of a comparison: every line over all columns, and the curves of worst pairs.

Where runs repeat one another there are means, with 95 % t-intervals as bars and bands.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import altair as alt

from mergekit_perm.report.charts import (
    BELOW,
    Figure,
    Record,
    along_pruning,
    banded,
    case_words,
    excess_axis,
    excess_words,
    file_name,
    gaps,
    layers,
    named_apart,
    plot,
    shown,
    sparsity_chart,
    values_of,
)
from mergekit_perm.report.compare import Column, ComparedCurve, Comparison
from mergekit_perm.report.heat_maps import Domain, domain, steps_chart
from mergekit_perm.report.intervals import Mean
from mergekit_perm.report.summaries import Case

# The height of a column in a line, in pixels.
_LINE = 14

# An axis is logarithmic from so many times the lowest value on.
_WIDE = 4


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
                values_of(records, case),
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
            x=alt.X("low:Q", title=excess_axis(case)), x2=alt.X2("high:Q")
        ),
        base.mark_circle(size=45, opacity=1).encode(x=alt.X("excess:Q")),
        width="container",
        height=_LINE * len(lines) * (len(comparison.columns) + 1),
    )


def _curves(comparison: Comparison) -> Iterator[Figure]:
    of_all = [_points(compared, comparison) for compared in comparison.curves]
    for compared, records in zip(comparison.curves, of_all, strict=True):
        alike = [
            record
            for other, some in zip(comparison.curves, of_all, strict=True)
            if other.case == compared.case
            for record in some
        ]
        yield Figure(
            file_name("curves", compared.case, compared.alignment),
            f"Worst curves, {compared.alignment}",
            case_words(compared.case),
            f"{excess_words(compared.case)} along the path of the worst pair of every run, from "
            f"its first network (0) to its second (1).{_intervals(comparison)}{gaps(records)}",
            _curve_chart(records, comparison, compared.case, _ends(alike)),
            values_of(records, compared.case),
        )


def _points(compared: ComparedCurve, comparison: Comparison) -> list[Record]:
    return [
        {"share": share, **_spread(mean, compared.case), "run": name}
        for name, curve in zip(comparison.names, compared.curves, strict=True)
        for share, mean in curve or ()
    ]


def _ends(records: list[Record]) -> tuple[float, float]:
    """Return where an axis begins and ends that naive and aligned curves share."""
    known = [record[end] for record in records for end in ("low", "high")]
    return domain(value for value in known if value is not None)


def _curve_chart(
    records: list[Record], comparison: Comparison, case: Case, ends: tuple[float, float]
) -> alt.LayerChart:
    base = plot(records).encode(
        x=alt.X("share:Q", title="share of the second network"),
        color=_colour(comparison),
        tooltip=[alt.Tooltip("run:N"), alt.Tooltip("share:Q", format=".4"), *_TOOLTIP],
    )
    return banded(base, case, ends)


def _checkpoints(comparison: Comparison) -> Iterator[Figure]:
    shades = _shades(comparison)
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
            steps_chart(records, [found for found, _ in rows], matrix.case, shades[matrix.case]),
            values_of(records, matrix.case),
        )


def _shades(comparison: Comparison) -> dict[Case, Domain]:
    """Return one scale of colours for all matrices of a case: they are to be compared."""
    values: dict[Case, list[float]] = {}
    for matrix in comparison.matrices:
        found = values.setdefault(matrix.case, [])
        for mean in (*matrix.naive, *(mean for row in matrix.barriers for mean in row)):
            if math.isfinite(mean.value):
                found.append(shown(mean.value, matrix.case))
    return {case: domain(each) for case, each in values.items()}


def _pruning(comparison: Comparison) -> Iterator[Figure]:
    for matrix in comparison.matrices:
        if min(matrix.kept) == 1.0:
            continue
        rows = (*matrix.barriers, matrix.naive)
        records = [
            {
                "permutations": which,
                "kept": 100 * matrix.kept[column],
                **_spread(rows[-1 if row is None else row][column], matrix.case),
            }
            for which, row, column in along_pruning(matrix.found_at, matrix.applied_at, matrix.end)
        ]
        pair = " - ".join(matrix.networks)
        yield Figure(
            file_name("pruning", matrix.case, f"{matrix.column}-{'-'.join(matrix.networks)}"),
            f"Barriers along pruning, {matrix.column}: {pair}",
            case_words(matrix.case),
            f"{excess_words(matrix.case)} at its highest on the path of the pair: without "
            "permutations, with those of the dense networks, and with those of the level "
            f"itself.{_intervals(comparison)}{gaps(records)}",
            sparsity_chart(records, matrix.case),
            values_of(records, matrix.case),
        )


def _swept(comparison: Comparison) -> Iterator[Figure]:
    """Yield barriers over every field that a sweep sets to numbers, such as a width."""
    for field in _swept_fields(comparison):
        for case, label in dict.fromkeys((row.case, row.label) for row in comparison.rows):
            rows = [r for r in comparison.rows if (r.case, r.label) == (case, label)]
            if not _is_summary(label, comparison) or rows[0].alignment is None:
                continue
            records = [
                {"value": as_number(column.values[field]), **_spread(mean, case)}
                | {"run": _series(column, field, row.alignment)}
                for row in rows
                for column, mean in zip(comparison.columns, row.means, strict=True)
                if mean is not None
            ]
            yield Figure(
                file_name(f"{label}-against-{field}", case, "compared"),
                f"{label.capitalize()} against {field}",
                case_words(case),
                f"{excess_words(case)} at its highest.{_intervals(comparison)}{gaps(records)}",
                _swept_chart(records, field, case),
                values_of(records, case, value=field),
            )


def _swept_chart(records: list[Record], field: str, case: Case) -> alt.LayerChart:
    values = [record["value"] for record in records]
    wide = min(values) > 0 and max(values) >= _WIDE * min(values)
    scale = alt.Scale(type="log", nice=False) if wide else alt.Scale(zero=False)
    base = plot([record for record in records if record["excess"] is not None]).encode(
        x=alt.X("value:Q", title=field, scale=scale),
        color=alt.Color("run:N", title=None, legend=BELOW),
        tooltip=[alt.Tooltip("run:N"), alt.Tooltip("value:Q"), *_TOOLTIP],
    )
    return banded(base, case)


def as_number(value: Any) -> float | None:
    """Return a swept value as a number; of a list that of its mean; None where it is none."""
    if isinstance(value, list):
        parts = [as_number(each) for each in value]
        known = [part for part in parts if part is not None]
        return math.fsum(known) / len(known) if known and len(known) == len(parts) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)


def _swept_fields(comparison: Comparison) -> list[str]:
    """Return the fields that change as numbers where the others stay as they are."""
    fields = dict.fromkeys(field for column in comparison.columns for field in column.values)
    numbers = {
        field: [as_number(column.values.get(field)) for column in comparison.columns]
        for field in fields
    }
    return [
        field
        for field, values in numbers.items()
        if None not in values and _changes(field, values, comparison)
    ]


def _changes(field: str, values: list[float | None], comparison: Comparison) -> bool:
    places: dict[str, set[float | None]] = {}
    for column, value in zip(comparison.columns, values, strict=True):
        places.setdefault(_series(column, field, None), set()).add(value)
    return any(len(of_series) > 1 for of_series in places.values())


def _series(column: Column, field: str, alignment: str | None) -> str:
    """Return what tells a column from others at the same value of `field`."""
    others = [str(value) for other, value in column.values.items() if other != field]
    return ", ".join([*others, alignment or ""])


def _is_summary(label: str, comparison: Comparison) -> bool:
    """Tell whether a line sums up its case: a single pair does."""
    pairs = {row.label for row in comparison.rows if " - " in row.label}
    return label not in pairs or len(pairs) == 1


KINDS: tuple[Callable[[Comparison], Iterator[Figure]], ...] = (
    _heights,
    _curves,
    _swept,
    _checkpoints,
    _pruning,
)
"""Every kind of figure: a function from a comparison to the figures it has of that kind."""

_TOOLTIP = (
    alt.Tooltip("excess:Q", format=".5"),
    alt.Tooltip("low:Q", format=".5"),
    alt.Tooltip("high:Q", format=".5"),
    alt.Tooltip("n:Q", title="runs"),
)


def _colour(comparison: Comparison) -> alt.Color:
    return alt.Color("run:N", title=None, sort=list(comparison.names), legend=BELOW)


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
