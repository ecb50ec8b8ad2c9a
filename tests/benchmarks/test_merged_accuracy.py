"""Five networks on digits_hard, merged: aligned or not, calibrated or not, beside their ensemble.

pytest -m bench tests/benchmarks/test_merged_accuracy.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mergekit_perm import checkpoints, data, networks, pipeline
from mergekit_perm.data import Split
from mergekit_perm.spec import loads
from tests.benchmarks import closed_form, results

NAMES = "abcde"
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "resnet_cifar": {"depth": 8, "width": 16},
    "vgg": {"depth": 11, "width": 16},
}
NORMS = ("batch_norm", "layer_norm")
TEXT = """
format: perm-merge/run@1
name: merged
architecture: {architecture}
options: {{depth: {depth}, width: {width}, norm: {norm}, in_chans: 1, num_classes: 10}}
data: {{source: digits_hard, options: {{train: 3000}}}}
networks: {{{networks}}}
train: {{epochs: 12, learning_rate: 0.1, weight_decay: 5.0e-4}}
{align}
merge:
  - {{name: mean, method: linear}}
  - {{name: repaired, method: linear, calibrate: repair}}
evaluate: {{splits: [test], pairs: none, calibration: [none]}}
"""


def run(architecture: str, norm: str, align: str, out: Path) -> Any:
    names = ", ".join(f"{name}: {{train: {{seed: {seed}}}}}" for seed, name in enumerate(NAMES))
    options = ARCHITECTURES[architecture]
    text = TEXT.format(architecture=architecture, norm=norm, networks=names, align=align, **options)
    return pipeline.run(loads(text), out=out, device="cpu")


def ensemble_error(module: nn.Module, states: list[dict[str, torch.Tensor]], split: Split) -> float:
    """Return the error of the mean of the networks' shares."""
    wrong, count = 0, 0
    for x, y in split.batches(256):
        shares = torch.zeros(len(y), 10)
        with torch.inference_mode():
            for state in states:
                module.load_state_dict(state)
                shares += module.eval()(x).softmax(dim=1)
        wrong += int((shares.argmax(dim=1) != y).sum())
        count += len(y)
    return wrong / count


def error_of(module: nn.Module, split: Split) -> float:
    return ensemble_error(module, [dict(module.state_dict())], split)


def row(architecture: str, norm: str, folder: Path) -> dict[str, Any]:
    def joint(method: str) -> Any:
        align = f"align: {{reference: joint, method: {method}}}"
        return run(architecture, norm, align, folder / method)

    aligned, matched = joint("mixed"), joint("activation_matching")
    naive = run(architecture, norm, "", folder / "naive")
    errors = [each["test"].error for each in aligned.networks.values()]
    options = {**ARCHITECTURES[architecture], "norm": norm, "in_chans": 1, "num_classes": 10}
    module = networks.build(architecture, options, seed=0)
    states = {
        kind: [checkpoints.load_state(folder / f"mixed/{kind}/{n}.safetensors") for n in NAMES]
        for kind in ("networks", "aligned")
    }
    splits = data.load("digits_hard", options={"train": 3000}, splits=["train", "test"]).splits
    mean = checkpoints.load_state(folder / "mixed/merged/mean/model.safetensors")
    ensemble = ensemble_error(module, states["networks"], splits["test"])
    closed_form.correct(module, mean, states["aligned"], splits["train"])

    def error(report: Any, name: str) -> float:
        return float(report.merged[name].calibration["none"]["test"].error)

    return {
        "architecture": architecture, "norm": norm,
        "best network": min(errors), "mean network": sum(errors) / len(errors),
        "ensemble": ensemble,
        "naive mean": error(naive, "mean"), "naive mean, repaired": error(naive, "repaired"),
        "matched mean, repaired": error(matched, "repaired"),
        "aligned mean": error(aligned, "mean"),
        "aligned mean, closed form": error_of(module, splits["test"]),
        "aligned mean, repaired": error(aligned, "repaired"),
    }  # fmt: skip


@pytest.mark.bench
@pytest.mark.timeout(7200)
def test_aligned_and_calibrated_means_of_five_networks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(2)
    monkeypatch.setenv("PERM_MERGE_CACHE", str(tmp_path / "cache"))
    rows = []
    for architecture in ARCHITECTURES:
        for norm in NORMS:
            rows.append(row(architecture, norm, tmp_path / f"{architecture}-{norm}"))
            results.keep("merged_accuracy", rows)
    for each in rows:
        assert each["aligned mean, repaired"] < each["naive mean, repaired"], each
        assert each["aligned mean, repaired"] < each["naive mean"], each
