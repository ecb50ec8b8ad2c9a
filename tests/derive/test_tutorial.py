"""The tutorial in specs/architectures/README.md does what it says, word for word."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
import torch

from mergekit_perm import cli, shipped
from mergekit_perm.permspec import PermutationSpec

torch.set_num_threads(1)

TEXT = (shipped.specs_folder() / "architectures" / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with tinynet.py in it, which is where the commands run."""
    (program,) = blocks("python")
    assert program.startswith("# tinynet.py\n")
    (tmp_path / "tinynet.py").write_text(program)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tinynet", raising=False)
    return tmp_path


def run(command: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", shlex.split(command))
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def test_the_tutorial(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    derive, verify = (block.strip() for block in blocks("console"))
    derived, edited, used = blocks("yaml")
    file = folder / "tinynet.yaml"

    assert run(derive, monkeypatch) == 0
    assert file.read_text() == derived
    assert run(verify, monkeypatch) == 0

    file.write_text(edited)
    assert run(verify, monkeypatch) == 0
    assert "training mode: outputs and statistics differ by" in capsys.readouterr().out
    recorded = PermutationSpec.load(file)
    assert file.read_text().startswith(edited)
    assert recorded.proof["sha256"] == recorded.sha256
    assert recorded.proof["coverage"] == pytest.approx(0.9923, abs=1e-4)

    file.write_text(edited.replace("stream * 4", "4 * stream"))
    assert run(verify, monkeypatch) == 2
    (refusal,) = blocks("text")
    shown = capsys.readouterr().err
    assert shown.startswith(refusal.strip())
    assert "Groups that do so alone:\n  stream (" in shown
    assert "permutations: tinynet.yaml" in used
