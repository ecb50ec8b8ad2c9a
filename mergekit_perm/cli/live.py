"""What stderr shows while a command works: bars on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from mergekit_perm.progress import Progress

if TYPE_CHECKING:
    from rich.console import Console

# Seconds between two lines where there is no terminal; what is quicker than that shows none.
_QUIET = 5.0

# How wide a bar is.
_BAR = 12


@contextmanager
def live_progress() -> Iterator[Progress]:
    """Yield a listener for the work of the block."""
    if not sys.stderr.isatty():
        yield PlainLines(sys.stderr)
        return
    from rich.console import Console

    with bars_on(Console(stderr=True)) as listen:
        yield listen


@contextmanager
def bars_on(console: Console) -> Iterator[Progress]:
    """Yield a listener that shows bars on a terminal, of one line each however narrow it is.

    A task's name gives way first: how far it is, the time left and the note stay readable.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars
    from rich.table import Column

    columns = (
        TextColumn(
            "{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)
        ),
        BarColumn(bar_width=_BAR),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        TimeRemainingColumn(table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[note]}", style="dim", table_column=Column(no_wrap=True)),
    )
    with Bars(*columns, console=console, transient=True, expand=True) as bars:
        tasks: dict[str, Any] = {}

        def listen(task: str, done: int, total: int, note: str = "", /) -> None:
            if task not in tasks:
                for finished in tasks.values():
                    bars.update(finished, visible=False)
                tasks[task] = bars.add_task(task, total=total, note=note)
            bars.update(tasks[task], completed=done, total=total, note=note)

        yield listen


class PlainLines:
    """Writes a line about a task every few seconds, as logs are kept."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._task, self._last = "", time.monotonic()

    def __call__(self, task: str, done: int, total: int, note: str = "", /) -> None:
        """Write a line if the last one is long enough ago; the last of a task that had one, too."""
        now = time.monotonic()
        ends = done == total and task == self._task
        if now - self._last < _QUIET and not ends:
            return
        self._task, self._last = "" if ends else task, now
        self._stream.write(f"{task}: {done} of {total}{note and ', '}{note}\n")
        self._stream.flush()
