"""A comparison as plain data that JSON can hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mergekit_perm.report.plain_data import plain
from mergekit_perm.report.summaries import Case

if TYPE_CHECKING:
    from mergekit_perm.report.compare import ComparedCurve, ComparedMatrix, ComparedRow, Comparison


def comparison_to_json(comparison: Comparison) -> dict[str, Any]:
    """Return `comparison` as plain data; an interval is half its width, null for none."""
    columns = comparison.columns
    return {
        "runs": list(comparison.names),
        "repeats": [list(column.runs) for column in columns],
        "alignments": [
            None if each.alignment is None else {"method": each.alignment[0], "saw": each.saw}
            for each in columns
        ],
        "precisions": [column.precision for column in columns],
        "rows": list(map(_row, comparison.rows)),
        "curves": list(map(_curve, comparison.curves)),
        "matrices": list(map(_matrix, comparison.matrices)),
    }


def _case(case: Case) -> dict[str, Any]:
    return {"split": case.split, "metric": case.metric, "calibration": case.calibration}


def _row(row: ComparedRow) -> dict[str, Any]:
    return {
        **_case(row.case),
        "figure": row.label,
        "alignment": row.alignment,
        "values": plain(row.values),
        "intervals": [mean and mean.half for mean in row.means],
        "differences": [mean and mean.value for mean in row.differences],
        "difference_intervals": [mean and mean.half for mean in row.differences],
    }


def _curve(compared: ComparedCurve) -> dict[str, Any]:
    """Return the points of worst pairs, null for a run without: share of the second, excess."""

    def points() -> Iterator[list[dict[str, Any]] | None]:
        for curve in compared.curves:
            yield (
                None
                if curve is None
                else [
                    {"share": share, "excess": plain(mean.value), "interval": mean.half}
                    for share, mean in curve
                ]
            )

    return {**_case(compared.case), "alignment": compared.alignment, "points": list(points())}


def _matrix(matrix: ComparedMatrix) -> dict[str, Any]:
    return {
        "run": matrix.column,
        "networks": list(matrix.networks),
        **_case(matrix.case),
        "found_at": list(matrix.found_at),
        "applied_at": list(matrix.applied_at),
        "naive": plain([mean.value for mean in matrix.naive]),
        "naive_intervals": [mean.half for mean in matrix.naive],
        "barriers": plain([[mean.value for mean in row] for row in matrix.barriers]),
        "intervals": [[mean.half for mean in row] for row in matrix.barriers],
    }
