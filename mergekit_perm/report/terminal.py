"""The report of a run in a terminal: what a person wants to know in ten seconds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mergekit_perm.report import summaries
from mergekit_perm.report.matrix_terminal import show_checkpoints, show_matrix, step_words
from mergekit_perm.report.model import Alignment, Barrier, Change, Gate, Metrics, Report
from mergekit_perm.report.numbers import exact, number
from mergekit_perm.report.result_tables import (
    ResultTable,
    composition_tables,
    control_tables,
    mask_tables,
)
from mergekit_perm.report.show import indented, plain_table, show, show_heading
from mergekit_perm.report.sparkline import marks_for, sparkline
from mergekit_perm.report.summaries import Figure, Row

# Courses of an objective that a sentence has, network by network.
_COURSES = 5

# Groups of neurons that a table shows; the report itself has all.
_GROUPS_SHOWN = 10

# Splits beside one another in a table of barriers, when names are short.
_SPLITS_PER_TABLE = 2


def render(report: Report, console: Console) -> None:
    """Print `report` to `console`; reads well at 80 columns and without colour."""
    made = report.provenance
    measured = bool(report.barriers) or any(report.networks.values())
    aside = f"{made.device}, measured in {made.dtype}" if measured else made.device
    show_heading(console, f"{report.name}: {len(report.networks)} networks", aside)
    _networks(report, console)
    if report.alignment is not None:
        show_heading(console, "Alignment")
        _paragraphs(console, alignment_sentences(report.alignment, list(report.networks)))
        _groups(report.alignment, len(report.networks), console)
    for metric, calibration in dict.fromkeys(
        (case.metric, case.calibration) for case in summaries.cases(report)
    ):
        _barriers(report, metric, calibration, console)
    _results((*control_tables(report), *composition_tables(report)), console)
    show_checkpoints(report, console)
    for matrix in report.matrices:
        show_matrix(matrix, console)
    _results(mask_tables(report), console)
    _merged(report, console)
    _gates(report, console)
    if report.notes:
        show_heading(console, "Notes")
        _paragraphs(console, report.notes)
    show(console)


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
        f"{stays} stays as it is.",
        _evidence(alignment.saw),
    ]
    if alignment.at:
        where = ", ".join(map(step_words, alignment.at))
        where += " together" if len(alignment.at) > 1 else ""
        sentences.append(f"The permutations were found at {where}, not at the end.")
    if alignment.cut_off:
        sentences.append("`max_seconds` ended the search: this is the best found by then.")
    if moved == 0:
        sentences.append(
            "It moved no neuron: every permutation found is the identity, and "
            f"{alignment.method} found nothing better than how the networks lay."
        )
    else:
        sentences.append(
            f"It moved {moved:,} of {units:,} units ({_floored(moved / units)} %); the sum of "
            f"inner products of the weights {_course(before, after)}."
        )
        if not after > before:
            sentences.append("By their weights the networks lie no closer together than before.")
    sentences += _own_objective(alignment)
    still = [group.name for group in alignment.groups if not any(group.moved.values())]
    if still and moved:
        shown = ", ".join(still[:5]) + (f" and {len(still) - 5} more" if len(still) > 5 else "")
        sentences.append(f"Groups that stayed as they were: {shown}.")
    permutations = alignment.permutations
    proof = "proven" if permutations.verified else "trusted, NOT proven"
    sentences.append(
        f"Permutation spec: {permutations.source}, {proof}; it covers "
        f"{_floored(permutations.coverage)} % of the parameters."
    )
    return sentences


def _evidence(saw: str) -> str:
    """Return the sentence that tells a method without data from one that was shown labels."""
    if saw == "weights":
        return "It looked at weights alone, at no data."
    if saw == "inputs":
        return "It looked at training INPUTS, at no label."
    return "It looked at training inputs AND LABELS, which a method without data does not have."


def _own_objective(alignment: Alignment) -> list[str]:
    """Return how the objective of a method went that is not of weights, network by network."""
    courses = [
        (f"{name} " if name != "joint" else "") + f"{trace[0]:.4g} to {trace[-1]:.4g}"
        for name, trace in alignment.objective.traces.items()
        if trace
    ]
    if alignment.saw == "weights" or not courses:
        return []
    more = f" and {len(courses) - _COURSES} more" if len(courses) > _COURSES else ""
    return [f"Its own objective, from start to end: {', '.join(courses[:_COURSES])}{more}."]


def _floored(share: float) -> float:
    """Return percent, rounded down, so that only all of it is 100."""
    return math.floor(1000 * share) / 10


def _course(before: float, after: float) -> str:
    if before == after:
        return f"stayed at {after:.4g}"
    return f"{'rose' if after > before else 'fell'} from {before:.4g} to {after:.4g}"


def _paragraphs(console: Console, sentences: Iterable[str]) -> None:
    for sentence in sentences:
        show(console, indented(Text(sentence)))


def _groups(alignment: Alignment, networks: int, console: Console) -> None:
    """Print what alignment did to the groups that are least alike after it, and to all."""
    known = [(g, g.similarity, g.objective) for g in alignment.groups if g.size]
    rows = [(g, similar, product) for g, similar, product in known if similar and product]
    if not rows:
        return
    rows.sort(key=lambda row: row[1].after)
    columns = ["units", "moved", *(f"{what}\n{when}" for what in ("cosine", "product")
                                   for when in ("naive", "aligned"))]  # fmt: skip
    label = "least alike groups" if len(rows) > _GROUPS_SHOWN else "group"
    table = plain_table(label, columns)
    for group, similar, product in rows[:_GROUPS_SHOWN]:
        cells = _group_cells(group.size, sum(group.moved.values()), networks, similar, product)
        table.add_row(Text(group.name), *cells)
    units = sum(group.size for group, _, _ in rows)
    moved = sum(sum(group.moved.values()) for group, _, _ in rows)
    mean = Change(
        *(
            math.fsum(group.size * getattr(similar, when) for group, similar, _ in rows) / units
            for when in ("before", "after")
        )
    )
    whole = Change(alignment.objective.before, alignment.objective.after)
    total = f"all {len(rows)} groups" if len(rows) > 1 else "all"
    table.add_row(Text(total), *_group_cells(units, moved, networks, mean, whole), style="dim")
    show(console, indented(table))


def _group_cells(
    size: int, moved: int, networks: int, similar: Change, product: Change
) -> list[str]:
    share = moved / (size * (networks - 1))
    cosines = [number(value) for value in (similar.before, similar.after)]
    products = [f"{value:.4g}" for value in (product.before, product.after)]
    return [f"{size:,}", f"{_floored(share)} %", *cosines, *products]


def _networks(report: Report, console: Console) -> None:
    splits = list(dict.fromkeys(s for by_split in report.networks.values() for s in by_split))
    if not splits:
        _paragraphs(console, [", ".join(report.networks)])
        return
    table = plain_table("", _metric_columns(splits))
    for name, by_split in report.networks.items():
        table.add_row(Text(name), *_metric_cells(by_split, splits))
    show(console, indented(table))


def _metric_columns(splits: Sequence[str]) -> list[str]:
    return [f"{split} {metric}" for metric in ("loss", "error") for split in splits]


def _metric_cells(by_split: Mapping[str, Metrics], splits: Sequence[str]) -> list[str]:
    return [
        number(getattr(by_split.get(split), metric, None), metric=metric)
        for metric in ("loss", "error")
        for split in splits
    ]


# ------------------------------------------------------------------------------------- barriers


def _barriers(report: Report, metric: str, calibration: str, console: Console) -> None:
    """Print pairs, their summary and the simplex, for every split, with curves."""
    chosen = [
        row
        for row in summaries.rows(report)
        if (row.case.metric, row.case.calibration) == (metric, calibration)
    ]
    aside = "" if calibration == "none" else f"after calibration {calibration}"
    show_heading(console, f"{metric.capitalize()} barriers", aside)
    splits = list(dict.fromkeys(row.case.split for row in chosen))
    marks = marks_for(console.encoding)
    # As many splits beside one another as leave room for every name; at 80 columns that is two.
    for size in range(min(len(splits), _SPLITS_PER_TABLE), 0, -1):
        groups = [splits[start : start + size] for start in range(0, len(splits), size)]
        layouts = [_layout(chosen, group, marks) for group in groups]
        if size == 1 or all(layout.room(console.width) >= layout.needed for layout in layouts):
            break
    for place, layout in enumerate(layouts):
        if place:
            show(console)
        show(console, indented(layout.table(console.width)))


@dataclass(frozen=True, slots=True)
class _Line:
    """A row of a table of barriers; the label may be broken between its parts."""

    parts: tuple[str, ...]
    cells: tuple[str, ...]
    style: str = ""


@dataclass(frozen=True, slots=True)
class _Layout:
    """The cells of a table of barriers, before it is known how wide it may be."""

    columns: tuple[str, ...]
    lines: tuple[_Line, ...]
    curves: int

    @property
    def needed(self) -> int:
        """The columns that labels need when they are broken wherever they can be."""
        return max(cell_len(part) for line in self.lines for part in line.parts)

    def room(self, width: int) -> int:
        """Return how many of `width` columns are left for labels, with the gaps taken off."""
        by_column = zip(*(line.cells for line in self.lines), strict=True)
        texts = [
            [*title.split("\n"), *cells]
            for title, cells in zip(self.columns, by_column, strict=True)
        ]
        widths = [max(map(cell_len, column)) for column in texts]
        return width - 2 - sum(2 + column for column in widths)

    def table(self, width: int) -> Table:
        """Return the table for a console of `width` columns."""
        room = self.room(width)
        table = plain_table("", self.columns)
        for column in table.columns[-self.curves :]:
            column.justify = "left"
        for line in self.lines:
            label = " ".join(line.parts)
            if cell_len(label) > room and line.parts[0].endswith(" -"):
                label = "\n".join(line.parts)  # rich would leave the dash on a line of its own
            table.add_row(Text(label, style=line.style), *line.cells)
        return table


def _layout(rows: Sequence[Row], splits: Sequence[str], marks: str) -> _Layout:
    """Return pairs, simplexes and what sums them up; the curves are those of the last split."""
    metric = rows[0].case.metric
    by_split = {split: [row for row in rows if row.case.split == split] for split in splits}
    kinds = ("naive", "aligned") if any(row.aligned for row in rows) else ("naive",)
    top = _top(by_split[splits[-1]])
    lines = []
    found = {split: {row.label: row for row in by_split[split]} for split in splits}
    for label in dict.fromkeys(row.label for split in splits for row in by_split[split]):
        cells = [
            _value(_barrier(found[split].get(label), kind), metric)
            for split in splits
            for kind in kinds
        ]
        last = found[splits[-1]].get(label)
        pictures = [_picture(_barrier(last, kind), top, marks) for kind in kinds]
        lines.append(_Line(_parts(label), (*cells, *pictures)))
    figures = {split: {f.label: f for f in summaries.figures(by_split[split])} for split in splits}
    for label in dict.fromkeys(label for split in splits for label in figures[split]):
        cells = [
            number(_figure(figures[split].get(label), kind), metric=metric)
            for split in splits
            for kind in kinds
        ]
        lines.append(_Line(tuple(label.split()), (*cells, *[""] * len(kinds)), "dim"))
    numbers = [f"{split}\n{kind}" for split in splits for kind in kinds]
    curves = [f"{splits[-1]},\n{kind}" for kind in kinds]
    return _Layout((*numbers, *curves), tuple(lines), len(kinds))


def _parts(label: str) -> tuple[str, ...]:
    """Split "a - b" after the dash, and "simplex of 3" nowhere."""
    first, dash, second = label.partition(" - ")
    return (f"{first} -", second) if dash else (label,)


def _barrier(row: Row | None, kind: str) -> Barrier | None:
    return None if row is None else row.naive if kind == "naive" else row.aligned


def _figure(figure: Figure | None, kind: str) -> float | None:
    return None if figure is None else figure.naive if kind == "naive" else figure.aligned


def _value(barrier: Barrier | None, metric: str) -> str:
    return number(None if barrier is None else barrier.barrier, metric=metric)


def _top(rows: Iterable[Row]) -> float:
    pairs = [row for row in rows if row.kind == "pair"]
    barriers = [b for row in pairs for b in (row.naive, row.aligned) if b is not None]
    return max((b.barrier for b in barriers if math.isfinite(b.barrier)), default=0.0)


def _picture(barrier: Barrier | None, top: float, marks: str) -> str:
    """Return the curve of a pair; of a simplex, the weights where it is highest."""
    if barrier is None:
        return ""
    if barrier.kind == "simplex":
        if len(barrier.argmax) > 3:
            return ""
        return " ".join(f"{weight:.2f}".removeprefix("0") for weight in barrier.argmax)
    return sparkline(summaries.excesses(barrier), top=top, marks=marks)


# --------------------------------------------------------------- other results, merged and gates


def _results(tables: Iterable[ResultTable], console: Console) -> None:
    for each in tables:
        show_heading(console, each.title, each.aside)
        table = plain_table(each.label, each.columns)
        for label, *cells in each.rows:
            table.add_row(Text(label), *cells)
        show(console, indented(table))


def _merged(report: Report, console: Console) -> None:
    if not report.merged:
        return
    show_heading(console, "Merged networks")
    for name, merged in report.merged.items():
        show(console, Text(f"  {name}: {merged.file}"))
        if merged.calibrated is not None:
            words = f"{merged.calibrated.name}: {summaries.calibration_words(merged.calibrated)}"
            show(console, Text(f"    {words}"))
    splits = list(
        dict.fromkeys(s for m in report.merged.values() for c in m.calibration.values() for s in c)
    )
    if not splits:
        return
    table = plain_table("", _metric_columns(splits))
    for name, merged in report.merged.items():
        for calibration, by_split in merged.calibration.items():
            label = name if calibration == "none" else f"{name}, {calibration}"
            table.add_row(Text(label), *_metric_cells(by_split, splits))
    show(console, indented(table))


def _gates(report: Report, console: Console) -> None:
    if not report.gates:
        return
    show_heading(console, "Gates")
    for gate in report.gates:
        verdict = ("passed", "green") if gate.passed else ("FAILED", "bold red")
        show(console, Text.assemble("  ", verdict, f"  {gate_words(gate)}"))


def gate_words(gate: Gate) -> str:
    """Return what a gate is about, the value it had and the most it may have."""
    calibration = "" if gate.calibration == "none" else f", {gate.calibration}"
    return (
        f"{gate.alignment} {gate.barrier} barrier of {gate.split} {gate.metric}{calibration}: "
        f"{exact(gate.value, metric=gate.metric)}, at most "
        f"{exact(gate.at_most, metric=gate.metric)}"
    )
