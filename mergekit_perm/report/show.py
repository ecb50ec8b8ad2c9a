"""Printing what any terminal can show, with nothing lost that a number needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.segment import Segment
from rich.table import Table
from rich.text import Text


def show(console: Console, renderable: RenderableType = "") -> None:
    """Print `renderable`, with substitutes for characters that the console cannot encode."""
    console.print(_Encodable(renderable))


def show_heading(console: Console, title: str, aside: str = "") -> None:
    """Print a title in bold after a blank line, and something dim behind it."""
    show(console)
    show(console, Text.assemble((title, "bold"), (f"  {aside}" if aside else "", "dim")))


def indented(renderable: RenderableType) -> Padding:
    """Return `renderable` two columns to the right."""
    return Padding(renderable, (0, 0, 0, 2), expand=False)


def plain_table(label: str, columns: Sequence[str]) -> Table:
    """Return a table without lines: a column of labels, then columns to the right.

    Only labels are wrapped when space is short; a number that loses a digit is another number.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(Text(label), overflow="fold")
    for column in columns:
        table.add_column(Text(column), justify="right", no_wrap=True)
    return table


@dataclass(frozen=True, slots=True)
class _Encodable:
    renderable: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for text, style, control in console.render(self.renderable, options):
            yield Segment(_encodable(text, console.encoding), style, control)


def _encodable(text: str, encoding: str) -> str:
    """Return `text` with as many characters; rich shortens with an ellipsis everywhere."""
    try:
        text.encode(encoding)
    except LookupError:
        encoding = "ascii"
    except UnicodeEncodeError:
        pass
    else:
        return text
    return text.replace("…", "~").encode(encoding, "replace").decode(encoding)
