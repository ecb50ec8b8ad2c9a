"""The report as one HTML file that needs no network: tables, and figures to hover over."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

import vl_convert

from mergekit_perm.files import write_text
from mergekit_perm.report import summaries
from mergekit_perm.report.figures import Figure, figures
from mergekit_perm.report.model import Barrier, Report
from mergekit_perm.report.pictures import VEGA_LITE
from mergekit_perm.report.terminal import alignment_sentences, gate_words, number

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --paper: #fff; --line: #d5d8dc; --dim: #5c6370; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e6ea; --paper: #16181c; --line: #3a3f47; --dim: #9aa1ac; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1rem; color: var(--ink);
  background: var(--paper); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
h3 { font-size: 1rem; margin-bottom: .2rem; }
p { max-width: 46rem; } .dim, figcaption { color: var(--dim); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .8rem .2rem 0; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
nav ul { padding-left: 1.1rem; } nav a { margin-right: .7rem; white-space: nowrap; }
figure { margin: 1rem 0 2rem; } .chart { width: 100%; overflow-x: auto; }
.narrow .chart { max-width: 28rem; }
a { color: inherit; } :focus-visible { outline: 2px solid #4c8bf5; outline-offset: 2px; }
.failed { color: #d62728; }
"""

_SCRIPT = """
const specifications = JSON.parse(document.getElementById("figures").textContent);
const dark = window.matchMedia("(prefers-color-scheme: dark)");
function theme() {
  const ink = dark.matches ? "#e4e6ea" : "#1c1e21", line = dark.matches ? "#3a3f47" : "#e3e5e8";
  return {
    background: "transparent", view: { stroke: line },
    axis: { labelColor: ink, titleColor: ink, gridColor: line, domainColor: line, tickColor: line,
      labelLimit: 120 },
    legend: { labelColor: ink, titleColor: ink }, text: { color: ink }, mark: { tooltip: true },
  };
}
async function draw() {
  document.body.dataset.drawn = "0";
  let drawn = 0;
  for (const [name, specification] of Object.entries(specifications)) {
    const place = document.getElementById(name);
    try {
      await vegaEmbed(place, specification, {
        config: theme(), renderer: "svg", actions: { export: true, source: false, editor: false,
        compiled: false }, downloadFileName: name });
      drawn += 1;
    } catch (error) {
      place.textContent = "This figure could not be drawn: " + error;
      console.error(name, error);
    }
  }
  document.body.dataset.drawn = String(drawn);
}
dark.addEventListener("change", draw);
draw();
"""


def to_html(report: Report) -> str:
    """Return the report as the text of an HTML file, complete with the scripts it needs."""
    drawn = figures(report)
    specifications = {f"figure-{figure.name}": figure.specification() for figure in drawn}
    title = html.escape(report.name)
    parts = [
        "<!doctype html>", '<html lang="en">', "<head>", '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title} - perm-merge</title>", f"<style>{_STYLE}</style>", "</head>", "<body>",
        f"<h1>{title}</h1>", *_introduction(report), *_barriers(report), *_others(report),
        *_figures(drawn), *_provenance(report),
        f'<script type="application/json" id="figures">{_embedded(specifications)}</script>',
        f"<script>{_library()}</script>", f"<script>{_SCRIPT}</script>", "</body>", "</html>",
    ]  # fmt: skip
    return "\n".join(parts) + "\n"


def save_html(report: Report, path: Path) -> None:
    """Write the report to `path` as HTML, in one step."""
    write_text(path, to_html(report))


@cache
def _library() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script."""
    # Without a snippet of our own, which its type asks for, it has all of Vega.
    script: str = vl_convert.javascript_bundle(vl_version=VEGA_LITE)  # type: ignore[call-arg]
    return script.replace("</script", "<\\/script")


def _embedded(data: object) -> str:
    """Return `data` as JSON that may stand in a script element."""
    return json.dumps(data, allow_nan=False).replace("<", "\\u003c")


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
        yield f"<h2>Barriers: {html.escape(f'{case.split} {case.metric}{calibrated}')}</h2>"
        lines = [(row.label, _height(row.naive), _height(row.aligned)) for row in of_case]
        lines += [(each.label, each.naive, each.aligned) for each in summaries.figures(of_case)]
        body = [
            [label, *(number(value, metric=case.metric) for value in values)]
            for label, *values in lines
        ]
        yield from _table(["", "naive", "aligned"], body)


def _height(barrier: Barrier | None) -> float | None:
    return None if barrier is None else barrier.barrier


def _others(report: Report) -> Iterator[str]:
    body = [
        [name, split, number(metrics.loss), number(metrics.error, metric="error"), str(metrics.n)]
        for name, by_split in report.networks.items()
        for split, metrics in by_split.items()
    ]
    body += [
        [f"merged: {name}" + ("" if calibration == "none" else f", {calibration}"), split,
         number(metrics.loss), number(metrics.error, metric="error"), str(metrics.n)]
        for name, merged in report.merged.items()
        for calibration, by_split in merged.calibration.items()
        for split, metrics in by_split.items()
    ]  # fmt: skip
    if body:
        yield "<h2>Networks</h2>"
        yield from _table(["", "split", "loss", "error", "examples"], body)
    if report.gates:
        yield "<h2>Gates</h2>"
        for gate in report.gates:
            verdict = "passed" if gate.passed else '<strong class="failed">FAILED</strong>'
            yield f"<p>{verdict}: {html.escape(gate_words(gate))}</p>"


def _figures(drawn: Sequence[Figure]) -> Iterator[str]:
    if not drawn:
        return
    yield "<h2>Figures</h2>"
    yield '<nav aria-label="Figures"><ul>'
    for kind in dict.fromkeys(figure.kind for figure in drawn):
        links = (
            f'<a href="#figure-{figure.name}">{html.escape(figure.case or figure.kind)}</a>'
            for figure in drawn
            if figure.kind == kind
        )
        yield f"<li>{html.escape(kind)}: {' '.join(links)}</li>"
    yield "</ul></nav>"
    for figure in drawn:
        title, caption = html.escape(figure.title), html.escape(figure.caption)
        yield (
            f'<figure class="{"wide" if figure.wide else "narrow"}"><h3>{title}</h3>'
            f'<div class="chart" id="figure-{figure.name}" role="img" aria-label="{title}"></div>'
            f"<figcaption>{caption}</figcaption></figure>"
        )


def _provenance(report: Report) -> Iterator[str]:
    made = report.provenance
    yield "<h2>Provenance</h2>"
    rows = [["spec, SHA-256", made.spec_sha256], ["device", made.device], ["dtype", made.dtype]]
    rows += [[name, version] for name, version in made.versions.items()]
    rows += [[f"seed of {name}", str(seed)] for name, seed in made.seeds.items()]
    rows += [[f"seconds, {name}", f"{seconds:.2f}"] for name, seconds in made.seconds.items()]
    yield from _table(["", ""], rows)


def _table(head: Iterable[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield '<div class="scroll"><table><thead><tr>'
    yield "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in head)
    yield "</tr></thead><tbody>"
    for first, *rest in rows:
        cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in rest)
        yield f'<tr><th scope="row">{html.escape(first)}</th>{cells}</tr>'
    yield "</tbody></table></div>"
