"""The report of a run in a terminal: what a person wants to know in ten seconds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mergekit_perm.report import summaries
from mergekit_perm.report.model import Alignment, Barrier, Metrics, Report
from mergekit_perm.report.sparkline import marks_for, sparkline
from mergekit_perm.report.summaries import Row


def render(report: Report, console: Console) -> None:
    """Print `report` to `console`; reads well at 80 columns and without colour."""
    _heading(console, f"{report.name}: {len(report.networks)} networks", report.provenance.device)
    _networks(report, console)
    if report.alignment is not None:
        _heading(console, "Alignment")
        _paragraphs(console, alignment_sentences(report.alignment, list(report.networks)))
    for metric, calibration in dict.fromkeys(
        (case.metric, case.calibration) for case in summaries.cases(report)
    ):
        _barriers(report, metric, calibration, console)
    _merged(report, console)
    _gates(report, console)
    if report.notes:
        _heading(console, "Notes")
        _paragraphs(console, report.notes)
    console.print()


def number(value: float | None, *, metric: str = "loss") -> str:
    """Return `value` as it is shown: a loss with four decimals, an error in percent."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return str(value)
    return f"{100 * value:.2f} %" if metric == "error" else f"{value:.4f}"


def alignment_sentences(alignment: Alignment, names: Sequence[str]) -> list[str]:
    """Return what alignment did, in plain sentences."""
    reference = alignment.reference
    stays = names[0] if reference == "joint" else reference
    how = "to one another (joint)" if reference == "joint" else f"to {reference}"
    units = sum(group.size for group in alignment.groups) * (len(names) - 1)
    moved = sum(count for group in alignment.groups for count in group.moved.values())
    before, after = alignment.objective.before, alignment.objective.after
    sentences = [
        f"Aligned {', '.join(names)} {how} by {alignment.method} in {alignment.seconds:.1f} s; "
        f"{stays} stays as it is."
    ]
    if moved == 0:
        sentences.append("It did nothing: every permutation found is the identity.")
    else:
        sentences.append(
            f"It moved {moved:,} of {units:,} units ({moved / units:.0%}); the sum of inner "
            f"products of the weights rose from {before:.4g} to {after:.4g}."
        )
    still = [group.name for group in alignment.groups if not any(group.moved.values())]
    if still and moved:
        shown = ", ".join(still[:5]) + (f" and {len(still) - 5} more" if len(still) > 5 else "")
        sentences.append(f"Groups that stayed as they were: {shown}.")
    permutations = alignment.permutations
    proof = "proven" if permutations.verified else "trusted, NOT proven"
    sentences.append(
        f"Permutation spec: {permutations.source}, {proof}; it covers "
        f"{math.floor(1000 * permutations.coverage) / 10} % of the parameters."
    )
    return sentences


def _heading(console: Console, title: str, aside: str = "") -> None:
    console.print()
    console.print(Text.assemble((title, "bold"), (f"  {aside}" if aside else "", "dim")))


def _paragraphs(console: Console, sentences: Iterable[str]) -> None:
    for sentence in sentences:
        console.print(Padding(Text(sentence), (0, 0, 0, 2), expand=False))


def _table(*columns: str) -> Table:
    """Return a plain table, its first column to the left and the others to the right."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(f"  {columns[0]}", no_wrap=True)
    for column in columns[1:]:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _networks(report: Report, console: Console) -> None:
    splits = list(dict.fromkeys(s for by_split in report.networks.values() for s in by_split))
    if not splits:
        _paragraphs(console, [", ".join(report.networks)])
        return
    table = _table("", *_metric_columns(splits))
    for name, by_split in report.networks.items():
        table.add_row(f"  {name}", *_metric_cells(by_split, splits))
    console.print(table)


def _metric_columns(splits: Sequence[str]) -> list[str]:
    return [f"{split} {metric}" for metric in ("loss", "error") for split in splits]


def _metric_cells(by_split: Mapping[str, Metrics], splits: Sequence[str]) -> list[str]:
    return [
        number(getattr(by_split[split], metric), metric=metric)
        for metric in ("loss", "error")
        for split in splits
    ]


# ------------------------------------------------------------------------------------- barriers


def _barriers(report: Report, metric: str, calibration: str, console: Console) -> None:
    """Print one table: pairs, their summary and the simplex, for every split, with curves."""
    chosen = [
        row
        for row in summaries.rows(report)
        if (row.case.metric, row.case.calibration) == (metric, calibration)
    ]
    splits = list(dict.fromkeys(row.case.split for row in chosen))
    aligned = any(row.aligned is not None for row in chosen)
    kinds = ("naive", "aligned") if aligned else ("naive",)
    aside = "" if calibration == "none" else f"after calibration {calibration}"
    _heading(console, f"{metric.capitalize()} barriers", aside)
    curves = [f"{splits[-1]},\n{kind}" for kind in kinds]
    table = _table("", *(f"{s}\n{k}" for s in splits for k in kinds), *curves)
    for column in table.columns[-len(curves) :]:
        column.justify = "left"
    marks = marks_for(console.encoding)
    top = _top(row for row in chosen if row.case.split == splits[-1] and row.kind == "pair")
    for label, by_split in _by_label(chosen).items():
        cells = [
            _value(getattr(by_split[split], kind), metric) for split in splits for kind in kinds
        ]
        last = by_split[splits[-1]]
        pictures = [_picture(getattr(last, kind), top, marks) for kind in kinds]
        table.add_row(Text(f"  {label}"), *cells, *pictures)
    for label, cells in _summary_rows(chosen, splits, kinds, metric):
        table.add_row(Text(f"  {label}", style="dim"), *cells, *[""] * len(kinds))
    console.print(table)


def _by_label(rows: Sequence[Row]) -> dict[str, dict[str, Row]]:
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        found.setdefault(row.label, {})[row.case.split] = row
    return found


def _value(barrier: Barrier | None, metric: str) -> str:
    return number(None if barrier is None else barrier.barrier, metric=metric)


def _top(rows: Iterable[Row]) -> float:
    barriers = [b for row in rows for b in (row.naive, row.aligned) if b is not None]
    finite = [b.barrier for b in barriers if math.isfinite(b.barrier)]
    return max(finite, default=0.0)


def _picture(barrier: Barrier | None, top: float, marks: str) -> str:
    """Return the curve of a pair; of a simplex, the weights where it is highest."""
    if barrier is None:
        return ""
    if barrier.kind == "simplex":
        if len(barrier.argmax) > 3:
            return ""
        return " ".join(f"{weight:.2f}".removeprefix("0") for weight in barrier.argmax)
    return sparkline(summaries.excesses(barrier), top=top, marks=marks)


def _summary_rows(
    rows: Sequence[Row], splits: Sequence[str], kinds: Sequence[str], metric: str
) -> list[tuple[str, list[str]]]:
    pairs = [row for row in rows if row.kind == "pair"]
    simplexes = [row for row in rows if row.kind == "simplex"]
    parts: list[tuple[str, list[Row]]] = []
    if any(row.spoke is not None for row in pairs):
        parts = [
            ("worst spoke", [row for row in pairs if row.spoke]),
            ("worst far edge", [row for row in pairs if row.spoke is False]),
        ]
    elif len({row.label for row in pairs}) > 1:
        parts = [("worst pair", pairs)]
    found = []
    for label, members in parts:
        if not members:
            continue
        cells = [
            number(summaries.worst(_of(members, split, kind)), metric=metric)
            for split in splits
            for kind in kinds
        ]
        found.append((label, cells))
    if len({row.label for row in pairs}) > 1:
        cells = [
            number(summaries.mean(_of(pairs, split, kind)), metric=metric)
            for split in splits
            for kind in kinds
        ]
        found.append(("mean pair", cells))
    if simplexes:
        cells = [
            number(_centre(_of(simplexes, split, kind)), metric=metric)
            for split in splits
            for kind in kinds
        ]
        found.append(("barycentre", cells))
    return found


def _of(rows: Sequence[Row], split: str, kind: str) -> list[Barrier | None]:
    return [getattr(row, kind) for row in rows if row.case.split == split]


def _centre(barriers: Sequence[Barrier | None]) -> float | None:
    return next((summaries.barycentre(b) for b in barriers if b is not None), None)


# ------------------------------------------------------------------------------ merged and gates


def _merged(report: Report, console: Console) -> None:
    if not report.merged:
        return
    _heading(console, "Merged networks")
    for name, merged in report.merged.items():
        console.print(Text(f"  {name}: {merged.file}"))
    splits = list(
        dict.fromkeys(s for m in report.merged.values() for c in m.calibration.values() for s in c)
    )
    if not splits:
        return
    table = _table("", *_metric_columns(splits))
    for name, merged in report.merged.items():
        for calibration, by_split in merged.calibration.items():
            label = name if calibration == "none" else f"{name}, {calibration}"
            table.add_row(f"  {label}", *_metric_cells(by_split, splits))
    console.print(table)


def _gates(report: Report, console: Console) -> None:
    if not report.gates:
        return
    _heading(console, "Gates")
    for gate in report.gates:
        verdict = ("passed", "green") if gate.passed else ("FAILED", "bold red")
        calibration = "" if gate.calibration == "none" else f", {gate.calibration}"
        console.print(
            Text.assemble(
                "  ",
                verdict,
                f"  {gate.alignment} {gate.barrier} barrier of {gate.split} {gate.metric}"
                f"{calibration}: {number(gate.value, metric=gate.metric)}, "
                f"at most {number(gate.at_most, metric=gate.metric)}",
            )
        )
