"""Progress where there is no terminal: a line now and then, none for what is quick."""

from __future__ import annotations

import io
import time

import pytest

from mergekit_perm.cli.live import PlainLines


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_a_task_that_lasts_has_lines_and_a_last_one(clock: list[float]) -> None:
    stream = io.StringIO()
    lines = PlainLines(stream)
    for done in range(1, 13):
        clock[0] += 1.0
        lines("evaluating a+b", done, 12, f"highest excess {done / 10:.4f}")
    assert stream.getvalue().splitlines() == [
        "evaluating a+b: 5 of 12, highest excess 0.5000",
        "evaluating a+b: 10 of 12, highest excess 1.0000",
        "evaluating a+b: 12 of 12, highest excess 1.2000",
    ]


def test_what_is_quick_shows_nothing(clock: list[float]) -> None:
    stream = io.StringIO()
    lines = PlainLines(stream)
    for task in ("training a", "training b", "training c"):
        for done in (0, 1, 2):
            clock[0] += 0.5
            lines(task, done, 2)
    assert stream.getvalue() == ""
    clock[0] += 5.0
    lines("aligning", 3, 100)
    assert stream.getvalue() == "aligning: 3 of 100\n"
