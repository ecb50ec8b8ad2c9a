"""Sequences in run specs: which epochs they have, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from mergekit_perm.errors import SpecError
from mergekit_perm.spec import RunSpec, loads, resolved
from mergekit_perm.spec.sequences import epoch_in_name

HEAD = """
format: perm-merge/run@1
name: x
architecture: mlp
options: {in_features: 64, hidden: [8], num_classes: 10}
data: digits
"""
TRAINED = HEAD + "networks: {a: {train: {seed: 0}}, b: {train: {seed: 1}}}\n"
SEQUENCES = TRAINED + "train: {epochs: 9, checkpoints: [2, 0, 5]}\n"


def refused(text: str, folder: Path = Path()) -> list[str]:
    with pytest.raises(SpecError) as error:
        loads(text, folder=folder)
    return str(error.value).splitlines()


def test_a_sequence_ends_with_the_network() -> None:
    spec = loads(SEQUENCES + "align: {at: 5, apply_to: sequence}\n")
    assert spec.steps_of("a") == spec.steps == ("0", "2", "5", "9")
    assert spec.chosen_steps("all") == ("0", "2", "5", "9")
    assert spec.chosen_steps("end") == ("9",)
    assert spec.chosen_steps(("2", "end")) == ("2", "9")
    assert spec.align is not None
    assert "at" not in spec.align.options and "apply_to" not in spec.align.options
    assert loads(resolved(spec)) == spec
    assert loads(TRAINED).steps_of("a") == ()


def test_a_network_may_have_checkpoints_of_its_own() -> None:
    spec = loads(HEAD + "networks: {a: {train: {seed: 0, epochs: 4, checkpoints: [4, 1]}}}\n")
    assert spec.steps_of("a") == ("1", "4")


@pytest.mark.parametrize(
    ("name", "epoch"),
    [
        ("checkpoint-12.pth.tar", 12),
        ("resnet18-epoch_007.safetensors", 7),
        ("a@5.pt", 5),
        ("last.pth", None),
        ("3", 3),
    ],
)
def test_epochs_are_in_names(name: str, epoch: int | None) -> None:
    assert epoch_in_name(Path("run12") / name) == epoch


def files(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def of_files(folder: Path, more: str = "") -> RunSpec:
    one, other = "{checkpoints: a/*.pth}", f"{{checkpoints: {folder}/b/*.pth}}"
    return loads(f"{HEAD}networks: {{a: {one}, b: {other}}}\n{more}", folder=folder)


def test_sequences_of_files_go_by_their_epochs(tmp_path: Path) -> None:
    for name in "ab":
        files(tmp_path / name, "c-10.pth", "c-9.pth", "c-100.pth", "other.txt")
    spec = of_files(tmp_path, "align: {at: [9, end], method: weight_matching}\n")
    assert spec.steps == spec.steps_of("b") == ("9", "10", "100")
    assert spec.checkpoint_file("b", "10") == tmp_path / "b/c-10.pth"
    assert spec.chosen_steps(spec.align.at if spec.align else "all") == ("9", "100")


def test_files_without_epochs_are_refused(tmp_path: Path) -> None:
    for name in "ab":
        files(tmp_path / name, "c-1.pth", "best.pth", "d-1.pth")
    with pytest.raises(SpecError) as error:
        of_files(tmp_path)
    text = str(error.value)
    assert "networks.a.checkpoints: 'best.pth' has no epoch in its name" in text
    assert "'c-1.pth' and 'd-1.pth' have the same epoch, 1" in text
    with pytest.raises(SpecError, match=r"no file matches 'a/\*\.pth'"):
        of_files(tmp_path / "a")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("align: {at: 3}", "align.at: no checkpoint '3'"),
        ("align: {at: [0, 4], method: weight_matching}", "align.at[1]: no checkpoint '4'"),
        ("align: {at: [0, 5]}", "align.at: several checkpoints are stacked, which mixed cannot do"),
        ("align: {at: soon}", "align.at: expected an epoch, end, or a level such as prune3"),
        ("align: {at: [0]}", "align.at: a list is for two epochs or more"),
        (
            "align: {}\nevaluate: {matrix: {found_at: [0, 1]}}",
            "evaluate.matrix.found_at[1]: no checkpoint '1'",
        ),
        (
            "align: {}\nevaluate: {matrix: {applied_at: [-1]}}",
            "evaluate.matrix.applied_at[0]: expected an epoch, end, or a level such as prune3",
        ),
        (
            "align: {}\nevaluate: {matrix: {}, pairs: none}",
            "evaluate.matrix: a matrix is of pairs of networks, and evaluate has none",
        ),
        (
            "align: {}\nevaluate: {matrix: {}, pairs: [[a@2, b]]}",
            "evaluate.matrix: a matrix is of pairs of networks, and evaluate has none",
        ),
        (
            "evaluate: {matrix: {}}",
            "evaluate.matrix: a matrix is of permutations, and the spec has no 'align'",
        ),
    ],
)
def test_steps_that_are_not_there(more: str, message: str) -> None:
    assert any(message in line for line in refused(f"{SEQUENCES}{more}\n")), refused(
        f"{SEQUENCES}{more}\n"
    )


def test_sequences_are_asked_for_but_missing() -> None:
    lines = refused(TRAINED + "align: {apply_to: sequence}\n")
    assert "networks.a: network 'a' is one checkpoint, and this asks for a sequence" in lines[0]
    assert "checkpoints: [0, 1, 2, 5, 10]" in lines[3]


def test_sequences_of_different_lengths_are_refused() -> None:
    text = SEQUENCES.replace("{seed: 1}", "{seed: 1, checkpoints: [2]}")
    lines = refused(text + "align: {}\nevaluate: {matrix: {}}\n")
    assert "the sequences of 'a' and 'b' differ: 0, 2, 5, 9 and 2, 9" in lines[0]
    assert loads(text + "align: {}\n").steps_of("b") == ("2", "9")


def test_a_checkpoint_after_the_end() -> None:
    (line, *_) = refused(SEQUENCES.replace("[2, 0, 5]", "[2, 12]"))
    assert "train.checkpoints: no checkpoint after epoch 12: the training has 9" in line


def test_a_network_has_one_origin() -> None:
    text = HEAD + "networks: {a: {checkpoint: a.pth, checkpoints: a/*.pth}}\n"
    assert any("one checkpoint or a sequence of them, found both" in line for line in refused(text))


def test_pruned_networks_are_sequences() -> None:
    spec = loads(SEQUENCES + "prune: {levels: 2, rewind: 2}\nalign: {at: prune2}\n")
    assert spec.steps == ("0", "2", "5", "9", "prune1", "prune2")
    assert spec.chosen_steps(("end", "prune1")) == ("9", "prune1")
    assert spec.kept_epochs("a") == (0, 2, 5, 9)
    assert loads(resolved(spec)) == spec
    alone = loads(TRAINED + "prune: {levels: 1, rewind: 3}\n")
    assert alone.steps == ("60", "prune1")
    assert alone.kept_epochs("a") == (3, 60)
    pruning = alone.pruning("b")
    assert pruning is not None and pruning.fraction == 0.2


def test_a_network_may_be_pruned_in_its_own_way() -> None:
    text = TRAINED.replace("{train: {seed: 1}}", "{train: {seed: 1}, prune: {levels: 3}}")
    spec = loads(text + "prune: {levels: 1}\n")
    assert (spec.steps_of("a"), spec.steps_of("b")[-1]) == (("60", "prune1"), "prune3")


@pytest.mark.parametrize(
    ("prune", "message"),
    [
        ("{levels: 2, rewind: 9}", "prune.rewind: cannot rewind to epoch 9: the training has 9"),
        ("{levels: 0}", "prune.levels: expected"),
        ("{fraction: 0.5}", "prune: the field 'levels' is missing"),
        ("{levels: 1, fraction: 1.0}", "prune.fraction: expected"),
    ],
)
def test_pruning_that_cannot_be(prune: str, message: str) -> None:
    assert any(message in line for line in refused(f"{SEQUENCES}prune: {prune}\n"))


def test_pruning_needs_training(tmp_path: Path) -> None:
    (tmp_path / "a.pth").touch()
    text = HEAD + "networks: {a: {checkpoint: a.pth%s}}\n"
    lines = refused(text.replace("%s", ", prune: {levels: 1}"), tmp_path)
    assert any("pruning trains again, and this network is read" in line for line in lines)
    lines = refused(text.replace("%s", "") + "prune: {levels: 1}\n", tmp_path)
    assert any("prune: pruning trains again, and all networks are read" in line for line in lines)


def test_a_level_that_is_not_there() -> None:
    (line, *_) = refused(SEQUENCES + "prune: {levels: 2}\nalign: {at: prune3}\n")
    assert "align.at: no checkpoint 'prune3'" in line


@pytest.mark.parametrize(
    ("more", "message", "hint"),
    [
        (
            "evaluate: {pairs: [[a@3, b]]}",
            "evaluate.pairs[0][0]: network 'a' has no checkpoint '3'",
            "there is 0, 2, 5, 9",
        ),
        ("evaluate: {pairs: [[aa@2, b]]}", "evaluate.pairs[0][0]: no network 'aa'", "'a'"),
        ("evaluate: {pairs: [[a@9, a]]}", "evaluate.pairs[0]: 'a@9' is paired with itself", ""),
        (
            "merge: [{name: m, method: linear, networks: [a@2, a@7]}]",
            "merge[0].networks[1]: network 'a' has no checkpoint '7'",
            "there is 0, 2, 5, 9",
        ),
        (
            "merge: [{name: m, method: linear, networks: [a@9, b, a@end]}]",
            "merge[0].networks[2]: 'a@end' and 'a@9' are the same network",
            "remove one",
        ),
        (
            "merge: [{name: m, method: slerp, networks: [a], base_model: a@prune1,"
            " parameters: {t: 0.5}}]",
            "merge[0].base_model: network 'a' has no checkpoint 'prune1'",
            "there is 0, 2, 5, 9",
        ),
        (
            "merge: [{name: m, method: linear, networks: [a@2, b],"
            " parameters: {weight: {a: 1, b: 2}}}]",
            "merge[0].parameters.weight",
            "",
        ),
        ("align: {reference: a@5}", "align.reference: no network 'a@5'", "joint, a, b"),
    ],
)
def test_names_of_checkpoints_that_are_not_there(more: str, message: str, hint: str) -> None:
    lines = refused(f"{SEQUENCES}{more}\n")
    assert any(message in line for line in lines), lines
    assert any(hint in line for line in lines), lines


def test_a_single_checkpoint_has_no_others() -> None:
    lines = refused(TRAINED + "evaluate: {pairs: [[a@5, b]]}\n")
    assert "network 'a' is one checkpoint, and this asks for '5' of a sequence" in lines[0]
    assert any("checkpoints: [0, 1, 2, 5, 10]" in line for line in lines)


def test_names_of_checkpoints_mean_steps() -> None:
    spec = loads(SEQUENCES + "evaluate: {pairs: [[a@2, b], [a, b], [b@0, b@end]]}\n")
    assert spec.pairs == (("a", "b"),)
    assert spec.checkpoint_pairs == (("a@2", "b"), ("b@0", "b@end"))
    assert [spec.checkpoint_named(n) for n in ("a", "a@2", "a@9", "b@end")] == [
        ("a", None), ("a", "2"), ("a", None), ("b", None),
    ]  # fmt: skip
