"""Pages and pictures that commands write instead of printing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from mergekit_perm.errors import RunError

if TYPE_CHECKING:
    from mergekit_perm.report.charts import Figure


def write_shown(
    html: Path | None,
    figures: Path | None,
    page: Callable[[], str],
    drawn: Callable[[], list[Figure]],
) -> None:
    """Write a page and figures where they are asked for, and say where they are."""
    if html is not None:
        from mergekit_perm.files import write_text

        with _writing(html):
            write_text(html, page())
        typer.echo(f"{html}: open it in a browser")
    if figures is not None:
        from mergekit_perm.report.pictures import save_figures

        with _writing(figures):
            written = save_figures(drawn(), figures)
        typer.echo(f"{figures}: {len(written)} files")


@contextmanager
def _writing(place: Path) -> Iterator[None]:
    """Name `place` where it cannot be written."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{place}: cannot be written: {error.strerror or error}") from error
