"""The frame of an HTML file that needs no network: style, scripts, tables and figures."""

from __future__ import annotations

import html
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what draws figures takes a moment to load, and a page may have none
    from mergekit_perm.report.charts import Figure

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
.narrow .chart { max-width: 28rem; } .chart > div { width: 100%; }
details { margin-top: .4rem; } summary { cursor: pointer; width: fit-content; }
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


def page(title: str, body: Iterable[str], drawn: Sequence[Figure]) -> str:
    """Return the text of an HTML file, complete with the scripts it needs.

    Args:
        title: plain text.
        body: HTML, without the heading.
        drawn: the figures that `figure_places` made places for.
    """
    specifications = {
        f"figure-{figure.name}": {
            **figure.specification(), "description": f"{figure.title}. {figure.caption}"
        }
        for figure in drawn
    }  # fmt: skip
    name = html.escape(title)
    parts = [
        "<!doctype html>", '<html lang="en">', "<head>", '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{name} - perm-merge</title>", f"<style>{_STYLE}</style>", "</head>", "<body>",
        f"<h1>{name}</h1>", *body,
    ]  # fmt: skip
    if drawn:  # what draws them is large, and takes a moment to load
        parts += [
            f'<script type="application/json" id="figures">{_embedded(specifications)}</script>',
            f"<script>{_library()}</script>", f"<script>{_SCRIPT}</script>",
        ]  # fmt: skip
    parts += ["</body>", "</html>"]
    return "\n".join(parts) + "\n"


def figure_places(drawn: Sequence[Figure]) -> Iterator[str]:
    """Yield links to all figures, and for each a place, a caption and a table of its values."""
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
            f'<div class="chart" {_region(figure.title)}>'
            f'<div id="figure-{figure.name}"></div></div>'
            f"<figcaption>{caption}</figcaption>"
        )
        yield "<details><summary>Values of this figure</summary>"
        yield from table(figure.values.head, figure.values.rows, f"Values: {figure.title}")
        yield "</details></figure>"


def table(
    head: Iterable[str],
    rows: Iterable[Sequence[str]],
    name: str,
    *,
    strong: Collection[tuple[int, int]] = (),
) -> Iterator[str]:
    """Yield a table of plain text.

    Args:
        head: the titles of the columns.
        rows: the label of each, and its cells.
        name: what it is a table of, for who cannot see where it stands.
        strong: which cells stand out: the row, and the cell within it without the label.
    """
    yield f'<div class="scroll" {_region(name)}><table><thead><tr>'
    yield "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in head)
    yield "</tr></thead><tbody>"
    for line, (label, *cells) in enumerate(rows):
        texts = map(html.escape, cells)
        shown = (
            f"<td><strong>{text}</strong></td>" if (line, place) in strong else f"<td>{text}</td>"
            for place, text in enumerate(texts)
        )
        yield f'<tr><th scope="row">{html.escape(label)}</th>{"".join(shown)}</tr>'
    yield "</tbody></table></div>"


def _region(name: str) -> str:
    """Return the attributes of what may scroll sideways: keys can reach it, and it has a name."""
    return f'tabindex="0" role="region" aria-label="{html.escape(name)}"'


@cache
def _library() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script."""
    import vl_convert

    from mergekit_perm.report.pictures import VEGA_LITE

    # Without a snippet of our own, which its type asks for, it has all of Vega.
    script: str = vl_convert.javascript_bundle(vl_version=VEGA_LITE)  # type: ignore[call-arg]
    return script.replace("</script", "<\\/script")


def _embedded(data: object) -> str:
    """Return `data` as JSON that may stand in a script element."""
    return json.dumps(data, allow_nan=False).replace("<", "\\u003c")
