"""The one shape of progress callbacks: lower floors report without knowing who listens."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called as `progress(task, done, total)`; `task` is a short phrase, ``"training a"``."""

    def __call__(self, task: str, done: int, total: int, note: str = "", /) -> None:
        """Report that `done` of `total` steps of `task` are finished.

        `note` is what is known by then, a few words. Where there is none it is not passed.
        """
        ...


def silent(_task: str, _done: int, _total: int, _note: str = "", /) -> None:
    """Report nothing: the default listener."""
