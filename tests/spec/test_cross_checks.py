"""Checks across sections stay silent where a section that they need has a problem of its own.

What they say when they speak is in tests/golden/spec.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from mergekit_perm.errors import SpecError
from mergekit_perm.spec import loads

HEAD = "format: perm-merge/run@1\nname: x\narchitecture: mlp\ndata: digits\n"
TWO = HEAD + "networks: {a: {train: {seed: 0}}, b: {train: {seed: 1}}}\n"
GATE = "gates: [{barrier: pair, metric: loss, split: test, at_most: 0.1}]\n"


def first_lines(text: str, *, folder: Path | None = None) -> list[str]:
    """Return the first line of every problem, without file and position."""
    with pytest.raises(SpecError) as caught:
        loads(text, file="f", folder=folder)
    lines = str(caught.value).splitlines()
    return [line.split(": ", 1)[1] for line in lines if line.startswith("f:")]


def sound(text: str) -> bool:
    return loads(text).name == "x"


class TestSilence:
    def test_a_broken_section_invents_no_problem_elsewhere(self) -> None:
        assert first_lines(TWO + "align: {sed: 1}\nevaluate: {pairs: spokes}\n" + GATE) == [
            "align.sed: unknown key 'sed'"
        ]
        assert first_lines(TWO + "align: {}\nevaluate: {points: x}\n" + GATE) == [
            "evaluate.points: expected a whole number, found the text 'x'"
        ]

    def test_a_broken_network_is_still_a_name(self) -> None:
        text = TWO.replace("seed: 1", "sed: 1") + "align: {reference: b}\n"
        assert first_lines(text) == ["networks.b.train.sed: unknown key 'sed'"]

    def test_a_broken_training_hides_no_other_problem(self) -> None:
        text = TWO.replace("{seed: 1}", "{seed: 1, schedule: step}")
        assert first_lines(text + "train: {epochs: x}\nalign: {reference: c}\n") == [
            "train.epochs: expected a whole number, found the text 'x'",
            "align.reference: no network 'c'",
        ]

    def test_networks_that_are_no_mapping_are_the_only_problem(self) -> None:
        sections = "align: {reference: a}\nevaluate: {simplex: {grid: 2}}\n"
        assert first_lines(HEAD + "networks: 3\n" + sections + GATE) == [
            "networks: expected a mapping, found 3"
        ]

    def test_a_broken_architecture_is_the_only_problem(self) -> None:
        assert first_lines(TWO.replace("mlp", "5") + "align: {}\n") == [
            "architecture: expected text, found 5"
        ]

    def test_a_gate_with_a_problem_is_not_checked_further(self) -> None:
        assert first_lines(TWO + "gates: [{barrier: pair, metric: loss, split: test}, 3]\n") == [
            "gates[0]: the field 'at_most' is missing",
            "gates[1]: expected a mapping, found 3",
        ]


class TestArchitectures:
    NETWORKS = "networks: {a: {train: {seed: 0}}, b: {architecture: vgg, train: {seed: 1}}}\n"

    def test_may_differ_when_nothing_mixes_them(self) -> None:
        assert sound(HEAD + self.NETWORKS)
        assert sound(HEAD + self.NETWORKS + "evaluate: {pairs: none}\n")

    @pytest.mark.parametrize(
        "section",
        [
            "align: {}",
            "merge: [{name: m, method: linear}]",
            "evaluate: {}",
            "evaluate: {pairs: none, simplex: {grid: 2}}",
        ],
    )
    def test_may_not_differ_otherwise(self, section: str) -> None:
        assert first_lines(HEAD + self.NETWORKS + section) == [
            "networks.b.architecture: 'vgg' cannot be aligned, merged or mixed with the 'mlp' "
            "of network 'a'"
        ]

    def test_each_may_have_the_same_of_its_own(self) -> None:
        own = "networks: {a: {architecture: vgg, train: {seed: 0}}}\n"
        assert sound(HEAD.replace("architecture: mlp\n", "") + own)
        assert sound(HEAD + own)


class TestPairsAndGates:
    @pytest.mark.parametrize(
        "sections",
        [
            "align: {reference: a}\nevaluate: {pairs: spokes}\n" + GATE,
            "evaluate: {pairs: [[b, a]]}\nalign: {}\n" + GATE,
            "evaluate: {calibration: [none, batch_norm]}\n"
            + GATE.replace("}", ", alignment: naive, calibration: batch_norm}"),
            "evaluate: {pairs: none, simplex: {grid: 1}}\nalign: {}\n"
            + GATE.replace("pair", "simplex"),
        ],
    )
    def test_what_evaluate_measures(self, sections: str) -> None:
        assert sound(TWO + sections)

    def test_an_empty_list_of_pairs(self) -> None:
        assert first_lines(TWO + "align: {}\nevaluate: {pairs: []}\n" + GATE) == [
            "gates[0].barrier: evaluate has no pairs"
        ]

    def test_unknown_names_on_both_sides(self) -> None:
        assert first_lines(TWO + "evaluate: {pairs: [[c, d]]}\n") == [
            "evaluate.pairs[0][0]: no network 'c'",
            "evaluate.pairs[0][1]: no network 'd'",
        ]


class TestTraining:
    def test_one_problem_for_what_all_networks_share(self) -> None:
        assert first_lines(TWO + "train: {warmup_epochs: 61}\n") == [
            "train.warmup_epochs: a warm-up of 61 epochs is longer than the training, which has 60"
        ]

    def test_milestones_of_each_network_will_do(self) -> None:
        networks = TWO.replace("seed: 0", "seed: 0, milestones: [1]")
        networks = networks.replace("seed: 1", "seed: 1, milestones: [2]")
        assert sound(networks + "train: {schedule: step}\n")

    def test_networks_from_checkpoints_are_not_trained(self) -> None:
        assert sound(HEAD + "networks: {a: {checkpoint: local-dir:x}}\ntrain: {schedule: step}\n")


class TestWeights:
    @pytest.mark.parametrize(
        "entry",
        [
            "parameters: {weight: 0.5}",
            "parameters: {weight: {a: 1, b: 0}}",
            "parameters: {weight: {a: 1, b: -0.5}}",
            "parameters: {weight: 0, normalize: false}",
            "networks: [b], parameters: {weight: {b: 2}}",
        ],
    )
    def test_that_can_be_used(self, entry: str) -> None:
        assert sound(TWO + f"merge: [{{name: m, method: linear, {entry}}}]\n")

    @pytest.mark.parametrize("weight", ["0", "{a: 0.3, b: -0.3}", "{a: 1.0, b: -1.0000000000001}"])
    def test_that_cancel(self, weight: str) -> None:
        merge = f"merge: [{{name: m, method: linear, parameters: {{weight: {weight}}}}}]\n"
        assert first_lines(TWO + merge) == [
            "merge[0].parameters.weight: the weights sum to 0, so they cannot be normalised"
        ]


class TestFiles:
    def spec(self, checkpoint: str, *, permutations: str = "auto") -> str:
        return (
            HEAD
            + f"networks: {{a: {{checkpoint: '{checkpoint}'}}, b: {{train: {{seed: 0}}}}}}\n"
            + f"align: {{permutations: '{permutations}'}}\n"
        )

    def test_that_are_there(self, tmp_path: Path) -> None:
        (tmp_path / "a.pth").touch()
        (tmp_path / "p.yaml").touch()
        spec = loads(self.spec("a.pth", permutations="p.yaml"), folder=tmp_path)
        assert spec.path("a.pth").is_file()
        assert loads(self.spec(str(tmp_path / "a.pth"))).networks["a"].checkpoint is not None

    @pytest.mark.parametrize("reference", ["hf-hub:timm/resnet18.a1_in1k@main", "local-dir:none"])
    def test_that_are_found_elsewhere(self, reference: str) -> None:
        assert loads(self.spec(reference)).networks["a"].checkpoint == reference

    @pytest.mark.parametrize(
        ("text", "hint"),
        [
            ("a.pt", "did you mean 'a.pth'?"),
            ("sub/c.pth", "did you mean 'sub/cc.pth'?"),
            ("bb.safetensor", "did you mean 'bb.safetensors'?"),
            ("a.pth/x", "relative paths start from '{}'"),
            ("x" * 300, "relative paths start from '{}'"),
            ("nowhere/x", "relative paths start from '{}'"),
        ],
    )
    def test_that_are_missing(self, tmp_path: Path, text: str, hint: str) -> None:
        for name in ("a.pth", "bb.bin", "bb.safetensors", "sub/cc.pth"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        with pytest.raises(SpecError) as caught:
            loads(self.spec(text), folder=tmp_path)
        assert f"    = {hint.format(tmp_path)}\n" in str(caught.value)

    def test_a_path_that_no_system_takes(self, tmp_path: Path) -> None:
        text = self.spec("x").replace("'x'", '"a\\0b/c"')
        assert first_lines(text, folder=tmp_path) == ["networks.a.checkpoint: no file 'a\ufffdb/c'"]

    def test_folders(self, tmp_path: Path) -> None:
        assert first_lines(self.spec(".", permutations="."), folder=tmp_path) == [
            "networks.a.checkpoint: '.' is a folder",
            "align.permutations: '.' is a folder, not a file",
        ]
