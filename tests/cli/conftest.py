"""The command line as a user calls it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mergekit_perm import cli
from mergekit_perm.report import html
from tests import pages

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def drawn_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page of every run is drawn: for tests that look at it."""
    monkeypatch.setattr(html, "save_html", pages.save_html)


@pytest.fixture(autouse=True)
def pages_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of reports that are alike are drawn once."""
    monkeypatch.setattr(html, "save_html", pages.save_once)


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Return a function that runs a command line in a folder of its own.

    It returns the exit code, and what was written to stdout and stderr.
    """
    torch.set_num_threads(1)
    monkeypatch.setenv("PERM_MERGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(sys, "path", [*sys.path])

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["perm-merge", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return call
