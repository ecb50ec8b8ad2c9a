"""Figures of what is neither a pair nor a simplex: controls, paths of networks, and masks.

In each a line has a dot for every value, and a bar at their mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import altair as alt

from mergekit_perm.report import summaries
from mergekit_perm.report.charts import (
    Figure,
    Record,
    case_words,
    excess_axis,
    excess_words,
    file_name,
    gaps,
    layers,
    measured,
    plot,
    shown,
    values_of,
)
from mergekit_perm.report.model import Report
from mergekit_perm.report.summaries import Case

# The height of a line, of each of its colours, in pixels; and of a bar at a mean.
_LINE = 22
_BAR = 14


def controls(report: Report) -> Iterator[Figure]:
    """Yield every control of a case, between the pairs as they are and as they are aligned."""
    for case in dict.fromkeys(Case(c.split, c.metric, c.calibration) for c in report.controls):
        pairs = [row for row in summaries.rows(report) if row.case == case and row.kind == "pair"]
        found = [("pair, naive", row.networks, row.naive) for row in pairs]
        found += [("pair, aligned", row.networks, row.aligned) for row in pairs]
        heights = [(line, networks, b.barrier) for line, networks, b in found if b is not None]
        heights += [
            (c.kind, c.networks, c.barrier)
            for c in report.controls
            if Case(c.split, c.metric, c.calibration) == case
        ]
        records = [
            {"line": line, "networks": " - ".join(networks), **measured(height, height, case)}
            for line, networks, height in heights
        ]
        yield Figure(
            file_name("controls", case, "known"),
            "Controls",
            case_words(case),
            f"{excess_words(case)} at its highest: a random permutation is to be about as high as "
            f"a naive pair, a planted copy at 0.{gaps(records)}",
            _dots(records, alt.X("excess:Q", title=excess_axis(case))),
            values_of(records, case, without=["value"]),
        )


def composed_paths(report: Report) -> Iterator[Figure]:
    """Yield the barrier of every path and cycle, by its length, beside that of the run's own."""
    for case in dict.fromkeys(Case(c.split, c.metric, c.calibration) for c in report.compositions):
        records = [
            {
                "line": each.label,
                "permutations": which,
                "networks": " - ".join(each.networks),
                **measured(height, height, case),
            }
            for each in summaries.compositions(report, case)
            for which, height in (("composed", each.barrier), ("of this run", each.aligned))
            if height is not None
        ]
        yield Figure(
            file_name("compositions", case, "composed"),
            "Paths of matched networks",
            case_words(case),
            f"{excess_words(case)} at its highest between the ends of every path, each network "
            "matched to the next, by permutations that are composed along it and by those that "
            f"this run found for its ends.{gaps(records)}",
            _dots(records, alt.X("excess:Q", title=excess_axis(case)), "permutations"),
            values_of(records, case, without=["value"], line="path"),
        )


def trained_masks(report: Report) -> Iterator[Figure]:
    """Yield every network that was trained under a mask, by what mask it is and of which level."""
    cases = [case for case in summaries.other_cases(report) if case.calibration == "none"]
    for case in cases:
        records = [
            {
                "line": f"{each.mask} mask",
                "level": each.level,
                "networks": f"{each.target} under that of {each.source}",
                "value": shown(value, case) if math.isfinite(value) else None,
            }
            for each in report.transported
            for training in each.trainings
            if case.split in training
            for value in [getattr(training[case.split], case.metric)]
        ]
        if records:
            unit = "in percent" if case.metric == "error" else "in nats"
            yield Figure(
                file_name("masks", case, "trained"),
                "Networks trained under masks",
                case_words(case),
                f"{case.metric.capitalize()}, {unit}, of every training.{gaps(records, 'value')}",
                _dots(
                    records,
                    alt.X("value:Q", title=f"{case.metric}, {unit.removeprefix('in ')}"),
                    "level",
                ),
                values_of(records, case, line="mask"),
            )


def _dots(records: Sequence[Record], x: alt.X, colour: str | None = None) -> alt.LayerChart:
    """Return a line of dots for every ``line`` of `records`, one below the other by `colour`."""
    lines = list(dict.fromkeys(record["line"] for record in records))
    kinds = list(dict.fromkeys(record[colour] for record in records)) if colour else [""]
    field = str(x.shorthand).removesuffix(":Q")
    base = plot(records).encode(y=alt.Y("line:N", sort=lines, title=None))
    if colour is not None:
        base = base.encode(
            yOffset=alt.YOffset(f"{colour}:N", sort=kinds),
            color=alt.Color(
                f"{colour}:N", sort=kinds, title=colour, legend=alt.Legend(orient="bottom")
            ),
        )
    tooltip = [alt.Tooltip("line:N"), *([alt.Tooltip(f"{colour}:N")] if colour else [])]
    dots = base.mark_circle(size=45, opacity=0.7).encode(
        x=x, tooltip=[*tooltip, alt.Tooltip("networks:N"), alt.Tooltip(f"{field}:Q", format=".5")]
    )
    bars = base.mark_tick(thickness=2, size=_BAR).encode(x=alt.X(f"mean({field}):Q"))
    return layers(dots, bars, width="container", height=_LINE * len(lines) * len(kinds))
