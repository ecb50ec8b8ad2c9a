"""Networks of the user's own: what changes in their code is noticed, what breaks is reported."""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mergekit_perm import cli, pipeline
from mergekit_perm.errors import PermutationSpecError
from mergekit_perm.spec import RunSpec

Small = Callable[..., RunSpec]

NETWORK = """
import torch
from torch import nn

class Net(nn.Module):
    input_shape = (1, 8, 8)

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(64, 8)])
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        hidden = torch.relu(self.layers[0](x.flatten(1)))
        return self.head(hidden{twist})

def make():
    return Net()
"""

PERMSPEC = """
format: perm-merge/permspec@1
groups: {layers.0: 8}
axes:
  layers.0.weight: [layers.0, 64]
  layers.0.bias: [layers.0]
  head.weight: [10, layers.0]
"""

_NUMBERS = itertools.count()


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: Small) -> Callable[[str], RunSpec]:
    """Return a function that writes the network with a twist and loads a run of it."""
    module = f"own_network_{next(_NUMBERS)}"
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("mine.yaml").write_text(PERMSPEC)

    def write(twist: str) -> RunSpec:
        (tmp_path / f"{module}.py").write_text(NETWORK.replace("{twist}", twist))
        sys.modules.pop(module, None)
        importlib.invalidate_caches()
        return small(
            f"architecture={module}:make", "options={}", "align.permutations=mine.yaml",
            "train.epochs=1",
        )  # fmt: skip

    return write


def test_a_proof_does_not_outlive_the_code_that_it_was_about(own: Callable[[str], RunSpec]) -> None:
    first = pipeline.run(own(""))
    assert first.alignment is not None and first.alignment.permutations.verified
    with pytest.raises(PermutationSpecError, match="changes the function"):
        pipeline.run(own(" * torch.arange(1.0, 9.0)"))


def test_the_card_of_an_own_network_does_not_promise_timm(own: Callable[[str], RunSpec]) -> None:
    pipeline.run(own(""))
    card = Path("out/small/merged/mean/README.md").read_text()
    assert "load_model" in card and "create_model" not in card


def test_an_exception_in_the_users_code_ends_with_the_code_of_a_failed_run(
    own: Callable[[str], RunSpec], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    spec = own(" + undefined_name")
    Path("own.yaml").write_text("")
    monkeypatch.setattr(sys.modules["mergekit_perm.cli.app"], "load", lambda *_: spec)
    monkeypatch.setattr(sys, "argv", ["perm-merge", "run", "own.yaml"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 3
    assert "undefined_name" in capsys.readouterr().err


def test_names_cannot_be_confused_whatever_they_contain(small: Small) -> None:
    names = ("a", "b--c", "a--b", "c")
    networks = ", ".join(f"{name}: {{train: {{seed: {i}}}}}" for i, name in enumerate(names))
    report = pipeline.run(small(f"networks={{{networks}}}", "train.epochs=1"))
    pairs = {b.networks for b in report.barriers if b.kind == "pair"}
    assert ("a", "b--c") in pairs and ("a--b", "c") in pairs and len(pairs) == 6


def test_re_estimation_alone_without_batch_norm_measures_without(small: Small) -> None:
    report = pipeline.run(small("evaluate.calibration=[batch_norm]"))
    assert {b.calibration for b in report.barriers} == {"none"}
    assert "batch_norm changes nothing here" in report.notes[0]


def test_a_cache_that_cannot_be_written_costs_no_work(
    small: Small, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PERM_MERGE_CACHE", str(tmp_path / "file/cache"))
    assert len(pipeline.run(small()).barriers) == 32


def test_what_stands_beside_a_merge_follows_the_spec(small: Small) -> None:
    pipeline.run(small())
    pipeline.run(small("evaluate.points=7"))
    config = Path("out/small/merged/mean/perm_merge_config.yml").read_text()
    assert config == Path("out/small/spec.yaml").read_text()
