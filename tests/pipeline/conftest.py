"""A small run that takes about a second, in a folder and with a cache of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mergekit_perm import evaluate
from mergekit_perm.report import html
from mergekit_perm.spec import RunSpec, loads
from tests import pages

SMALL = """
format: perm-merge/run@1
name: small
architecture: mlp
options: {in_features: 64, hidden: [8, 8], num_classes: 10}
data: digits
networks:
  a: {train: {seed: 0}}
  b: {train: {seed: 1}}
  c: {train: {seed: 2}}
train: {epochs: 2}
align: {reference: joint, method: weight_matching}
merge:
  - {name: mean, method: linear}
evaluate: {points: 5, simplex: {grid: 3}}
"""


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setenv("PERM_MERGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(html, "save_html", pages.save_once)


@pytest.fixture
def small_text() -> str:
    """The small run as YAML."""
    return SMALL


@pytest.fixture
def small() -> Callable[..., RunSpec]:
    """Return a function that loads the small run with overrides such as ``train.epochs=1``."""

    def load(*overrides: str) -> RunSpec:
        return loads(SMALL, file="small.yaml", overrides=overrides)

    return load


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object], int], list[Any]]:
    """Return a function that does `work`, and kills it `after` so many points are measured.

    It returns these points, in a list that goes on with those of later runs.
    """
    measure = evaluate.Engine.measure

    def run(work: Callable[[], object], after: int) -> list[Any]:
        seen: list[Any] = []

        def count(engine: evaluate.Engine, weights: Any) -> Any:
            seen.append(weights)
            return measure(engine, weights)

        def stop_in_time(engine: evaluate.Engine, weights: Any) -> Any:
            if len(seen) == after:
                raise KeyboardInterrupt
            return count(engine, weights)

        with monkeypatch.context() as broken:
            broken.setattr(evaluate.Engine, "measure", stop_in_time)
            with pytest.raises(KeyboardInterrupt):
                work()
        monkeypatch.setattr(evaluate.Engine, "measure", count)
        return seen

    return run
