"""Curves as they form: marks for what is measured, in the order of the path."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable

import pytest

from mergekit_perm import evaluate, pipeline
from mergekit_perm.pipeline.forming import FormingCurve
from mergekit_perm.spec import RunSpec

ENDS = {
    (1.0, 0.0, 0.0): {"test": evaluate.Metrics(1.0, 0.5, 4)},
    (0.0, 0.0, 1.0): {"test": evaluate.Metrics(3.0, 0.5, 4)},
}


@pytest.fixture(autouse=True)
def utf8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))


def point(share: float) -> tuple[float, ...]:
    return (1 - share, 0.0, share)


def measured(loss: float) -> dict[str, evaluate.Metrics]:
    return {"test": evaluate.Metrics(loss, 0.5, 4)}


def test_marks_are_of_what_lies_above_the_mix_of_the_ends() -> None:
    path = [point(share) for share in (0.75, 0.25, 0.5)]
    curve = FormingCurve(path, ENDS, {})
    assert curve.text() == "···"
    curve.add(point(0.5), measured(2.0 + 0.7))
    assert curve.text() == "·█·"
    curve.add(point(0.25), measured(1.5 + 1.4))
    assert curve.text() == "█▅·"
    curve.add(point(0.75), measured(float("nan")))
    assert curve.text() == "█▅!"
    again = {point(0.5): measured(2.7), point(0.25): measured(2.9)}
    assert FormingCurve(path, ENDS, again).text() == "█▅·"


def test_a_terminal_without_such_marks_has_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    path = [point(share) for share in (0.25, 0.5)]
    assert FormingCurve(path, ENDS, {point(0.5): measured(2.7)}).text() == "?#"


def test_many_points_share_marks_and_the_highest_shows() -> None:
    path = [point(share / 24) for share in range(1, 24)]
    curve = FormingCurve(path, ENDS, {})
    for each in path[:12]:
        curve.add(each, measured(1.0 + 2 * each[2] + each[2]))
    text = curve.text()
    assert len(text) == 11 and text.rstrip("·") == "".join(sorted(text.rstrip("·")))
    assert text[5] == "█" and text[6:] == "·····"


@pytest.mark.parametrize(
    "points", [[(0.5, 0.5, 0.0), (0.5, 0.0, 0.5)], [(1.0, 0.0, 0.0)], [(0.2, 0.3, 0.5)], []]
)
def test_what_is_no_path_has_no_curve(points: list[tuple[float, ...]]) -> None:
    def progress(*_: object) -> None:
        """Listen to nothing."""

    assert FormingCurve(points, ENDS, {}).shown(progress) is progress


def test_a_run_shows_them(small: Callable[..., RunSpec]) -> None:
    told: list[tuple[object, ...]] = []
    pipeline.run(small(), progress=lambda *event: told.append(event))
    notes = [str(event[3]) for event in told if str(event[0]).startswith("evaluating a+b")]
    assert notes[0].startswith("highest excess ") and notes[0].count("·") > 1
    curves = [note.split()[-1] for note in notes]
    assert all(len(curve) == 3 for curve in curves)
    assert "·" in curves[0] and "·" not in curves[2] and "█" in curves[2]
