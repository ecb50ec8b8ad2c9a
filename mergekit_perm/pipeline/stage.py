"""A stage of a run: what it does, what it writes, and the key that decides if it is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mergekit_perm.pipeline.workshop import Result, Workshop


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a run.

    Attributes:
        name: unique in the run, such as ``networks/a``.
        title: what it does, for people.
        key: the content key; equal keys give equal results.
        files: what it writes, relative to the run's folder.
        work: does it.
        networks: the keys of the networks that it trains: it is quick where all are cached.
    """

    name: str
    title: str
    key: str
    files: tuple[str, ...]
    work: Callable[[Workshop], Result]
    networks: tuple[str, ...] = ()
