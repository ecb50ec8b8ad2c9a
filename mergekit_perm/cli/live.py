"""What stderr shows while a command works: bars on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from mergekit_perm.progress import Progress

# Seconds between two lines where there is no terminal; what is quicker than that shows none.
_QUIET = 5.0


@contextmanager
def live_progress() -> Iterator[Progress]:
    """Yield a listener for the work of the block."""
    if not sys.stderr.isatty():
        yield PlainLines(sys.stderr)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", style="dim"),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
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
