"""Figures as files: PNG and SVG, drawn without a browser."""

from __future__ import annotations

from pathlib import Path

import altair as alt
import vl_convert

from mergekit_perm.files import write_bytes, write_text
from mergekit_perm.report.charts import Figure

VEGA_LITE = "_".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
"""The version of Vega-Lite that figures are written for, as the renderer names it."""

# Where a figure is as wide as there is room, in pixels; and how many dots of a PNG are a pixel.
_WIDTH = 560
_SCALE = 3


def save_figures(figures: list[Figure], folder: Path) -> list[Path]:
    """Write every figure to `folder` as PNG and SVG, and return the files.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for figure in figures:
        specification = figure.specification()
        if specification.get("width") == "container":
            specification["width"] = _WIDTH
        svg, png = folder / f"{figure.name}.svg", folder / f"{figure.name}.png"
        write_text(svg, vl_convert.vegalite_to_svg(specification, vl_version=VEGA_LITE))
        write_bytes(
            png, vl_convert.vegalite_to_png(specification, vl_version=VEGA_LITE, scale=_SCALE)
        )
        written += [svg, png]
    return written
