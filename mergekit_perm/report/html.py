"""The report as one HTML file that needs no network: tables, and figures to hover over."""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from mergekit_perm.files import write_text
from mergekit_perm.report import summaries
from mergekit_perm.report.matrix_terminal import step_words
from mergekit_perm.report.model import Barrier, Metrics, Report
from mergekit_perm.report.numbers import number
from mergekit_perm.report.page import figure_places, page, table
from mergekit_perm.report.result_tables import composition_tables, control_tables, mask_tables
from mergekit_perm.report.terminal import alignment_sentences, gate_words

if TYPE_CHECKING:
    from mergekit_perm.report.charts import Figure

# Parts of a report that tables and sentences tell, and no figure.
_TOLD = {"name", "networks", "merged", "gates", "provenance", "notes", "format"}


def to_html(report: Report) -> str:
    """Return the report as the text of an HTML file, complete with the scripts it needs."""
    drawn = _figures(report)
    body = [
        *_introduction(report), *_barriers(report), *_results(report), *_networks(report),
        *_gates(report), *figure_places(drawn), *_provenance(report),
    ]  # fmt: skip
    return page(report.name, body, drawn)


def save_html(report: Report, path: Path) -> None:
    """Write the report to `path` as HTML, in one step."""
    write_text(path, to_html(report))


def _figures(report: Report) -> list[Figure]:
    if not any(getattr(report, part.name) for part in fields(report) if part.name not in _TOLD):
        return []
    from mergekit_perm.report.figures import figures  # half a second

    return figures(report)


def _introduction(report: Report) -> Iterator[str]:
    if report.alignment is not None:
        for sentence in alignment_sentences(report.alignment, list(report.networks)):
            yield f"<p>{html.escape(sentence)}</p>"
    for note in report.notes:
        yield f'<p class="dim">Note: {html.escape(note)}</p>'


def _barriers(report: Report) -> Iterator[str]:
    rows = summaries.rows(report)
    for case in summaries.cases(report):
        of_case = [row for row in rows if row.case == case]
        calibrated = "" if case.calibration == "none" else f", calibration {case.calibration}"
        title = f"Barriers: {case.split} {case.metric}{calibrated}"
        yield f"<h2>{html.escape(title)}</h2>"
        lines = [(row.label, _height(row.naive), _height(row.aligned)) for row in of_case]
        lines += [(each.label, each.naive, each.aligned) for each in summaries.figures(of_case)]
        body = [
            [label, *(number(value, metric=case.metric) for value in values)]
            for label, *values in lines
        ]
        yield from table(["", "naive", "aligned"], body, title)


def _height(barrier: Barrier | None) -> float | None:
    return None if barrier is None else barrier.barrier


def _results(report: Report) -> Iterator[str]:
    for each in (*control_tables(report), *composition_tables(report), *mask_tables(report)):
        title = f"{each.title}: {each.aside}"
        yield f"<h2>{html.escape(title)}</h2>"
        columns = (column.replace("\n", " ") for column in each.columns)
        yield from table([each.label, *columns], each.rows, title)


def _networks(report: Report) -> Iterator[str]:
    body = [
        _metrics(name, split, metrics)
        for name, by_split in report.networks.items()
        for split, metrics in by_split.items()
    ]
    for name, steps in report.checkpoints.items():
        for step, each in steps.items():
            label = f"{name}, {step_words(step)}"
            label += f", {100 * each.kept:.3g} % of weights" if each.kept < 1 else ""
            body += [_metrics(label, split, metrics) for split, metrics in each.metrics.items()]
    for trained in report.transported:
        for number_of, run in enumerate(trained.trainings, start=1):
            label = f"{trained.target}, {trained.mask} mask of {trained.source} at {trained.level}"
            label += f", training {number_of}" if len(trained.trainings) > 1 else ""
            body += [_metrics(label, split, metrics) for split, metrics in run.items()]
    body += [
        _metrics(
            f"merged: {name}" + ("" if calibration == "none" else f", {calibration}"),
            split,
            metrics,
        )
        for name, merged in report.merged.items()
        for calibration, by_split in merged.calibration.items()
        for split, metrics in by_split.items()
    ]
    if body:
        yield "<h2>Networks</h2>"
        yield from table(["", "split", "loss", "error", "examples"], body, "Networks")
    for name, merged in report.merged.items():
        if merged.calibrated is not None:
            words = summaries.calibration_words(merged.calibrated)
            yield f"<p>{html.escape(f'{name}, {merged.calibrated.name}: {words}.')}</p>"


def _gates(report: Report) -> Iterator[str]:
    if report.gates:
        yield "<h2>Gates</h2>"
        for gate in report.gates:
            verdict = "passed" if gate.passed else '<strong class="failed">FAILED</strong>'
            yield f"<p>{verdict}: {html.escape(gate_words(gate))}</p>"


def _metrics(label: str, split: str, metrics: Metrics) -> list[str]:
    error = number(metrics.error, metric="error")
    return [label, split, number(metrics.loss), error, str(metrics.n)]


def _provenance(report: Report) -> Iterator[str]:
    made = report.provenance
    yield "<h2>Provenance</h2>"
    rows = [["spec, SHA-256", made.spec_sha256], ["device", made.device], ["dtype", made.dtype]]
    rows += [[name, version] for name, version in made.versions.items()]
    rows += [[f"seed of {name}", str(seed)] for name, seed in made.seeds.items()]
    rows += [[f"seconds, {name}", f"{seconds:.2f}"] for name, seconds in made.seconds.items()]
    yield from table(["", ""], rows, "Provenance")
