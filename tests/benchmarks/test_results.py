"""The page of benchmarks: which figures are of which code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks import results
from tests.benchmarks.sections import SECTIONS
from tests.benchmarks.sources import SOURCES, code, digest


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have figures and page in a folder of the test's own, which it returns."""
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    monkeypatch.setattr(results, "PAGE", tmp_path / "RESULTS.md")
    return tmp_path


def row(parameters: int, copies: float = 3.0) -> dict[str, float]:
    return {"parameters": parameters, "copies": copies}


def test_the_page_is_made_of_the_figures_that_are_kept() -> None:
    assert results.page() == results.PAGE.read_text(encoding="utf-8"), (
        "write it anew: python -m tests.benchmarks.results"
    )


def test_figures_of_todays_code_need_no_word(elsewhere: Path) -> None:
    results.keep("evaluation_memory", [row(1), row(2)])
    page = (elsewhere / "RESULTS.md").read_text()
    where = results.where("cpu")
    assert page.endswith(f"\nMeasured on {where}.\n")
    assert [r["code"] for r in results.kept("evaluation_memory")] == [
        results.CODE["evaluation_memory"]
    ] * 2


def test_what_is_of_other_code_stays_so_when_more_is_measured(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of before there were digests, of other code, and of today's.
    (elsewhere / "evaluation_memory.json").write_text(json.dumps({"where": "", "rows": [row(1)]}))
    monkeypatch.setitem(results.CODE, "evaluation_memory", "before")
    results.keep("evaluation_memory", [*results.kept("evaluation_memory"), row(2), row(3)])
    monkeypatch.setitem(results.CODE, "evaluation_memory", "today")
    results.keep("evaluation_memory", [*results.kept("evaluation_memory"), row(3, 4.0), row(4)])
    assert [r["code"] for r in results.kept("evaluation_memory")] == [
        "",
        *["before"] * 2,
        *["today"] * 2,
    ]
    assert (
        ". Of other code than today's: 1 parameters, 2 parameters, 3 parameters (1 of 2 figures).\n"
        in (elsewhere / "RESULTS.md").read_text()
    )


def test_figures_that_are_all_of_other_code_are_not_listed(elsewhere: Path) -> None:
    (elsewhere / "evaluation_memory.json").write_text(
        json.dumps({"where": "a CPU", "rows": [row(1), row(2)]})
    )
    assert results.page().endswith("Measured on a CPU. All of it is of other code than today's.\n")


def test_every_section_knows_what_decides_it_and_what_its_rows_are_called() -> None:
    assert SOURCES.keys() == SECTIONS.keys()
    rows = {name: results.kept(name) for name in SECTIONS}
    called = {name: SECTIONS[name].called.format_map(r[0]) for name, r in rows.items() if r}
    assert called["barriers"] == "naive"
    assert all(called.values())


def test_a_digest_is_of_names_and_code(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("a = 1\n")
    (tmp_path / "b.txt").write_text("a = 1\n")
    first = digest(tmp_path, ["*.py"])
    assert digest(tmp_path, ["*.py", "a.*", "!b.txt"]) == first
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    renamed = digest(tmp_path, ["*.py"])
    (tmp_path / "b.py").write_text("a = 2\n")
    assert len({first, renamed, digest(tmp_path, ["*.py"])}) == 3
    with pytest.raises(ValueError, match=r"no file matches !a\.py"):
        digest(tmp_path, ["*.py", "!a.py"])


def test_what_code_says_of_itself_does_not_count() -> None:
    silent = 'def f(x):\n    text = """kept\n\n# so"""\n    return x + 1\n'
    spoken = (
        '"""A module."""\n\n# Of it.\ndef f(x):\n    """Say.\n\n    More.\n    """\n'
        '    text = """kept\n\n# so"""\n\n    return x + 1  # and why\n'
    )
    assert code(spoken) == code(silent)
    assert code(silent) != code(silent.replace("1", "2"))
    assert code(silent) != code(silent.replace("so", "as"))
