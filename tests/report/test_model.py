"""report.json: what is written is what is read, and nothing else is."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergekit_perm.errors import RunError
from mergekit_perm.report.model import Metrics, Report
from mergekit_perm.report.plain_data import plain, read

Make = Callable[..., Report]


def test_a_report_reads_back_as_it_was(make_report: Make, tmp_path: Path) -> None:
    report = make_report()
    report.save(tmp_path / "run/report.json")
    assert Report.load(tmp_path / "run") == report
    assert Report.load(tmp_path / "run/report.json") == report
    assert Report.from_json(json.loads(report.to_text())) == report


def test_the_keys_are_those_of_the_format(make_report: Make) -> None:
    data = make_report().to_json()
    assert list(data) == [
        "format", "name", "networks", "alignment", "barriers", "merged", "gates", "provenance",
        "notes", "matrices", "checkpoints", "compositions", "controls", "transported",
    ]  # fmt: skip
    assert data["format"] == "perm-merge/report@1"
    assert data["networks"]["a"]["test"] == {"loss": 0.25, "error": 0.0625, "n": 450}
    assert list(data["barriers"][0]) == [
        "kind", "networks", "alignment", "calibration", "split", "metric", "barrier", "argmax",
        "spoke", "points",
    ]  # fmt: skip
    assert data["barriers"][0]["points"][1] == {"weights": [0.75, 0.25], "value": 0.375}
    assert list(data["alignment"]) == [
        "reference", "method", "objective", "permutations", "groups", "seconds", "saw", "cut_off",
        "at",
    ]  # fmt: skip
    assert list(data["alignment"]["groups"][0]) == [
        "name", "size", "moved", "objective", "similarity",
    ]  # fmt: skip
    assert data["alignment"]["groups"][0]["similarity"] == {"before": 0.25, "after": 0.75}
    assert data["alignment"]["groups"][0]["moved"] == {"a": 0, "b": 6, "c": 6}
    assert data["gates"][1]["passed"] is False


@given(st.floats(), st.floats(), st.integers(0, 10**12))
def test_every_number_keeps_full_precision(loss: float, error: float, n: int) -> None:
    data = json.loads(json.dumps(plain({"loss": loss, "error": error, "n": n}), allow_nan=False))
    again = read(Metrics, data, "here")
    for found, given_value in ((again.loss, loss), (again.error, error)):
        assert found == given_value or (math.isnan(found) and math.isnan(given_value))
    assert again.n == n


def test_infinite_values_survive(make_report: Make) -> None:
    report = make_report()
    first = replace(report.barriers[0], barrier=math.inf)
    report = replace(report, barriers=(first, *report.barriers[1:]))
    assert '"barrier": "inf"' in report.to_text()
    assert Report.from_json(json.loads(report.to_text())) == report


def test_a_report_without_alignment_is_one(make_report: Make) -> None:
    report = replace(make_report(), alignment=None)
    assert Report.from_json(json.loads(report.to_text())).alignment is None


def spoiled(report: Report, **changes: object) -> str:
    return json.dumps({**report.to_json(), **changes})


def test_what_is_no_report_is_refused(make_report: Make, tmp_path: Path) -> None:
    report = make_report()
    barrier = report.to_json()["barriers"][0]
    cases = {
        "{": "cannot be read as JSON: Expecting property name enclosed in double quotes: "
        "line 1 column 2 (char 1)",
        "[]": "this is no report of perm-merge",
        '{"format": "other/report@1"}': "this is no report of perm-merge",
        spoiled(report, format="perm-merge/report@9"): (
            "this report has the format 'perm-merge/report@9', and this version of perm-merge "
            "reads 'perm-merge/report@1': run the spec again to make a new one"
        ),
        spoiled(report, name=3): "report.name: expected a value of type str, found 3",
        spoiled(report, barriers={}): "report.barriers: expected a list, found {}",
        spoiled(report, networks=[]): "report.networks: expected a mapping, found []",
        spoiled(report, barriers=[{**barrier, "kind": "triple"}]): (
            "report.barriers[0].kind: expected 'pair' or 'simplex', found 'triple'"
        ),
        spoiled(report, barriers=[{**barrier, "barrier": True}]): (
            "report.barriers[0].barrier: expected a number, found True"
        ),
        spoiled(report, barriers=[{**barrier, "barrier": 10**400}]): (
            "report.barriers[0].barrier: expected a number of at most 1.8e308, found a larger"
        ),
        spoiled(report, barriers=[{**barrier, "networks": ["a", "b", "c"]}]): (
            "report.barriers[0]: expected 3 weights, one per network, found [0.5, 0.5]"
        ),
        spoiled(report, barriers=[{**barrier, "points": barrier["points"][1:]}]): (
            "report.barriers[0]: no point is the network 'a' alone"
        ),
        spoiled(report, networks={"a": {"test": {"loss": 1, "n": 2}}}): (
            "report.networks.a.test: 'error' is missing"
        ),
        spoiled(report, networks={"a": {"test": {"loss": 1, "error": 0, "n": True}}}): (
            "report.networks.a.test.n: expected a value of type int, found True"
        ),
    }
    file = tmp_path / "report.json"
    for text, message in cases.items():
        file.write_text(text)
        with pytest.raises(RunError) as error:
            Report.load(file)
        assert str(error.value) == f"{file}: {message}"


def test_a_report_nested_too_deep_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    file.write_text("[" * 100_000)
    with pytest.raises(RunError, match="cannot be read as JSON: maximum recursion depth exceeded"):
        Report.load(file)


def test_a_missing_report_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RunError) as error:
        Report.load(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}/report.json: no report there; a finished run has one, so run its spec first"
    )
