"""Runs of sequences: checkpoints along training, one permutation for all, and the matrix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import mergekit_perm as pm
from mergekit_perm import checkpoints, pipeline, train
from mergekit_perm.alignment import Alignment
from mergekit_perm.report import Report
from mergekit_perm.spec import RunSpec, loads

Small = Callable[..., RunSpec]
FOLDER = Path("out/small")
SEQUENCES = ("train.checkpoints=[0,1]", "evaluate.simplex=null")
MATRIX = (*SEQUENCES, "evaluate.matrix.points=3", "merge=[]")


def state(file: str) -> dict[str, torch.Tensor]:
    return checkpoints.load_state(FOLDER / file)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def refuse(*_args: Any, **_options: Any) -> Any:
    raise AssertionError("this was done already")


def test_checkpoints_are_kept_along_the_training(small: Small) -> None:
    pipeline.run(small(*SEQUENCES, "align=null"))
    start = pm.networks.build("mlp", small().options, seed=0).state_dict()
    assert same(state("networks/a@0.safetensors"), start)
    assert not same(state("networks/a@1.safetensors"), state("networks/a.safetensors"))
    # They are what the same training was at that time, and change nothing of where it ends.
    recipe = train.Recipe(**small("train.epochs=2").training("a").keywords())
    module = pm.networks.build("mlp", small().options, seed=0)
    seen: dict[int, dict[str, torch.Tensor]] = {}
    train.fit(
        module,
        pm.data.load("digits").splits["train"],
        recipe,
        seed=0,
        checkpoints=[1],
        keep=lambda epoch, found: seen.update({epoch: found}),
    )
    assert list(seen) == [1]
    assert same(state("networks/a@1.safetensors"), seen[1])
    assert same(state("networks/a.safetensors"), train.copied(module))


def test_checkpoints_come_from_the_cache(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline.run(small(*SEQUENCES, "align=null"))
    before = state("networks/a@1.safetensors")
    monkeypatch.setattr(train, "fit", refuse)
    pipeline.run(small(*SEQUENCES, "align=null"), out="out/again")
    assert same(checkpoints.load_state("out/again/networks/a@1.safetensors"), before)
    # The end is the network that the same training without checkpoints gives.
    pipeline.run(small("evaluate.simplex=null"), out="out/plain")
    with pytest.raises(AssertionError, match="done already"):
        pipeline.run(small("train.checkpoints=[0]", "train.epochs=1"), out="out/other")


def test_one_permutation_is_applied_to_the_sequence(small: Small) -> None:
    pipeline.run(small(*SEQUENCES, "align.apply_to=sequence"))
    for name in "abc":
        alignment = Alignment.load(FOLDER / f"permutations/{name}.safetensors")
        for step in (f"{name}@0", f"{name}@1", name):
            expected = alignment.apply(state(f"networks/{step}.safetensors"))
            assert same(state(f"aligned/{step}.safetensors"), dict(expected))
    assert Alignment.load(FOLDER / "permutations/b.safetensors").moved > 0
    metadata = checkpoints.load_metadata(FOLDER / "aligned/b@1.safetensors")
    assert metadata == checkpoints.load_metadata(FOLDER / "aligned/b.safetensors")


def test_permutations_are_found_at_a_checkpoint(small: Small) -> None:
    report = pipeline.run(small(*SEQUENCES, "align.at=1"))
    assert report.alignment is not None
    assert report.alignment.at == ("1",)
    early = {name: state(f"networks/{name}@1.safetensors") for name in "abc"}
    spec = pm.PermutationSpec.load(FOLDER / "permspec.yaml")
    family = pm.align(early, spec, reference="joint", method="weight_matching")
    for name in "abc":
        found = Alignment.load(FOLDER / f"permutations/{name}.safetensors").permutations
        assert found == family.permutations[name]
        end = spec.apply(found, state(f"networks/{name}.safetensors"))
        assert same(state(f"aligned/{name}.safetensors"), end)
    # What it did is told of the networks that it was applied to.
    assert report.alignment.objective.before != pytest.approx(family.objective_before)


def test_several_checkpoints_are_stacked(small: Small) -> None:
    report = pipeline.run(small(*SEQUENCES, "align.at=[1,end]", "align.reference=a"))
    assert report.alignment is not None
    assert report.alignment.at == ("1", "2")
    sequences = {
        name: [state(f"networks/{step}.safetensors") for step in (f"{name}@1", name)]
        for name in "abc"
    }
    spec = pm.PermutationSpec.load(FOLDER / "permspec.yaml")
    found = pm.align.align_sequences(sequences, spec, reference="a")
    for name in "abc":
        kept = Alignment.load(FOLDER / f"permutations/{name}.safetensors").permutations
        assert kept == found.permutations[name]


def test_the_matrix_is_of_permutations_found_and_applied(small: Small) -> None:
    report = pipeline.run(small(*MATRIX, "evaluate.matrix.applied_at=[1,end]"))
    assert Report.load(FOLDER) == report
    places = {(m.networks, m.split, m.metric) for m in report.matrices}
    assert len(places) == len(report.matrices) == 3 * 2 * 2
    matrix = next(
        m
        for m in report.matrices
        if (m.networks, m.split, m.metric) == (("b", "c"), "test", "loss")
    )
    assert (matrix.found_at, matrix.applied_at) == (("0", "1", "2"), ("1", "2"))
    data = pm.data.load("digits")
    for place, step in enumerate((1, 2)):
        late = {n: state(f"networks/{n if step == 2 else f'{n}@1'}.safetensors") for n in "abc"}
        assert matrix.naive[place] == pytest.approx(height(late, data), abs=1e-6)
        for row, found in enumerate((0, 1, 2)):
            at = "" if found == 2 else f"@{found}"
            moved = {
                n: Alignment.load(FOLDER / f"permutations/{n}{at}.safetensors").apply(late[n])
                for n in "abc"
            }
            assert matrix.barriers[row][place] == pytest.approx(height(moved, data), abs=1e-6)
    # Where permutations are found and applied in the end, the run's own barrier is measured.
    own = next(
        b
        for b in report.barriers
        if (b.networks, b.split, b.metric, b.alignment) == (("b", "c"), "test", "loss", "aligned")
    )
    assert matrix.barriers[2][1] <= own.barrier + 1e-6


def height(states: Any, data: pm.data.Data) -> float:
    options = {"in_features": 64, "hidden": [8, 8], "num_classes": 10}
    module = pm.networks.build("mlp", options, seed=0)
    found = pm.barrier(
        states, module, data, points=3, pairs=[("b", "c")], splits=["test"], device="cpu"
    )
    return next(barrier.barrier for barrier in found if barrier.metric == "loss")


def test_a_matrix_goes_on_where_it_stopped(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    first = pipeline.run(small(*MATRIX))
    monkeypatch.setattr(pm.evaluate, "measure_points", refuse)
    monkeypatch.setattr(pm.align, "align", refuse)
    assert pipeline.run(small(*MATRIX)).matrices == first.matrices
    plan = pipeline.make_plan(small(*MATRIX))
    assert {step.status for step in plan.steps} == {"done"}
    assert plan.points == sum(
        len(step.stage.key) > 0 and int(step.stage.title.split(": ")[1].split()[0])
        for step in plan.steps
        if step.stage.name.startswith(("evaluate", "matrix"))
    )


def test_sequences_of_files(small: Small, tmp_path: Path) -> None:
    pipeline.run(small(*SEQUENCES, "align=null"))
    for name in "ab":
        (tmp_path / name).mkdir()
        for epoch, step in ((0, f"{name}@0"), (1, f"{name}@1"), (2, name)):
            content = {"state_dict": state(f"networks/{step}.safetensors"), "epoch": epoch}
            torch.save(content, tmp_path / name / f"checkpoint-{epoch}.pth.tar")
    text = """
format: perm-merge/run@1
name: files
architecture: mlp
options: {in_features: 64, hidden: [8, 8], num_classes: 10}
data: digits
networks: {a: {checkpoints: a/*.pth.tar}, b: {checkpoints: "b/checkpoint-*.pth.tar"}}
align: {method: weight_matching, at: 1}
evaluate: {points: 3, matrix: {points: 3, found_at: [0]}}
"""
    report = pipeline.run(loads(text, folder=tmp_path))
    assert {m.found_at for m in report.matrices} == {("0",)}
    assert {m.applied_at for m in report.matrices} == {("0", "1", "2")}
    for step in ("a@0", "a@1", "a"):
        read = checkpoints.load_state(Path("out/files/networks") / f"{step}.safetensors")
        assert same(read, state(f"networks/{step}.safetensors"))
    before = report.provenance.seconds["networks/a"]
    content = {"state_dict": state("networks/b.safetensors"), "epoch": 0}
    torch.save(content, tmp_path / "a/checkpoint-0.pth.tar")
    again = pipeline.run(loads(text, folder=tmp_path))
    assert again.provenance.seconds["networks/a"] != before
    assert again.matrices != report.matrices


PRUNED = ("prune={levels: 2, fraction: 0.5, rewind: 1, exclude: [head.weight]}", "merge=[]")


def test_networks_are_pruned_level_by_level(small: Small) -> None:
    pipeline.run(small(*PRUNED, "evaluate.simplex=null", "align.apply_to=sequence"))
    rewound = state("networks/b@1.safetensors")
    dense = state("networks/b.safetensors")
    assert not (FOLDER / "aligned/b@1.safetensors").exists()  # it is no step of the sequence
    before = {name: torch.ones_like(dense[name], dtype=torch.bool) for name in dense}
    for level, parent in (("prune1", "b"), ("prune2", "b@prune1")):
        mask = state(f"masks/b@{level}.safetensors")
        pruned = state(f"networks/b@{level}.safetensors")
        assert set(mask) == {"layers.0.weight", "layers.1.weight"}
        weights = state(f"networks/{parent}.safetensors")
        left = torch.cat([weights[n][before[n]].abs().flatten() for n in mask])
        kept = torch.cat([mask[n][before[n]].flatten() for n in mask])
        assert int((~kept).sum()) == int(0.5 * len(kept))
        assert left[~kept].max() <= left[kept].min()
        for name, own in mask.items():
            assert own.dtype == torch.bool
            assert not pruned[name][~own].any()
            assert not own[~before[name]].any()
        before = {**before, **mask}
        # Trained from the weights of the rewind epoch, not from where its parent ended.
        module = pm.networks.build("mlp", small().options, seed=1)
        module.load_state_dict(rewound)
        recipe = train.Recipe(**small().training("b").keywords())
        digits = pm.data.load("digits").splits["train"]
        train.fit(module, digits, recipe, seed=1, start=1, mask=mask)
        assert same(pruned, train.copied(module))
        alignment = Alignment.load(FOLDER / "permutations/b.safetensors")
        assert same(state(f"aligned/b@{level}.safetensors"), dict(alignment.apply(pruned)))


def test_pruned_networks_have_a_matrix(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = (*PRUNED, "evaluate.simplex=null", "evaluate.matrix={points: 3}")
    report = pipeline.run(small(*overrides))
    assert {m.found_at for m in report.matrices} == {("2", "prune1", "prune2")}
    kept = [checkpoint.kept for checkpoint in report.checkpoints["b"].values()]
    assert kept == pytest.approx([1.0, 0.5, 0.25])
    assert report.checkpoints["b"]["2"].metrics == report.networks["b"]
    assert (FOLDER / "permutations/b@prune2.safetensors").exists()
    # More levels take what is there already.
    fitted: list[str] = []
    fit = train.fit
    monkeypatch.setattr(train, "fit", lambda *a, **o: (fitted.append(o["task"]), fit(*a, **o))[1])
    more = pipeline.run(small(*overrides, "prune.levels=3"), out="out/more")
    assert len(fitted) == 3 and all("% of its weights" in task for task in fitted)
    first = next(m for m in more.matrices if m.networks == ("a", "b"))
    assert (
        first.barriers[0][:3]
        == next(m for m in report.matrices if m.networks == ("a", "b")).barriers[0]
    )


def test_an_exclusion_that_matches_nothing_is_found_before_training(small: Small) -> None:
    with pytest.raises(pm.errors.PermMergeError, match=r"no weight is called 'haed\.weight'"):
        pipeline.make_plan(small("prune={levels: 1, exclude: [haed.weight]}"))


def test_files_of_a_sequence_lie_beside_the_spec_wherever_that_is(
    small: Small, tmp_path: Path
) -> None:
    pipeline.run(small(*SEQUENCES, "align=null"))
    beside = tmp_path / "elsewhere"
    for name in "ab":
        (beside / name / "checkpoint-9").mkdir(parents=True)  # a folder is no checkpoint
        for epoch, step in ((0, f"{name}@0"), (2, name)):
            content = state(f"networks/{step}.safetensors")
            torch.save(content, beside / name / f"checkpoint-{epoch}.pth")
    text = """
format: perm-merge/run@1
name: beside
architecture: mlp
options: {in_features: 64, hidden: [8, 8], num_classes: 10}
networks: {a: {checkpoints: a/checkpoint-*}, b: {checkpoints: b/checkpoint-*}}
align: {method: weight_matching, apply_to: sequence}
"""
    (beside / "spec.yaml").write_text(text)
    pipeline.run(Path("elsewhere/spec.yaml"))
    assert (Path("out/beside/aligned") / "b@0.safetensors").exists()


def test_what_a_shorter_sequence_does_not_have_is_deleted(small: Small) -> None:
    pipeline.run(small(*SEQUENCES, *PRUNED, "align.apply_to=sequence"))
    assert (FOLDER / "aligned/b@prune2.safetensors").exists()
    fewer = ("train.checkpoints=[0]", *PRUNED, "prune.levels=1", "evaluate.simplex=null")
    pipeline.run(small(*fewer, "align.apply_to=sequence"))
    assert (FOLDER / "aligned/b@prune1.safetensors").exists()
    for folder in ("networks", "masks", "aligned"):
        assert not (FOLDER / folder / "b@prune2.safetensors").exists()
    pipeline.run(small(*fewer))
    assert sorted(file.name for file in (FOLDER / "aligned").iterdir()) == [
        "a.safetensors", "b.safetensors", "c.safetensors",
    ]  # fmt: skip


def test_plans_say_what_is_cached(small: Small) -> None:
    pipeline.run(small(*SEQUENCES, *PRUNED, "align=null"))
    plan = pipeline.make_plan(small(*SEQUENCES, *PRUNED, "align=null"), out="out/other")
    status = {step.stage.name: step.status for step in plan.steps}
    assert status["networks/a"] == status["prune/a"] == "cached"
    longer = pipeline.make_plan(small(*PRUNED, "prune.levels=3", "align=null"), out="out/other")
    assert {s.status for s in longer.steps if s.stage.name == "prune/a"} == {"to do"}


def test_the_end_may_be_named_twice(small: Small) -> None:
    assert small(*SEQUENCES).chosen_steps(("end", "2", "1")) == ("2", "1")
