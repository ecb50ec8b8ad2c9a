"""Merged networks that are calibrated before they are written."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

from mergekit_perm import checkpoints, evaluate, networks, pipeline
from mergekit_perm.evaluate import calibration
from mergekit_perm.pipeline.calibrated import target_weights
from mergekit_perm.pipeline.inputs import gather
from mergekit_perm.pipeline.keys import merge_key
from mergekit_perm.report import Report
from mergekit_perm.report.html import to_html
from mergekit_perm.report.terminal import render
from mergekit_perm.spec import RunSpec

Load = Callable[..., RunSpec]
RESNET = (
    "architecture=resnet_cifar",
    "options={depth: 8, width: 4, norm: batch_norm, in_chans: 1}",
)


def merging(**fields: object) -> str:
    given = {"name": "mean", "method": "linear", **fields}
    return f"merge=[{{{', '.join(f'{key}: {value}' for key, value in given.items())}}}]"


def written(folder: str = "small") -> dict[str, torch.Tensor]:
    return checkpoints.load_state(Path(f"out/{folder}/merged/mean/model.safetensors"))


def test_repair_and_temperature_are_in_the_file(small: Load) -> None:
    weights = "{weight: {a: 1, b: 2, c: 1}}"
    spec = small(merging(calibrate="repair+temperature", parameters=weights))

    report = pipeline.run(spec)

    found = written()
    inputs = gather(spec)
    assert inputs.data is not None
    shares = (0.25, 0.5, 0.25)
    states = [
        checkpoints.load_state(Path(f"out/small/aligned/{name}.safetensors")) for name in "abc"
    ]
    module = networks.build("mlp", spec.options, seed=0)
    module.load_state_dict(evaluate.mix(states, shares))
    splits = inputs.data.splits
    factor = evaluate.calibrate(
        module, "repair+temperature", splits["train"], states=states, weights=shares,
        temperature_split=splits["test"],
    )  # fmt: skip
    for name, tensor in module.state_dict().items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6)
        assert not torch.equal(tensor, evaluate.mix(states, shares)[name])
    merged = report.merged["mean"]
    assert merged.calibrated is not None and merged.calibrated.scale == pytest.approx(factor)
    assert (merged.calibrated.name, merged.calibrated.split) == ("repair+temperature", "test")
    measured = evaluate.measure(module, splits["test"])
    assert merged.calibration["none"]["test"].loss == pytest.approx(measured.loss, rel=1e-5)
    assert any("temperature of merged network mean was found on test" in n for n in report.notes)


def test_everybody_says_what_was_done(small: Load) -> None:
    report = pipeline.run(small(merging(calibrate="repair+temperature")))

    console = Console(record=True, width=300, file=io.StringIO())
    render(report, console)
    card = Path("out/small/merged/mean/README.md").read_text(encoding="utf-8")
    for text in (console.export_text(), to_html(report), card):
        assert "its channels were given the means and deviations of the networks (REPAIR)" in text
        assert "the best on test" in text
    assert "calibrate: repair+temperature" in card
    plain = report.to_json()
    assert Report.from_json(plain) == report
    del plain["merged"]["mean"]["calibrated"]  # as in reports of earlier versions
    older = replace(report.merged["mean"], calibrated=None)
    assert Report.from_json(plain).merged["mean"] == older


def test_the_same_spec_gives_the_same_bytes_however_often_it_runs(small: Load) -> None:
    spec = small(merging(calibrate="repair+temperature"))
    files = []
    for force in (False, True):
        pipeline.run(spec, force=force)
        files.append(Path("out/small/merged/mean/model.safetensors").read_bytes())
    assert files[0] == files[1]


def test_batch_norm_is_written(small: Load) -> None:
    spec = small(*RESNET, merging(calibrate="batch_norm"), "evaluate={points: 3, pairs: none}")
    report = pipeline.run(spec)

    states = [
        checkpoints.load_state(Path(f"out/small/aligned/{name}.safetensors")) for name in "abc"
    ]
    mean = evaluate.mix(states, (1 / 3,) * 3)
    found = written()
    for name, tensor in found.items():
        same = torch.allclose(tensor.double(), mean[name].double(), rtol=1e-5, atol=1e-6)
        assert same == ("running" not in name and "num_batches" not in name), name
    assert report.merged["mean"].calibrated is not None


def test_batch_norm_where_there_is_none_is_no_calibration(small: Load) -> None:
    report = pipeline.run(small(merging(calibrate="batch_norm")))
    assert report.merged["mean"].calibrated is None
    assert (
        "Merged network mean has no BatchNorm, so that calibration batch_norm did what none does."
    ) in report.notes


def test_the_report_says_with_how_few_examples_was_calibrated(
    small: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []
    estimate = calibration._ReEstimated.__call__

    def scarce(self: Any, module: nn.Module, weights: Any) -> None:
        given.append(self.batches.batch_size)
        if given[-1] > 100:
            raise torch.OutOfMemoryError("out of memory")
        estimate(self, module, weights)

    spec = small(*RESNET, merging(calibrate="batch_norm"), "evaluate.calibration=[batch_norm]")
    with monkeypatch.context() as short:
        short.setattr(calibration._ReEstimated, "__call__", scarce)
        with pytest.warns(UserWarning, match="too little memory to calibrate"):
            report = pipeline.run(spec)

    assert given[:4] == [512, 256, 128, 64] and set(given[4:]) == {64}
    (note,) = (note for note in report.notes if "memory" in note)
    assert note.startswith("merge/mean: cpu has too little memory to calibrate on 512 examples")
    assert "from here on there are 64" in note
    # What was measured then is still there when the run is done again.
    assert note in pipeline.run(spec).notes
    out = io.StringIO()
    render(report, Console(file=out, width=400, no_color=True))
    assert note in out.getvalue()
    assert not [note for note in pipeline.run(spec, force=True).notes if "memory" in note]


def test_repair_while_measuring_takes_its_targets_from_the_networks_that_were_merged(
    small: Load,
) -> None:
    calibration = "evaluate.calibration=[none, repair, repair+temperature]"
    alone = (calibration, "evaluate.points=2", "evaluate.pairs=none", "evaluate.simplex=null")
    plain = pipeline.run(small(*alone)).merged["mean"].calibration
    saved = pipeline.run(small(*alone, merging(calibrate="repair")), out="out/saved")
    repaired = saved.merged["mean"].calibration

    for split in ("train", "test"):
        assert plain["repair"][split].loss != pytest.approx(plain["none"][split].loss, rel=1e-3)
        # What is corrected already is corrected no further.
        assert repaired["none"][split].loss == pytest.approx(plain["repair"][split].loss, rel=1e-4)
        assert repaired["repair"][split].loss == pytest.approx(
            repaired["none"][split].loss, rel=1e-2
        )
        assert plain["repair+temperature"][split].loss <= plain["repair"][split].loss


def test_what_the_key_of_a_merged_network_depends_on(small: Load) -> None:
    def key(*overrides: str) -> str:
        return merge_key(gather(small(*overrides)), "mean")

    repair = merging(calibrate="repair")
    tempered = merging(calibrate="repair+temperature")
    keys = [
        key(), key(repair), key(tempered), key(repair, "evaluate.batch_size=64"),
        key(merging(calibrate="repair+temperature", calibrate_on="train")),
    ]  # fmt: skip
    assert len(set(keys)) == len(keys)
    assert key("evaluate.batch_size=64") == keys[0]
    assert key(tempered, "evaluate.splits=[train, test]") == keys[2]


def test_where_a_temperature_is_found(small: Load) -> None:
    def split(*overrides: str, **fields: object) -> str | None:
        spec = small(merging(**fields), *overrides)
        return spec.temperature_split(spec.merge[0])

    assert split() is None and split(calibrate="repair") is None
    assert split(calibrate="temperature") == "test"
    assert split("evaluate.splits=[train]", calibrate="temperature") == "train"
    assert split("evaluate=null", calibrate="temperature") == "train"
    assert split(calibrate="temperature", calibrate_on="train") == "train"


def test_a_run_that_evaluates_nothing_calibrates_too(small: Load) -> None:
    report = pipeline.run(
        small("evaluate=null", merging(calibrate="repair+temperature", calibrate_on="test"))
    )
    calibrated = report.merged["mean"].calibrated
    assert calibrated is not None and calibrated.split == "test"


def test_targets_are_weighted_as_the_recipe_weights_the_networks(small: Load) -> None:
    def weights(parameters: str) -> list[float]:
        recipe = small(merging(parameters=parameters)).merge[0]
        return target_weights(recipe, ("a", "b", "c"))

    assert weights("{weight: {c: 2, a: 1, b: 0}}") == [1.0, 0.0, 2.0]
    assert weights("{weight: 5}") == [1.0, 1.0, 1.0]


def test_the_plan_says_that_a_merged_network_is_calibrated(small: Load) -> None:
    plan = pipeline.make_plan(small(merging(calibrate="temperature")))
    titles = {step.stage.name: step.stage.title for step in plan.steps}
    assert titles["merge/mean"] == "merge a, b, c by linear, calibrated by temperature"
