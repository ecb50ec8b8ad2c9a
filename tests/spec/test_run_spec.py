from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from mergekit_perm.spec import RunSpec, loads
from mergekit_perm.spec.models import AugmentSpec, TrainSpec

HEAD = "format: perm-merge/run@1\nname: x\narchitecture: mlp\ndata: digits\n"
TWO = HEAD + "networks: {a: {train: {seed: 0}}, b: {train: {seed: 1}}}\n"
FOUR = HEAD + "networks: {" + ", ".join(f"{n}: {{train: {{seed: 0}}}}" for n in "abcd") + "}\n"


class TestDefaults:
    def test_what_is_not_given(self) -> None:
        spec = loads(TWO)
        assert (spec.align, spec.merge, spec.evaluate, spec.gates) == (None, (), None, ())
        assert spec.train == TrainSpec()
        assert spec.options == {}

    def test_sections_given_empty(self) -> None:
        spec = loads(TWO + "align: {}\nevaluate: {}\nmerge: [{name: m, method: linear}]\n")
        assert spec.align is not None
        assert spec.align.options == {
            "seed": 0,
            "restarts": 2,
            "steps": 100,
            "strength": 1.0,
            "exchanges": 500,
            "ratio": 1.0,
            "count": 2048,
            "batch_size": 256,
            "rows": 2048,
            "max_sweeps": 100,
            "max_seconds": None,
        }
        assert dict(spec.align) == {
            "reference": "joint",
            "method": "mixed",
            "permutations": "auto",
            "at": "end",
            "apply_to": "network",
            **spec.align.options,
        }
        assert spec.evaluate is not None
        assert dict(spec.evaluate) == {
            "splits": ("train", "test"),
            "points": 25,
            "pairs": "all",
            "simplex": None,
            "matrix": None,
            "composition": None,
            "mask_transport": None,
            "controls": (),
            "calibration": ("none",),
            "device": "auto",
            "batch_size": "auto",
            "precision": "float32",
        }
        assert (spec.merge[0].parameters.weight, spec.merge[0].parameters.normalize) == (1.0, True)
        assert spec.merge[0].networks is None

    def test_a_gate(self) -> None:
        gate = "{barrier: pair, metric: error, split: test, at_most: 1}"
        spec = loads(TWO + f"align: {{}}\nevaluate: {{}}\ngates: [{gate}]\n")
        assert (spec.gates[0].alignment, spec.gates[0].calibration) == ("aligned", "none")
        assert spec.gates[0].at_most == 1.0

    def test_null_is_not_given(self) -> None:
        nulls = "align: null\nevaluate: ~\nnetworks: {a: {train: {seed: 0, epochs: null}}}\n"
        spec = loads(HEAD + nulls)
        assert (spec.align, spec.evaluate) == (None, None)
        assert spec.training("a").epochs == 60

    def test_data_by_name_and_by_mapping(self) -> None:
        by_name = loads(TWO).data
        by_mapping = loads(TWO.replace("digits", "{source: digits, options: {size: 32}}")).data
        assert by_name is not None
        assert by_mapping is not None
        assert (by_name.source, by_name.root, by_name.options) == ("digits", None, {})
        assert (by_mapping.source, by_mapping.options) == ("digits", {"size": 32})

    @pytest.mark.parametrize("device", ["auto", "cpu", "mps", "cuda", "cuda:12"])
    def test_devices(self, device: str) -> None:
        spec = loads(TWO + f"evaluate: {{device: '{device}'}}")
        assert spec.evaluate is not None
        assert spec.evaluate.device == device

    @pytest.mark.parametrize(
        ("text", "value"), [("true", True), ("false", False), ("auto", "auto")]
    )
    def test_ema(self, text: str, value: object) -> None:
        network = f"c: {{checkpoint: 'hf-hub:org/id', ema: {text}}}"
        assert loads(HEAD + f"networks: {{{network}}}").networks["c"].ema is value or text == "auto"
        assert loads(HEAD + f"networks: {{{network}}}").networks["c"].ema == value

    def test_a_network_alone_may_be_trained(self) -> None:
        assert tuple(loads(HEAD + "networks: {a: {train: {seed: 0}}}").networks) == ("a",)

    def test_checkpoints_alone_need_no_data(self) -> None:
        text = TWO.replace("data: digits\n", "").replace(
            "train: {seed: 0}", "checkpoint: local-dir:x"
        )
        text = text.replace("train: {seed: 1}", "checkpoint: hf-hub:x/y") + "align: {}\n"
        assert loads(text).data is None


class TestQuestions:
    def test_training(self) -> None:
        own = "{seed: 1, epochs: 3, augment: {crop: 2}, milestones: [1]}"
        spec = loads(
            TWO.replace("{seed: 1}", own) + "train: {batch_size: 7, augment: {flip: true}}\n"
        )
        assert spec.training("a") == spec.train
        assert spec.training("b") == TrainSpec(
            epochs=3, batch_size=7, augment=AugmentSpec(crop=2), milestones=(1,)
        )
        assert spec.training("b").augment.flip is False

    def test_training_of_what_is_not_trained(self) -> None:
        spec = loads(HEAD + "networks: {a: {checkpoint: local-dir:x}}")
        with pytest.raises(KeyError, match="network 'a' is read from a checkpoint"):
            spec.training("a")

    def test_keywords_are_flat(self) -> None:
        words = TrainSpec(epochs=2, augment=AugmentSpec(flip=True, crop=1, noise=0.5)).keywords()
        assert (words["epochs"], words["flip"], words["crop"], words["noise"]) == (2, True, 1, 0.5)
        assert "augment" not in words

    def test_architecture_and_options(self) -> None:
        networks = (
            "networks:\n"
            "  a: {train: {seed: 0}}\n"
            "  b: {train: {seed: 0}, options: {hidden: [3], init: he_normal}}\n"
            "  c: {train: {seed: 0}, architecture: mlp}\n"
            "  d: {train: {seed: 0}, architecture: vgg, options: {depth: 11}}\n"
        )
        spec = loads(HEAD + "options: {hidden: [2], in_features: 64}\n" + networks)
        assert [spec.architecture_of(name) for name in "abcd"] == ["mlp", "mlp", "mlp", "vgg"]
        assert spec.options_of("a") == {"hidden": [2], "in_features": 64}
        assert spec.options_of("b") == {"hidden": [3], "in_features": 64, "init": "he_normal"}
        assert spec.options_of("c") == {"hidden": [2], "in_features": 64}
        assert spec.options_of("d") == {"depth": 11}

    def test_paths(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        spec = loads(TWO, folder=Path("there"))
        assert spec.path("a/b.pth") == Path("there/a/b.pth")
        assert spec.path("/a/b.pth") == Path("/a/b.pth")
        assert spec.path("~/b.pth") == tmp_path / "b.pth"
        assert spec.path("~nobody-is-called-so/b") == Path("there/~nobody-is-called-so/b")

    @pytest.mark.parametrize(
        ("sections", "pairs"),
        [
            ("", ""),
            ("evaluate: {pairs: none}", ""),
            ("evaluate: {}", "ab ac ad bc bd cd"),
            ("align: {reference: b}\nevaluate: {pairs: spokes}", "ab bc bd"),
            ("align: {reference: b}\nevaluate: {pairs: far_edges}", "ac ad cd"),
            ("evaluate: {pairs: [[d, a], [b, c]]}", "da bc"),
        ],
    )
    def test_pairs(self, sections: str, pairs: str) -> None:
        assert loads(FOUR + sections).pairs == tuple(tuple(pair) for pair in pairs.split())

    def test_merged_networks(self) -> None:
        merge = "merge: [{name: m, method: linear}, {name: n, method: linear, networks: [d, a]}]"
        spec = loads(FOUR + merge)
        assert [spec.merged_networks(one) for one in spec.merge] == [tuple("abcd"), ("d", "a")]


class TestValues:
    def test_nothing_can_be_changed(self) -> None:
        spec = loads(TWO)
        with pytest.raises(ValidationError, match="frozen"):
            spec.name = "y"  # type: ignore[misc]
        with pytest.raises(ValidationError, match="frozen"):
            spec.train.epochs = 3  # type: ignore[misc]

    def test_equality_covers_content_and_folder(self) -> None:
        assert loads(TWO) == loads(TWO)
        assert loads(TWO) != loads(TWO, overrides=["train.epochs=3"])
        assert loads(TWO) != loads(TWO, folder=Path("there"))
        assert loads(TWO, folder=Path("there")) == loads(TWO).in_folder(Path("there"))

    def test_moving_leaves_the_original(self) -> None:
        spec = loads(TWO)
        assert spec.in_folder(Path("there")).folder == Path("there")
        assert spec.folder == Path()

    def test_defaults_are_not_shared(self) -> None:
        one, two = loads(TWO), loads(TWO)
        one.options["x"] = 1
        assert two.options == {}
        assert RunSpec.model_fields["options"].default_factory is dict


class TestAlignment:
    READ = "networks: {a: {checkpoint: 'hf-hub:o/a'}, b: {checkpoint: 'hf-hub:o/b'}}\n"
    BARE = HEAD.replace("data: digits\n", "") + READ

    @pytest.mark.parametrize(
        ("text", "method", "looks_at"),
        [
            (TWO + "align: {}", "mixed", "labels"),
            (TWO + "align: {method: null}", "mixed", "labels"),
            (TWO + "align: {reference: a}", "weight_matching", "weights"),
            (BARE + "align: {}", "weight_matching", "weights"),
            (BARE + "align: {reference: a}", "weight_matching", "weights"),
            (BARE + "align: {method: mixed}", "mixed", "weights"),
            (TWO + "align: {method: mixed, reference: a}", "mixed", "labels"),
            (TWO + "align: {method: merge_many}", "merge_many", "weights"),
            (TWO + "align: {method: activation_matching}", "activation_matching", "inputs"),
            (TWO + "align: {method: sinkhorn}", "sinkhorn", "weights"),
            (TWO + "align: {method: sinkhorn, objective: midpoint}", "sinkhorn", "labels"),
            (TWO + "align: {method: straight_through}", "straight_through", "labels"),
            (BARE + "align: {method: sinkhorn}", "sinkhorn", "weights"),
        ],
    )
    def test_the_method_and_what_it_looks_at(self, text: str, method: str, looks_at: str) -> None:
        spec = loads(text)
        assert spec.align is not None
        assert (spec.align.method, spec.looks_at) == (method, looks_at)

    def test_without_alignment_nothing_is_looked_at(self) -> None:
        assert loads(TWO).looks_at == "weights"

    def test_a_method_is_set_from_the_command_line_with_its_options(self) -> None:
        overrides = ["align.method=sinkhorn", "align.temperature=0.5", "align.max_seconds=9"]
        spec = loads(TWO + "align: {}\n", overrides=overrides)
        assert spec.align is not None
        assert spec.align.options["temperature"] == 0.5
        assert spec.align.options["max_seconds"] == 9.0
        assert spec.align.options["objective"] == "distance"
