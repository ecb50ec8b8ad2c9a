"""Runs that repeat one another: of one spec, but for names and seeds."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mergekit_perm.report.model import Report


@dataclass(frozen=True, slots=True)
class Repeats:
    """Runs that differ by nothing but their seeds, as one; or a single run.

    Attributes:
        name: of the run, or what the names of all begin with.
        reports: of the runs, in the order they were given.
        values: by field what a sweep has set it to; none of runs of no sweep.
    """

    name: str
    reports: tuple[Report, ...]
    values: Mapping[str, Any] = field(default_factory=dict)


def repeated(reports: Sequence[Report]) -> list[Repeats]:
    """Return runs that repeat one another together, the others each alone, in order."""
    groups: dict[object, list[Report]] = {}
    for place, report in enumerate(reports):
        # Reports of earlier versions do not say what they repeat; and a run that was run again, on
        # another machine say, is no repeat.
        key = report.provenance.repeats
        again = any(
            other.provenance.repeats == key and other.provenance.seeds == report.provenance.seeds
            for at, other in enumerate(reports)
            if at != place
        )
        groups.setdefault(place if again or not key else key, []).append(report)
    return _named(list(groups.values()))


def each_alone(reports: Sequence[Report]) -> list[Repeats]:
    """Return every run as one of its own."""
    return _named([[report] for report in reports])


def renamed(groups: Sequence[Repeats]) -> list[Repeats]:
    """Return `groups`, those numbered that share a name."""
    return _numbered([(group.name, group.reports) for group in groups])


def same_seeds(one: Repeats, other: Repeats) -> list[tuple[int, int]] | None:
    """Return which run of `one` has the seeds of which run of `other`.

    Returns:
        Places in both, or None unless every run has exactly one that belongs to it.
    """
    ours, theirs = ([_seeds(report) for report in each.reports] for each in (one, other))
    if len(set(ours)) < len(ours) or set(ours) != set(theirs) or len(ours) != len(theirs):
        return None
    return [(place, theirs.index(seeds)) for place, seeds in enumerate(ours)]


def _seeds(report: Report) -> frozenset[tuple[str, int]]:
    """Return the seeds of what is aligned: those of the networks."""
    seeds = report.provenance.seeds.items()
    return frozenset((name, seed) for name, seed in seeds if name.startswith("networks/"))


def _named(groups: Sequence[Sequence[Report]]) -> list[Repeats]:
    """Give every group a name; those that share one are numbered."""
    return _numbered([(_common([r.name for r in group]), tuple(group)) for group in groups])


def _numbered(groups: Sequence[tuple[str, tuple[Report, ...]]]) -> list[Repeats]:
    names = [name for name, _ in groups]
    return [
        Repeats(
            f"{name} ({names[: place + 1].count(name)})" if names.count(name) > 1 else name,
            reports,
        )
        for place, (name, reports) in enumerate(groups)
    ]


def _common(names: Sequence[str]) -> str:
    """Return what all names begin with, to the end of a word; the first where that is nothing."""
    if len(set(names)) == 1:
        return names[0]
    letters = itertools.takewhile(lambda each: len(set(each)) == 1, zip(*names, strict=False))
    begin = "".join(each[0] for each in letters)
    return begin.rstrip("0123456789").rstrip("-_. ") or names[0]
