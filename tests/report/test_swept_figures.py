"""Figures of sweeps: barriers over a field that is swept, and along pruning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mergekit_perm.report import Report
from mergekit_perm.report.charts import Figure
from mergekit_perm.report.compare import compare_groups
from mergekit_perm.report.compare_figures import as_number, compared_figures
from mergekit_perm.report.figures import figures
from mergekit_perm.report.repeats import Repeats
from tests.report.conftest import sweep
from tests.report.drawn import records

Make = Callable[..., Report]


def named(found: list[Figure], name: str) -> Figure:
    return next(figure for figure in found if figure.name == name)


def swept(*values: dict[str, Any]) -> list[Figure]:
    return compared_figures(compare_groups(sweep(*values)))


def test_a_field_of_numbers_is_an_axis() -> None:
    found = swept({"options.hidden": [8, 8]}, {"options.hidden": [64, 64]})
    against = [f.kind for f in found if " against " in f.kind]
    assert dict.fromkeys(against) == dict.fromkeys(
        [f"{line} against options.hidden" for line in ("Simplex of 3", "Worst pair", "Mean pair")]
    ) | {"Barycentre against options.hidden": None}
    figure = named(found, "worst-pair-against-options.hidden-test-loss-none-compared")
    points = [r for r in records(figure) if r["run"] == "aligned"]
    # Two runs each, the second higher by 1 and by 2: the mean is half of that higher.
    assert [(p["value"], p["excess"]) for p in points] == [(8.0, 0.5625), (64.0, 1.0625)]
    assert all(p["low"] < p["excess"] < p["high"] for p in points)
    assert figure.specification()["layer"][0]["encoding"]["x"]["scale"]["type"] == "log"
    assert "its 95 % t-interval" in figure.caption


def test_the_other_fields_tell_curves_apart() -> None:
    values = [
        {"align.reference": reference, "train.epochs": epochs}
        for reference in ("a", "joint")
        for epochs in (20, 30)
    ]
    found = swept(*values)
    figure = named(found, "worst-pair-against-train.epochs-test-error-none-compared")
    assert {r["run"] for r in records(figure)} == {
        "a, naive", "a, aligned", "joint, naive", "joint, aligned",
    }  # fmt: skip
    assert "type" not in figure.specification()["layer"][0]["encoding"]["x"]["scale"]
    assert not any("align.reference" in f.kind for f in found)


def test_fields_that_only_change_with_others_are_no_axis() -> None:
    found = swept(
        {"architecture": "vgg", "options.depth": 16},
        {"architecture": "resnet_cifar", "options.depth": 20},
    )
    assert not any(" against " in figure.kind for figure in found)


@pytest.mark.parametrize(
    ("value", "number"),
    [(3, 3.0), (0.5, 0.5), ([16, 32], 24.0), ([], None), (["a"], None), (True, None), ("8", None)],
)
def test_values_as_numbers(value: Any, number: float | None) -> None:
    assert as_number(value) == number


def test_barriers_along_pruning(pruned: Report, make_report: Make) -> None:
    figure = named(figures(pruned), "pruning-test-loss-none-a-b")
    found = {(r["permutations"], r["kept"]): r["excess"] for r in records(figure)}
    assert found == {
        ("none", 100.0): 0.5,
        ("none", 80.0): 1.0,
        ("of the dense networks", 100.0): 0.0625,
        ("of the dense networks", 80.0): 0.5,
        ("of the level itself", 100.0): 0.0625,
        ("of the level itself", 80.0): 0.03125,
    }
    assert not any(f.name.startswith("pruning") for f in figures(make_report()))


def test_barriers_along_pruning_of_a_sweep_have_bands(pruned: Report) -> None:
    report = pruned
    other = replace(
        report,
        matrices=tuple(replace(m, naive=(0.25, 1.0, 2.0)) for m in report.matrices),
    )
    found = compared_figures(compare_groups([Repeats("pruned", (report, other))]))
    figure = named(found, "pruning-test-loss-none-pruned-a-b")
    none = {r["kept"]: r for r in records(figure) if r["permutations"] == "none"}
    assert none[100.0]["excess"] == 0.75 and none[80.0]["excess"] == 1.5
    assert none[80.0]["low"] < 1.5 < none[80.0]["high"]
