"""The README is kept true: its specs load, its commands exist, its Python names exist."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

import mergekit_perm as pm
from mergekit_perm import cli, shipped, spec
from mergekit_perm.derive.rules import reducing
from mergekit_perm.errors import SpecError
from mergekit_perm.permspec import PermutationSpec
from mergekit_perm.spec.alignment import ALIGNMENTS

README = (Path(__file__).parent.parent / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


COMMANDS = [
    line.partition("#")[0].strip()
    for block in blocks("console")
    for line in block.splitlines()
    if line.startswith("perm-merge")
]


def test_the_run_spec_has_no_problem_but_files_that_are_not_here(tmp_path: Path) -> None:
    text = next(block for block in blocks("yaml") if "perm-merge/run@1" in block)
    with pytest.raises(SpecError) as error:
        spec.loads(text, folder=tmp_path)
    assert str(error.value).count("no file") == str(error.value).count("<string>:") == 2
    for name in ("a.safetensors", "b.pth.tar"):
        (tmp_path / "runs").mkdir(exist_ok=True)
        (tmp_path / "runs" / name).touch()
    assert spec.loads(text, folder=tmp_path).name == "two-resnets"


def test_the_run_spec_of_sequences_is_sound(tmp_path: Path) -> None:
    found = [block for block in blocks("yaml") if "perm-merge/run@1" in block]
    assert len(found) == 2
    assert spec.loads(found[1], folder=tmp_path).steps == ("0", "1", "2", "5", "10", "20")


def test_the_permutation_spec_is_one() -> None:
    text = next(block for block in blocks("yaml") if block.startswith("groups:"))
    found = PermutationSpec.loads(f"format: perm-merge/permspec@1\n{text}")
    whole = PermutationSpec.load(shipped.architecture_specs()["vit_tiny_patch16_224"])
    assert found.axes.items() <= whole.axes.items()
    assert all(whole.groups[name] == group for name, group in found.groups.items())


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_and_their_options_exist(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = shlex.split(command)[1:]
    names = words[: 2 if words[0] == "permspec" else 1]
    monkeypatch.setattr(sys, "argv", ["perm-merge", *names, "--help"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    help_text = capsys.readouterr().out
    assert all(word in help_text for word in words if word.startswith("--"))


def test_the_commands_are_many_enough() -> None:
    assert {shlex.split(command)[1] for command in COMMANDS} == {
        "check",
        "convert",
        "explain",
        "merge",
        "plan",
        "report",
        "run",
        "compare",
        "permspec",
        "permute",
        "sweep",
    }


def test_python_names_exist() -> None:
    names = set(re.findall(r"pm\.(\w+)", "".join(blocks("python"))))
    assert names and all(getattr(pm, name) for name in names)


def test_the_rule_it_shows_is_the_one_there_is() -> None:
    (shown,) = (block for block in blocks("python") if block.startswith("@rule"))
    plain = re.sub(r" +#.*", "", shown)
    assert plain in Path(reducing.__file__).read_text(encoding="utf-8")


def methods_in_the_table() -> dict[str, str]:
    """Return the row of every method in the section on alignment, without its first cell."""
    section = README.partition("## Methods of alignment")[2].partition("\n## ")[0]
    return dict(re.findall(r"^\| `(\w+)` \|(.*)\|$", section, flags=re.MULTILINE))


def test_the_table_of_methods_has_all_and_their_papers() -> None:
    rows = methods_in_the_table()
    assert set(rows) == set(pm.METHODS)
    for method, row in rows.items():
        module = sys.modules[pm.METHODS[method].__module__]
        source = Path(str(module.__file__)).read_text(encoding="utf-8")
        papers = re.findall(r"\[(\d{4}\.\d{5})\]\(https://arxiv.org/abs/\1\)", row)
        assert papers or method == "mixed"
        assert all(paper in source for paper in papers)


def test_what_the_table_says_methods_look_at() -> None:
    rows = methods_in_the_table()
    words = {"weights": "weights", "inputs": "inputs", "labels": "inputs and labels"}
    for method, section in ALIGNMENTS.items():
        assert rows[method].split("|")[0].split(";")[0].strip() == words[section().looks_at]
