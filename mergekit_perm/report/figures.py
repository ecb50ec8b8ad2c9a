"""The figures of a report: curves, simplexes, matrices of pairs, and what alignment did to groups.

Every kind of figure is one function from a report to figures, listed in `KINDS`. They are drawn by
Vega-Altair; the same specification is shown in HTML and written as PNG or SVG.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import altair as alt

from mergekit_perm.report import summaries
from mergekit_perm.report.charts import (
    Figure,
    Record,
    along_pruning,
    case_words,
    excess_axis,
    excess_words,
    file_name,
    gaps,
    layers,
    measured,
    named_apart,
    plot,
    shown,
    sparsity_chart,
    values_of,
)
from mergekit_perm.report.heat_maps import colour, domain, pairs_chart, steps_chart
from mergekit_perm.report.model import Barrier, Report
from mergekit_perm.report.result_figures import composed_paths, controls, trained_masks
from mergekit_perm.report.summaries import Case, Row

# The heights of a curve and of a row in a list and a matrix, and the width of a square, in pixels.
_CURVE = 260
_ROW = 16
_SQUARE = 300

# From so many pairs on, curves are told apart by hovering, not by a legend.
_MANY = 8


def figures(report: Report) -> list[Figure]:
    """Return all figures of `report`, case by case within every kind; no two have one name."""
    return named_apart([figure for kind in KINDS for figure in kind(report)])


# --------------------------------------------------------------------------------------- curves


def _curves(report: Report) -> Iterator[Figure]:
    for case, rows in _by_case(report):
        pairs = [row for row in rows if row.kind == "pair"]
        for alignment in ("naive", "aligned"):
            records = [
                record
                for row in pairs
                if (barrier := getattr(row, alignment)) is not None
                for record in _curve(row.label, barrier, case)
            ]
            if records:
                yield Figure(
                    file_name("curves", case, alignment),
                    f"Curves, {alignment}",
                    case_words(case),
                    f"{excess_words(case)} along the path of every pair, from the first network "
                    f"(0) to the second (1).{gaps(records)}",
                    _curve_chart(records, case, len(pairs)),
                    values_of(records, case),
                )


def _curve(label: str, barrier: Barrier, case: Case) -> list[Record]:
    heights = summaries.excesses(barrier)
    return [
        {"pair": label, "share": point.weights[1], **measured(height, point.value, case)}
        for point, height in zip(barrier.points, heights, strict=True)
    ]


def _curve_chart(records: list[Record], case: Case, pairs: int) -> alt.Chart:
    legend = alt.Legend(orient="bottom", columns=3) if pairs < _MANY else None
    chart: alt.Chart = (
        plot(records)
        .mark_line(point=alt.OverlayMarkDef(size=25), strokeWidth=1.5)
        .encode(
            x=alt.X("share:Q", title="share of the second network"),
            y=alt.Y("excess:Q", title=excess_axis(case)),
            color=alt.Color("pair:N", title=None, legend=legend),
            tooltip=[
                alt.Tooltip("pair:N"),
                alt.Tooltip("share:Q", format=".4"),
                alt.Tooltip("excess:Q", format=".5"),
                alt.Tooltip("value:Q", title=case.metric, format=".5"),
            ],
        )
        .properties(width="container", height=_CURVE)
    )
    return chart


# ------------------------------------------------------------------------------------ simplexes


def _simplexes(report: Report) -> Iterator[Figure]:
    for case, rows in _by_case(report):
        for row in rows:
            for alignment in ("naive", "aligned"):
                barrier = getattr(row, alignment)
                if row.kind == "simplex" and barrier is not None and len(row.networks) == 3:
                    records = _mixtures(barrier, case)
                    yield Figure(
                        file_name("simplex", case, alignment),
                        f"Simplex, {alignment}",
                        case_words(case),
                        f"{excess_words(case)} of mixtures of {', '.join(row.networks)}: a corner "
                        "is a network, a side the path of a pair. The highest has a ring."
                        f"{gaps(records)}",
                        _simplex_chart(records, row.networks, case),
                        values_of(records, case),
                        wide=False,
                    )


def _mixtures(barrier: Barrier, case: Case) -> list[Record]:
    records = []
    for point, height in zip(barrier.points, summaries.excesses(barrier), strict=True):
        x, y = _place(point.weights)
        shares = dict(zip(barrier.networks, point.weights, strict=True))
        words = ", ".join(f"{share:.3g} {name}" for name, share in shares.items() if share)
        records.append({"x": x, "y": y, "mixture": words, **measured(height, point.value, case)})
    return records


def _simplex_chart(records: list[Record], networks: Sequence[str], case: Case) -> alt.LayerChart:
    known = [record for record in records if record["excess"] is not None]
    corners = [
        {"x": x, "y": y, "name": name, "order": order}
        for order, (name, (x, y)) in enumerate(zip(networks, map(_place, _CORNERS), strict=True))
    ]
    position = {
        "x": alt.X("x:Q", axis=None, scale=alt.Scale(domain=[-0.08, 1.08])),
        "y": alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[-0.12, 1.0])),
    }
    sides = plot([*corners, {**corners[0], "order": 3}]).mark_line(color="#999", strokeWidth=1)
    dots = plot(known).mark_circle(size=90, opacity=1)
    tooltip = [
        alt.Tooltip("mixture:N"),
        alt.Tooltip("excess:Q", format=".5"),
        alt.Tooltip("value:Q", title=case.metric, format=".5"),
    ]
    top = max(known, key=lambda record: record["excess"], default=None)
    ring = plot([top] if top else []).mark_point(size=220, color="#d62728", strokeWidth=2)
    below, above = (
        plot(some).mark_text(dy=dy).encode(**position, text=alt.Text("name:N"))
        for some, dy in ((corners[:2], 14), (corners[2:], -12))
    )
    return layers(
        sides.encode(**position, order=alt.Order("order:Q")),
        dots.encode(**position, color=colour("excess", case), tooltip=tooltip),
        ring.encode(**position),
        below,
        above,
        width=_SQUARE,
        height=_SQUARE,
    ).properties(view=alt.ViewBackground(stroke=None))


_CORNERS = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


def _place(weights: Sequence[float]) -> tuple[float, float]:
    """Return where a mixture of three stands in a triangle of side 1, the third on top."""
    return weights[1] + weights[2] / 2, weights[2] * math.sqrt(3) / 2


# ------------------------------------------------------------------------------------- matrices


def _matrices(report: Report) -> Iterator[Figure]:
    for case, rows in _by_case(report):
        pairs = [row for row in rows if row.kind == "pair"]
        paired = {name for row in pairs for name in row.networks}
        if len(paired) < 3:
            continue
        names = [*report.networks, *sorted(paired.difference(report.networks))]
        both = {alignment: _squares(pairs, alignment, case) for alignment in ("naive", "aligned")}
        shades = domain(each["barrier"] for records in both.values() for each in records)
        for alignment, records in both.items():
            if records:
                yield Figure(
                    file_name("matrix", case, alignment),
                    f"Barriers of pairs, {alignment}",
                    case_words(case),
                    f"The highest {excess_words(case).lower()} on the path of every pair.",
                    pairs_chart(records, names, case, shades),
                    values_of(records[::2], case),
                    wide=False,
                )


def _squares(pairs: Sequence[Row], alignment: str, case: Case) -> list[Record]:
    """Return every finite barrier of `pairs`, each from both sides of its pair."""
    found = []
    for row in pairs:
        barrier = getattr(row, alignment)
        if barrier is not None and math.isfinite(barrier.barrier):
            value = shown(barrier.barrier, case)
            for one, other in (row.networks, row.networks[::-1]):
                found.append({"one": one, "other": other, "barrier": value})
    return found


def _checkpoints(report: Report) -> Iterator[Figure]:
    for matrix in report.matrices:
        case = Case(matrix.split, matrix.metric, matrix.calibration)
        rows = [("none", matrix.naive)]
        rows += zip(matrix.found_at, matrix.barriers, strict=True)
        records = [
            {"found": found, "applied": applied, **measured(value, value, case)}
            for found, row in rows
            for applied, value in zip(matrix.applied_at, row, strict=True)
        ]
        pair = " - ".join(matrix.networks)
        shades = domain(each["excess"] for each in records if each["excess"] is not None)
        yield Figure(
            file_name("checkpoints", case, "-".join(matrix.networks)),
            f"Permutations over checkpoints, {pair}",
            case_words(case),
            f"{excess_words(case)} at its highest on the path of the pair: permutations found at "
            "the epoch or level of a row, applied at that of a column; the first row is without."
            f"{gaps(records)}",
            steps_chart(records, [found for found, _ in rows], case, shades),
            values_of(records, case, without=["value"]),
        )


def _pruning(report: Report) -> Iterator[Figure]:
    for matrix in report.matrices:
        case = Case(matrix.split, matrix.metric, matrix.calibration)
        kept = summaries.kept(report, matrix)
        if min(kept) == 1.0:
            continue
        rows = (*matrix.barriers, matrix.naive)
        records = []
        for which, row, column in along_pruning(matrix.found_at, matrix.applied_at, matrix.end):
            value = rows[-1 if row is None else row][column]
            height = measured(value, value, case)
            ends = {"low": height["excess"], "high": height["excess"]}
            records.append({"permutations": which, "kept": 100 * kept[column], **ends, **height})
        pair = " - ".join(matrix.networks)
        yield Figure(
            file_name("pruning", case, "-".join(matrix.networks)),
            f"Barriers along pruning, {pair}",
            case_words(case),
            f"{excess_words(case)} at its highest on the path of the pair: without permutations, "
            "with those of the dense networks, and with those of the level itself."
            f"{gaps(records)}",
            sparsity_chart(records, case),
            values_of(records, case, without=["value"]),
        )


# --------------------------------------------------------------------------------------- groups


def _groups(report: Report) -> Iterator[Figure]:
    if report.alignment is None:
        return
    records = [
        {
            "group": group.name,
            "before": group.similarity.before,
            "after": group.similarity.after,
            "moved": sum(group.moved.values()),
            "size": group.size,
        }
        for group in report.alignment.groups
        if group.similarity is not None
        and math.isfinite(group.similarity.before + group.similarity.after)
    ]
    if records:
        yield Figure(
            "groups",
            "Similarity by group",
            "",
            "Mean cosine of what units carry, over pairs of networks and units: before alignment "
            "(open) and after (filled).",
            _group_chart(records),
            values_of(records),
        )


def _group_chart(records: list[Record]) -> alt.LayerChart:
    order = [record["group"] for record in records]
    base = plot(records).encode(
        y=alt.Y("group:N", sort=order, title=None),
        tooltip=[
            alt.Tooltip("group:N"),
            alt.Tooltip("before:Q", format=".4"),
            alt.Tooltip("after:Q", format=".4"),
            alt.Tooltip("moved:Q", title="units moved"),
            alt.Tooltip("size:Q", title="units"),
        ],
    )
    title = "mean cosine"
    return layers(
        base.mark_rule(color="#999").encode(x=alt.X("before:Q", title=title), x2=alt.X2("after:Q")),
        base.mark_point(size=40).encode(x=alt.X("before:Q")),
        base.mark_circle(size=45, opacity=1).encode(x=alt.X("after:Q")),
        width="container",
        height=_ROW * len(records),
    )


KINDS: tuple[Callable[[Report], Iterator[Figure]], ...] = (
    _curves,
    _simplexes,
    _matrices,
    controls,
    composed_paths,
    _checkpoints,
    _pruning,
    trained_masks,
    _groups,
)
"""Every kind of figure: a function from a report to the figures it has of that kind."""


def _by_case(report: Report) -> Iterator[tuple[Case, list[Row]]]:
    rows = summaries.rows(report)
    for case in summaries.cases(report):
        yield case, [row for row in rows if row.case == case]
