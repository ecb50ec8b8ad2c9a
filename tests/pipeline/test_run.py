"""A whole run: what it writes, and that its figures are what they say."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mergekit_perm import checkpoints, evaluate, networks, pipeline, yaml_document
from mergekit_perm.errors import PermutationSpecError, RunError
from mergekit_perm.evaluate import engine, mix
from mergekit_perm.permspec import PermutationSpec
from mergekit_perm.permutation import Permutation
from mergekit_perm.report import Report
from mergekit_perm.spec import RunSpec, loads, resolved

Small = Callable[..., RunSpec]
Killed = Callable[[Callable[[], object], int], list[Any]]
OPTIONS = {"in_features": 64, "hidden": [8, 8], "num_classes": 10}


def barriers(report: Report, **wanted: Any) -> list[Any]:
    return [b for b in report.barriers if all(getattr(b, k) == v for k, v in wanted.items())]


def test_a_run_writes_what_the_design_says(small: Small) -> None:
    report = pipeline.run(small())
    folder = Path("out/small")
    written = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    stages = {file for file in written if file.startswith(".stages/")}
    merged = ("model.safetensors", "config.json", "README.md", "perm_merge_config.yml")
    assert written - stages == {
        "spec.yaml",
        "permspec.yaml",
        "report.json",
        "report.html",
        *(
            f"{kind}/{n}.safetensors"
            for kind in ("networks", "permutations", "aligned")
            for n in "abc"
        ),
        *(f"merged/mean/{file}" for file in merged),
    }
    assert Report.load(folder) == report
    assert loads((folder / "spec.yaml").read_text()) == small()


def test_aligned_networks_are_the_permuted_networks_and_compute_the_same(small: Small) -> None:
    pipeline.run(small())
    folder = Path("out/small")
    spec = PermutationSpec.load(folder / "permspec.yaml")
    x = torch.randn(7, 64, generator=torch.Generator().manual_seed(0))
    for name in "abc":
        before = checkpoints.load_state(folder / f"networks/{name}.safetensors")
        after = checkpoints.load_state(folder / f"aligned/{name}.safetensors")
        kept = checkpoints.load_state(folder / f"permutations/{name}.safetensors")
        assert all(indices.dtype == torch.int64 for indices in kept.values())
        permutations = {group: Permutation(i.numpy()) for group, i in kept.items()}
        applied = spec.apply(permutations, before)
        assert all(torch.equal(applied[tensor], after[tensor]) for tensor in after)
        module = networks.build("mlp", OPTIONS)
        outputs = [torch.func.functional_call(module, state, (x,)) for state in (before, after)]
        torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-5)
    # The frame of a joint alignment is that of the first network, which stays bit for bit.
    first = [checkpoints.load_state(folder / f"{k}/a.safetensors") for k in ("networks", "aligned")]
    assert all(torch.equal(first[0][tensor], first[1][tensor]) for tensor in first[0])


def test_every_barrier_follows_its_definition(small: Small) -> None:
    report = pipeline.run(small())
    # 3 pairs and the simplex, naive and aligned, two splits, two metrics.
    assert len(report.barriers) == 4 * 2 * 2 * 2
    for barrier in report.barriers:
        ends = {p.weights: p.value for p in barrier.points if max(p.weights) == 1.0}
        corner = [ends[tuple(float(i == j) for j in range(len(barrier.networks)))]
                  for i in range(len(barrier.networks))]  # fmt: skip
        excess = [
            p.value - sum(w * v for w, v in zip(p.weights, corner, strict=True))
            for p in barrier.points
        ]
        assert barrier.barrier == pytest.approx(max(excess), abs=1e-12)
    pair = barriers(report, kind="pair", networks=("a", "c"), alignment="naive", metric="loss")[0]
    assert [p.weights for p in pair.points] == [(1 - k / 4, k / 4) for k in range(5)]


def test_the_simplex_contains_the_paths_and_the_barycentre(small: Small) -> None:
    report = pipeline.run(small("evaluate.simplex.grid=2"))
    for simplex in barriers(report, kind="simplex"):
        weights = {p.weights for p in simplex.points}
        assert (1 / 3, 1 / 3, 1 / 3) in weights
        assert (0.75, 0.0, 0.25) in weights
        alike = {k: getattr(simplex, k) for k in ("alignment", "split", "metric")}
        assert simplex.barrier >= max(b.barrier for b in barriers(report, kind="pair", **alike))


def test_points_are_those_of_the_mixed_weights(small: Small) -> None:
    report = pipeline.run(small())
    from mergekit_perm import data, evaluate

    digits = data.load("digits", splits=["test"])
    family = [checkpoints.load_state(Path(f"out/small/aligned/{n}.safetensors")) for n in "abc"]
    module = networks.build("mlp", OPTIONS)
    simplex = barriers(report, kind="simplex", alignment="aligned", split="test", metric="loss")[0]
    for point in simplex.points[::5]:
        module.load_state_dict(mix(family, point.weights))
        measured = evaluate.measure(module, digits.splits["test"])
        assert point.value == pytest.approx(measured.loss, rel=1e-6)


def test_the_merged_network_is_the_mean_and_loads_with_timm(small: Small) -> None:
    import timm

    report = pipeline.run(small())
    folder = Path("out/small")
    family = [checkpoints.load_state(folder / f"aligned/{n}.safetensors") for n in "abc"]
    loaded = timm.create_model(f"local-dir:{folder / 'merged/mean'}", pretrained=True)
    for tensor, value in loaded.state_dict().items():
        mean = sum(state[tensor].double() for state in family) / 3
        torch.testing.assert_close(value.double(), mean, rtol=0, atol=1e-7)
    entry = report.merged["mean"]
    assert entry.file == "merged/mean/model.safetensors"
    assert entry.calibration.keys() == {"none"}
    centre = next(
        p.value
        for b in barriers(report, kind="simplex", alignment="aligned", split="test", metric="loss")
        for p in b.points
        if p.weights == (1 / 3, 1 / 3, 1 / 3)
    )
    assert entry.calibration["none"]["test"].loss == pytest.approx(centre, rel=1e-5)


def test_the_card_tells_parents_barriers_and_how_to_load(small: Small) -> None:
    pipeline.run(small())
    folder = Path("out/small")
    card = (folder / "merged/mean/README.md").read_text()
    for name in "abc":
        sha256 = hashlib.sha256((folder / f"networks/{name}.safetensors").read_bytes()).hexdigest()
        assert (
            f"- `{name}`: `mlp` trained from seed {'abc'.index(name)}, SHA-256 `{sha256}`" in card
        )
    head, _, rest = card.partition("## Barriers")
    assert "create_model" in head and "### test loss" in rest
    assert "| worst pair, aligned |" in rest and "| merged: mean |" in rest
    assert rest.endswith("```\n") and "format: perm-merge/run@1" in rest
    # It is a stage of its own, done again when what it tells of is.
    pipeline.run(small("evaluate.points=3"))
    assert "points: 3" in (folder / "merged/mean/README.md").read_text()


def test_spokes_and_far_edges_are_told_apart_with_a_named_reference(small: Small) -> None:
    report = pipeline.run(small("align.reference=b"))
    spokes = {b.networks: b.spoke for b in report.barriers if b.kind == "pair"}
    assert spokes == {("a", "b"): True, ("b", "c"): True, ("a", "c"): False}
    assert {b.spoke for b in report.barriers if b.kind == "simplex"} == {None}
    moved = {name: sum(g.moved[name] for g in report.alignment.groups) for name in "abc"}
    assert moved["b"] == 0 < min(moved["a"], moved["c"])


def test_without_a_reference_no_pair_is_a_spoke(small: Small) -> None:
    assert {b.spoke for b in pipeline.run(small()).barriers} == {None}


def test_batch_norm_is_re_estimated_at_every_point_and_end(small: Small) -> None:
    spec = small(
        "architecture=resnet_cifar",
        "options={depth: 8, width: 2, in_chans: 1, num_classes: 10, img_size: 8}",
        "evaluate={points: 3, simplex: {grid: 1}, calibration: [none, batch_norm]}",
        "train.epochs=1",
    )
    report = pipeline.run(spec)
    assert {b.calibration for b in report.barriers} == {"none", "batch_norm"}
    for split in ("train", "test"):
        none, again = (
            barriers(report, kind="pair", networks=("a", "b"), calibration=c, split=split,
                     metric="loss", alignment="aligned")[0]
            for c in ("none", "batch_norm")
        )  # fmt: skip
        assert none.points[0].value != again.points[0].value
    assert report.merged["mean"].calibration.keys() == {"none", "batch_norm"}


def test_what_fitted_on_a_device_is_remembered_between_engines(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = pipeline.run(small(), out="out/plain")
    given: list[int] = []
    measure_passes = engine.measure_passes

    def scarce(module: Any, logits_of: Any, batches: Any, **options: Any) -> Any:
        given.append(batches.batch_size)
        if given[-1] > 100:
            raise torch.OutOfMemoryError("out of memory")
        return measure_passes(module, logits_of, batches, **options)

    monkeypatch.setattr(engine, "measure_passes", scarce)
    report = pipeline.run(small())
    for one, other in zip(report.barriers, plain.barriers, strict=True):
        assert one.barrier == pytest.approx(other.barrier, abs=1e-6)
    assert given[:2] == [256, 128] and set(given[2:]) == {64}


def test_ten_networks_from_end_to_end(
    small: Small, monkeypatch: pytest.MonkeyPatch, killed: Killed
) -> None:
    names = "abcdefghij"
    given = (
        *(f"networks.{name}={{train: {{seed: {seed}}}}}" for seed, name in enumerate(names)),
        *("train.epochs=1", "evaluate.pairs=[[a, b], [i, j]]", "evaluate.points=3"),
        "evaluate.simplex={grid: 2}",
    )
    whole = pipeline.run(small(*given), out="out/whole")
    for alignment in ("naive", "aligned"):
        (simplex,) = barriers(
            whole, kind="simplex", alignment=alignment, split="test", metric="loss"
        )
        assert simplex.networks == tuple(names)
        # Its vertices, the middles of its edges, and the barycentre.
        assert len(simplex.points) == 10 + 45 + 1
        assert evaluate.barycentre(10) in {tuple(point.weights) for point in simplex.points}
    seen = killed(lambda: pipeline.run(small(*given)), 20)
    # The networks, the middles of the two paths, and then what is farthest from all of them.
    assert [max(point) for point in seen[:12]] == [1.0] * 10 + [0.5] * 2
    assert seen[12] == evaluate.barycentre(10)
    assert pipeline.run(small(*given)).barriers == whole.barriers
    assert len(seen) == 2 * (10 + 45 + 1) + 1


@pytest.mark.parametrize("order", [1, -1])
def test_the_temperature_takes_no_passes_of_its_own(
    small: Small, monkeypatch: pytest.MonkeyPatch, order: int
) -> None:
    controls = "evaluate.controls=[random_permutation,planted_copy]"
    composition = "evaluate.composition={points: 3, lengths: [2], cycles: [], paths: 2}"
    given = (controls, composition, "evaluate.pairs=[[a, b]]", "evaluate.simplex=null")
    calibrations = ["repair", "repair+temperature"][::order]
    apart = [
        pipeline.run(small(*given, f"evaluate.calibration=[{name}]"), out=f"out/{name}")
        for name in calibrations
    ]
    seen: list[Any] = []
    measure = evaluate.Engine.measure

    def count(engine: evaluate.Engine, weights: Any) -> Any:
        seen.append(weights)
        return measure(engine, weights)

    monkeypatch.setattr(evaluate.Engine, "measure", count)
    together = pipeline.run(small(*given, f"evaluate.calibration=[{', '.join(calibrations)}]"))
    for part in ("barriers", "controls", "compositions"):
        wanted = [repr(each) for report in apart for each in getattr(report, part)]
        assert sorted(map(repr, getattr(together, part))) == sorted(wanted)
    for report in apart:
        (found,) = report.merged["mean"].calibration.items()
        assert found in together.merged["mean"].calibration.items()
    # Networks and path, the merged one, controls, and two compositions beside aligned pairs.
    once = 2 * (3 + 3) + 1 + 2 * 5 + 2 * 2 * 3
    assert len(seen) == once
    assert not list(Path("out/small").glob(".stages/*.points.jsonl"))
    # What is finished is not kept once more.
    Path("out/small/.stages/evaluate+naive+repair+a+b.json").unlink()
    again = pipeline.run(small(*given, f"evaluate.calibration=[{', '.join(calibrations)}]"))
    assert again.barriers == together.barriers
    assert len(seen) == once + 3
    assert not list(Path("out/small").glob(".stages/*.points.jsonl"))
    # What an earlier run has finished spares a forced one nothing.
    forced = pipeline.run(
        small(*given, f"evaluate.calibration=[{', '.join(calibrations)}]"), force=True
    )
    assert forced.barriers == together.barriers
    assert len(seen) == 2 * once + 3
    assert not list(Path("out/small").glob(".stages/*.points.jsonl"))


def test_a_calibration_that_changes_nothing_is_not_measured_twice(small: Small) -> None:
    gate = "{barrier: pair, metric: loss, split: test, at_most: 9, calibration: batch_norm}"
    report = pipeline.run(small("evaluate.calibration=[none, batch_norm]", f"gates=[{gate}]"))
    assert {b.calibration for b in report.barriers} == {"none"}
    assert "batch_norm changes nothing here: the networks have no BatchNorm" in report.notes[0]
    assert report.gates[0].passed


def test_gates_compare_the_highest_barrier(small: Small) -> None:
    gate = "{barrier: pair, metric: loss, split: train, at_most: %s, alignment: naive}"
    report = pipeline.run(small(f"gates=[{gate % 0.0}, {gate % 100}]"))
    highest = max(
        b.barrier
        for b in barriers(report, kind="pair", metric="loss", split="train", alignment="naive")
    )
    assert [gate.value for gate in report.gates] == [highest, highest]
    assert [gate.passed for gate in report.gates] == [False, True]


def test_runs_are_deterministic(small: Small) -> None:
    first = pipeline.run(small(), out="first", force=True)
    second = pipeline.run(small(), out="second", force=True)
    assert first.barriers == second.barriers
    for file in ("aligned/b.safetensors", "merged/mean/model.safetensors"):
        assert Path("first", file).read_bytes() == Path("second", file).read_bytes()


def test_networks_may_be_read_instead_of_trained(small: Small) -> None:
    trained = pipeline.run(small())
    read = small(
        *(f"networks.{n}={{checkpoint: out/small/networks/{n}.safetensors}}" for n in "abc"),
        "name=read",
    )
    report = pipeline.run(read)
    assert report.barriers == trained.barriers


def test_a_run_without_alignment_or_evaluation_only_merges(small: Small) -> None:
    text = resolved(small())
    kept = yaml_document.read(text, file="x").data
    del kept["align"], kept["evaluate"]
    report = pipeline.run(loads(json.dumps(kept)))
    assert report.alignment is None and report.barriers == ()
    family = [checkpoints.load_state(Path(f"out/small/networks/{n}.safetensors")) for n in "abc"]
    merged = checkpoints.load_state(Path("out/small/merged/mean/model.safetensors"))
    mean = sum(state["head.weight"].double() for state in family) / 3
    torch.testing.assert_close(merged["head.weight"].double(), mean, rtol=0, atol=1e-7)


WRONG = """
format: perm-merge/permspec@1
groups: {layers.0: 8, layers.1: 8}
axes:
  layers.0.weight: [layers.0, 64]
  layers.1.weight: [layers.1, layers.0]
  layers.1.bias: [layers.1]
  head.weight: [10, layers.1]
"""


def test_a_permutation_spec_that_changes_the_function_is_refused(small: Small) -> None:
    Path("wrong.yaml").write_text(WRONG)
    with pytest.raises(PermutationSpecError) as error:
        pipeline.run(small("align.permutations=wrong.yaml"))
    assert str(error.value).startswith("permutations: the permutation spec of ")
    assert "layers.0 (" in str(error.value) and "layers.1 (" not in str(error.value)
    assert not Path("out/small/aligned").exists()


def test_a_trusted_permutation_spec_is_not_proven_and_the_report_says_so(small: Small) -> None:
    Path("wrong.yaml").write_text(WRONG)
    spec = small("align.permutations=wrong.yaml")
    report = pipeline.run(spec, trust_permutations=True)
    assert report.alignment is not None and report.alignment.permutations.trusted
    assert report.notes[0].startswith("The permutation spec was trusted, not proven")
    with pytest.raises(PermutationSpecError):
        pipeline.run(spec)


def test_networks_of_different_shapes_are_refused(small: Small) -> None:
    spec = small("networks.b.options={hidden: [8, 9]}")
    with pytest.raises(RunError, match="networks 'a' and 'b' have different tensors"):
        pipeline.run(spec)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("options={in_features: 60, hidden: [8], num_classes: 10}", "mlp cannot run on digits"),
        ("options.in_features=65", r"whose inputs have the shape \[1, 8, 8\].*in_chans, img_size"),
    ],
)
def test_a_network_that_does_not_take_the_data_is_refused_at_once(
    small: Small, options: str, said: str
) -> None:
    with pytest.raises(RunError, match=said):
        pipeline.make_plan(small(options))
    with pytest.raises(RunError, match=said):
        pipeline.run(small(options))
    assert not Path("out").exists()


def test_progress_of_a_path_says_how_high_it_is(small: Callable[..., RunSpec]) -> None:
    notes: dict[str, str] = {}

    def listen(task: str, _done: int, _total: int, note: str = "", /) -> None:
        notes[task] = note

    report = pipeline.run(small(), progress=listen)
    split = report.barriers[0].split
    (first,) = barriers(
        report, networks=("a", "b"), alignment="naive", calibration="none", split=split,
        metric="loss",
    )  # fmt: skip
    highest, curve = notes["evaluating a+b, naive"].removeprefix("highest excess ").split()
    assert len(curve) == 3
    assert float(highest) == pytest.approx(max(first.barrier, 0.0), abs=1e-4)


def test_a_loss_that_is_no_number_is_reported_with_its_point(
    small: Callable[..., RunSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = evaluate.Engine.measure

    def broken(engine: evaluate.Engine, weights: Any) -> Any:
        found = measure(engine, weights)
        if tuple(weights) == (0.5, 0.5, 0.0):
            found["test"] = replace(found["test"], loss=math.nan)
        return found

    monkeypatch.setattr(evaluate.Engine, "measure", broken)
    report = pipeline.run(small("evaluate.points=3"))
    (naive, *_) = [note for note in report.notes if "no finite number" in note]
    assert naive.startswith(
        "The loss on test is nan at 0.5 a + 0.5 b (naive), one of 1 mixtures where"
    )
    again = pipeline.run(small("evaluate.points=3"))  # from its record
    assert again.notes == report.notes
    pair = barriers(report, kind="pair", networks=("a", "b"), split="test", metric="loss")
    assert {barrier.barrier for barrier in pair} == {math.inf}


def test_a_simplex_is_searched_for_its_highest_point(small: Small) -> None:
    plain = pipeline.run(small())
    wide = pipeline.run(small("evaluate.simplex={grid: 3, samples: 4, search: 12}"))
    for one, other in zip(plain.barriers, wide.barriers, strict=True):
        assert other.barrier >= one.barrier
        more = len(other.points) - len(one.points)
        assert (4 <= more <= 16) if one.kind == "simplex" else more == 0
    plan = pipeline.make_plan(small("evaluate.simplex={grid: 3, samples: 4, search: 12}"))
    assert {step.status for step in plan.steps} == {"done"}
    assert plan.points == pipeline.make_plan(small()).points + 2 * (4 + 12)


def test_points_are_spread_over_devices(small: Small) -> None:
    one = pipeline.run(small(), device="cpu")
    two = pipeline.run(small(), device="cpu,cpu", out="out/two")
    assert two.barriers == one.barriers
    assert two.provenance.device.count("cpu") == 2
