"""Progress: a line now and then where there is no terminal, bars where there is one."""

from __future__ import annotations

import io
import re
import time

import pytest
from rich.console import Console

from mergekit_perm.cli.live import PlainLines, bars_on


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


@pytest.mark.parametrize("task", ["naive", "evaluating a+b, aligned, repair+temperature " * 3])
def test_bars_keep_to_one_line_and_say_what_counts(task: str) -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=80, force_terminal=True, legacy_windows=False)
    with bars_on(console) as listen:
        listen(task, 7, 25, "highest excess 0.1234")
    shown = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", stream.getvalue())
    lines = [line.strip() for line in re.split(r"[\r\n]+", shown) if line.strip()]
    assert any(" 7/25 " in line for line in lines)
    for line in lines:
        assert len(line) <= 80 and line.startswith(task[:20].strip())
        assert "/25 -:--:-- " in line and line.endswith("highest excess 0.1234")
