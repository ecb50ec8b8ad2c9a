"""Claims: bounds on barriers, and what runs over seeds say about them."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import Console

from mergekit_perm.report import Report, compare, render_findings
from mergekit_perm.report.claims import Claim, Finding, Height
from mergekit_perm.report.claims import findings as findings_of
from mergekit_perm.report.compare_html import comparison_to_html
from mergekit_perm.report.repeats import repeated

Make = Callable[..., Report]


def findings(claims: list[Claim], reports: list[Report]) -> list[Finding]:
    return findings_of(claims, repeated(reports))


def claim(**fields: object) -> Claim:
    given: dict[str, object] = {
        "text": "aligned is low", "value": Height("pair"), "upper": True, "bound": 0.1,
        "of": None, "of_run": None, "metric": "loss", "split": "test", "calibration": "none",
        "runs": None, **fields,
    }  # fmt: skip
    return Claim(**given)  # type: ignore[arg-type]


def runs(report: Report, label: str, factors: tuple[float, ...]) -> list[Report]:
    """The report over seeds, its barriers times a factor each."""
    return [
        replace(
            report,
            name=f"{label}-{seed}",
            barriers=tuple(replace(b, barrier=b.barrier * factor) for b in report.barriers),
            provenance=replace(report.provenance, repeats=label, seeds={"networks/a": seed}),
        )
        for seed, factor in enumerate(factors)
    ]


@pytest.fixture
def wide(make_report: Make) -> list[Report]:
    return runs(make_report(), "wide", (0.9, 1.0, 1.1))


def test_a_claim_holds_where_the_whole_interval_is_below_its_bound(wide: list[Report]) -> None:
    (found,) = findings([claim()], wide)  # aligned pairs: 0.0625 at most
    assert (found.run, found.verdict) == ("wide", "holds")
    assert found.value.value == pytest.approx(0.0625) and found.value.n == 3
    assert found.margin.value == pytest.approx(0.0625 - 0.1)
    assert found.margin.half == pytest.approx(4.302653 * 0.00625 / math.sqrt(3))


@pytest.mark.parametrize(
    ("fields", "verdict"),
    [
        ({"bound": 0.03}, "fails"),
        ({"bound": 0.06}, "not distinguishable"),
        ({"bound": 0.03, "upper": False}, "holds"),
        ({"bound": 0.1, "upper": False}, "fails"),
        ({"bound": 0.1, "of": Height("pair", "naive")}, "holds"),
        # Seed by seed the two are proportional: no interval at all, though both vary.
        ({"bound": 0.0625, "of": Height("pair", "naive")}, "holds"),
        ({"bound": 0.0624, "of": Height("pair", "naive")}, "fails"),
        ({"value": Height("simplex", "naive"), "bound": 0.5}, "fails"),
        ({"value": Height("a - b"), "bound": 0.0}, "holds"),
        ({"metric": "error", "bound": 0.05}, "holds"),
    ],
)
def test_verdicts(wide: list[Report], fields: dict[str, object], verdict: str) -> None:
    (found,) = findings([claim(**fields)], wide)
    assert found.verdict == verdict


def test_one_run_is_no_evidence(wide: list[Report]) -> None:
    (found,) = findings([claim(bound=10.0)], wide[:1])
    assert found.verdict == "not distinguishable"


def test_a_variation_may_be_bounded_by_another(make_report: Make, wide: list[Report]) -> None:
    narrow = runs(make_report(), "narrow", (2.7, 3.0, 3.3))
    mixed_up = [narrow[2], *wide, narrow[0], narrow[1]]
    third = claim(bound=0.334, of=Height("pair"), of_run="narrow", runs=("wide",))
    (found,) = findings([third], mixed_up)
    # Each against the run of its own seeds: exactly a third.
    assert (found.run, found.verdict) == ("wide", "holds")
    assert found.margin.half == pytest.approx(0, abs=1e-3)
    assert [each.run for each in findings([claim()], mixed_up)] == ["narrow", "wide"]
    (alone,) = findings([third], [*wide, *narrow[:2]])
    assert alone.verdict == "not measured"
    assert "there are no runs 'narrow' of the same seeds" in alone.note


def test_cells_of_a_matrix(of_sequences: Report) -> None:
    reports = runs(of_sequences, "x", (1.0, 1.0, 1.0))
    for cells, value in (
        ((("20",), ("prune1",)), 0.03125),
        ((("20",), ("0", "5", "prune1")), 0.0625),
        ((("0", "5"), ("prune1",)), 0.75),
        ((("none",), ("prune1",)), 1.0),
    ):
        height = Height(found_at=cells[0], applied_at=cells[1])
        (found,) = findings([claim(value=height)], reports)
        assert found.value.value == value


@pytest.mark.parametrize(
    ("fields", "note"),
    [
        ({"of": Height("pair"), "of_run": "deep"}, "there are no runs 'deep' of the same seeds"),
        (
            {"value": Height("worst pairs")},
            "wide-0 has no 'worst pairs' of test loss (did you mean 'worst pair'?)",
        ),
        ({"split": "val"}, "of val loss; there is no barrier"),
        ({"calibration": "batch_norm"}, "of test loss, calibration batch_norm"),
        ({"value": Height(found_at=("1",), applied_at=("2",))}, "has no matrix of test loss"),
    ],
)
def test_what_is_not_there_is_not_measured(
    wide: list[Report], fields: dict[str, object], note: str
) -> None:
    (found,) = findings([claim(**fields)], wide)
    assert found.verdict == "not measured" and note in found.note
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["value"]["value"] == "nan"
    stream = io.StringIO()
    render_findings([found], Console(file=stream, width=200, color_system=None))
    assert "not measured  aligned is low: wide" in stream.getvalue()
    assert note in stream.getvalue()


def test_a_claim_about_runs_that_are_not_there_says_nothing(wide: list[Report]) -> None:
    assert findings([claim(runs=("other",))], wide) == []


def test_cells_that_are_not_there(of_sequences: Report) -> None:
    height = Height(found_at=("7",), applied_at=("0",))
    (found,) = findings([claim(value=height)], [of_sequences])
    assert "no permutations found at 7 and applied at 0; found at none, 0, 5, 20" in found.note


def test_the_end_and_all_are_those_of_every_report(of_sequences: Report) -> None:
    ended = tuple(replace(m, end="5") for m in of_sequences.matrices)
    reports = runs(replace(of_sequences, matrices=ended), "x", (1.0, 1.0))
    for height, value in (
        (Height(found_at=("end",), applied_at=("prune1",)), 0.5),
        (Height(found_at=("all",), applied_at=("end",)), 0.25),
        (Height(found_at=("none",), applied_at=("all",)), 1.0),
    ):
        (found,) = findings([claim(value=height)], reports)
        assert found.value.value == value


def test_infinite_barriers_have_no_verdict(wide: list[Report]) -> None:
    endless = [
        replace(
            report,
            barriers=tuple(
                replace(b, barrier=math.inf) if b.alignment == kind else b for b in report.barriers
            ),
        )
        for report, kind in zip(wide, ("naive", "aligned", "naive"), strict=True)
    ]
    (found,) = findings([claim(bound=1.0, of=Height("pair", "naive"))], endless)
    assert found.verdict == "not distinguishable"
    assert found.to_json()["margin"]["value"] == "nan"


def test_a_claim_reads_back_as_it_was() -> None:
    given = claim(of=Height(found_at=("1",), applied_at=("2", "3")), runs=("x",), of_run="y")
    assert Claim.from_json(given.to_json()) == given
    assert Claim.from_json(claim().to_json()) == claim()


def test_findings_are_told_with_what_was_measured(wide: list[Report]) -> None:
    claims = [claim(), claim(text="a tenth", of=Height("pair", "naive"), metric="error")]
    found = findings(claims, wide)
    stream = io.StringIO()
    render_findings(found, Console(file=stream, width=80, color_system=None))
    text = " ".join(stream.getvalue().split())
    assert "Claims holds aligned is low: wide" in text
    assert "test loss, pair: 0.0625 ±0.0155, at most 0.1000; 3 runs" in text
    assert "at most 5.00 % ±1.24 % (0.1 times pair, naive); 3 runs" in text
    page = comparison_to_html(compare(wide), found)
    assert '<th scope="row">aligned is low</th><td>wide</td><td>holds</td>' in page
    assert [each.to_json()["verdict"] for each in found] == ["holds", "holds"]
    stream = io.StringIO()
    render_findings([], Console(file=stream))
    assert not stream.getvalue()
