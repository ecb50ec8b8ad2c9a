"""What a figure shows, for tests to look at."""

from __future__ import annotations

from typing import Any

from mergekit_perm.report.charts import Figure


def records(figure: Figure, layer: int | None = None) -> list[dict[str, Any]]:
    """Return the data of a figure, or of one of its layers."""
    found = figure.chart.to_dict(validate=False)
    part = found if layer is None else found["layer"][layer]
    values: list[dict[str, Any]] = found["datasets"][part.get("data", found.get("data"))["name"]]
    return values
