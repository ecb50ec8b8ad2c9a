"""Several runs side by side: the same barriers in columns, with differences to the first run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mergekit_perm.errors import RunError, suggest
from mergekit_perm.report import summaries
from mergekit_perm.report.model import Report
from mergekit_perm.report.summaries import Case
from mergekit_perm.report.terminal import number

# Columns of a run beside a label of usual length: what 80 characters hold.
_RUNS_PER_BLOCK = 3


@dataclass(frozen=True, slots=True)
class ComparedRow:
    """One barrier in every run; None where a run does not have it."""

    case: Case
    label: str
    alignment: str
    values: tuple[float | None, ...]

    @property
    def best(self) -> float | None:
        """The lowest value, when at least two runs have one."""
        known = [value for value in self.values if value is not None]
        return min(known) if len(known) > 1 else None


@dataclass(frozen=True, slots=True)
class Comparison:
    """The barriers of several runs; differences are to the first run."""

    runs: tuple[str, ...]
    rows: tuple[ComparedRow, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as plain data."""
        return {
            "runs": list(self.runs),
            "rows": [
                {
                    "split": row.case.split,
                    "metric": row.case.metric,
                    "calibration": row.case.calibration,
                    "barrier": row.label,
                    "alignment": row.alignment,
                    "values": list(row.values),
                    "differences": [_difference(row, place) for place in range(len(self.runs))],
                }
                for row in self.rows
            ],
        }


def compare(
    reports: Sequence[Report], *, metric: str | None = None, split: str | None = None
) -> Comparison:
    """Return the barriers of `reports` side by side.

    Args:
        reports: at least one.
        metric: only this one, "loss" or "error".
        split: only this one.

    Raises:
        RunError: no report has the metric or split that is asked for.
    """
    found: dict[tuple[Case, str, str], list[float | None]] = {}
    for place, report in enumerate(reports):
        for case, label, alignment, value in _values(report):
            blank: list[float | None] = [None] * len(reports)
            found.setdefault((case, label, alignment), blank)[place] = value
    for name, wanted in (("metric", metric), ("split", split)):
        known = dict.fromkeys(getattr(case, name) for case, _, _ in found)
        if wanted is not None and wanted not in known:
            raise RunError(
                f"no run has the {name} '{wanted}'{suggest(wanted, known)}; "
                f"there is {', '.join(known) or 'no barrier at all'}"
            )
    rows = tuple(
        ComparedRow(case, label, alignment, tuple(values))
        for (case, label, alignment), values in found.items()
        if metric in (None, case.metric) and split in (None, case.split)
    )
    return Comparison(_names(reports), rows)


def _values(report: Report) -> Iterator[tuple[Case, str, str, float]]:
    for row in summaries.rows(report):
        for alignment in ("naive", "aligned"):
            barrier = getattr(row, alignment)
            if barrier is not None:
                yield row.case, row.label, alignment, barrier.barrier


def _names(reports: Sequence[Report]) -> tuple[str, ...]:
    """Return the names of the runs; runs that share one are numbered."""
    names = [report.name for report in reports]
    return tuple(
        f"{name} ({names[: place + 1].count(name)})" if names.count(name) > 1 else name
        for place, name in enumerate(names)
    )


def _difference(row: ComparedRow, place: int) -> float | None:
    value, first = row.values[place], row.values[0]
    return None if value is None or first is None or place == 0 else value - first


def render_comparison(comparison: Comparison, console: Console) -> None:
    """Print `comparison`: a block of columns after the other where they do not fit side by side."""
    every = range(len(comparison.runs))
    for start in range(0, len(comparison.runs), _RUNS_PER_BLOCK):
        places = every[start : start + _RUNS_PER_BLOCK]
        for case in dict.fromkeys(row.case for row in comparison.rows):
            title = f"{case.split} {case.metric}"
            title += "" if case.calibration == "none" else f", calibration {case.calibration}"
            console.print()
            console.print(Text(title, style="bold"))
            console.print(_block(comparison, case, places))
    console.print()


def _block(comparison: Comparison, case: Case, places: range) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("  barrier", no_wrap=True)
    for place in places:
        table.add_column(comparison.runs[place], justify="right", overflow="fold")
    for row in comparison.rows:
        if row.case == case:
            table.add_row(
                f"  {row.label}, {row.alignment}", *(_cell(row, place) for place in places)
            )
    return table


def _cell(row: ComparedRow, place: int) -> Text:
    value, change = row.values[place], _difference(row, place)
    shown = Text(number(value, metric=row.case.metric))
    if value is not None and value == row.best:
        shown.stylize("bold")
    if change is not None:
        sign = "+" if change >= 0 else ""
        shown.append(f" ({sign}{number(change, metric=row.case.metric)})", style="dim")
    return shown
