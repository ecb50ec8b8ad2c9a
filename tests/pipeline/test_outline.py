"""Outlines of networks: what is known without building them, and when they are built anyway."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from mergekit_perm import checkpoints, networks
from mergekit_perm.cache import cache_folder
from mergekit_perm.errors import NetworkError
from mergekit_perm.pipeline import outline as module
from mergekit_perm.pipeline.outline import Outline, outline

MLP = {"in_features": 4, "hidden": [5], "num_classes": 3, "norm": "batch_norm"}


def own(**options: Any) -> nn.Module:
    """A network of the user's own."""
    return networks.build("mlp", {**MLP, **options})


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The architectures that were built since."""
    names: list[str] = []
    skeleton = networks.skeleton

    def noting(architecture: str, options: Any) -> nn.Module:
        names.append(architecture)
        return skeleton(architecture, options)

    monkeypatch.setattr(networks, "skeleton", noting, raising=False)
    return names


def files() -> list[Path]:
    return sorted(cache_folder("outlines").glob("*.json"))


def test_what_it_says() -> None:
    known = outline("mlp", MLP)
    state = networks.build("mlp", MLP).state_dict()
    assert list(known.shapes.items()) == list(checkpoints.shapes(state).items())
    assert known.counters == ("norms.0.num_batches_tracked",)
    assert set(known.parameters) == {n for n in state if not n.startswith("norms.0.") } | {
        "norms.0.weight", "norms.0.bias"
    }  # fmt: skip
    assert known.has_batch_norm and known.ties == {} and known.code == ""
    assert known.classifier == "head.weight"
    assert known.config["model_args"]["hidden"] == [5]


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("mlp", MLP),
        ("resnet18", {"num_classes": 7}),
        ("resnet18.a1_in1k", {}),
        ("vit_tiny_patch16_224", {"img_size": [96, 64]}),
        ("coat_lite_tiny", {}),  # which has tied tensors
        ("resnet18", {"features_only": True, "out_indices": [1, 3]}),
    ],
)
def test_one_from_before_is_the_same(
    architecture: str, options: dict[str, Any], built: list[str]
) -> None:
    first = outline(architecture, options)
    assert built == [architecture] and len(files()) == 1
    again = outline(architecture, options)
    assert built == [architecture]
    assert again == first and list(again.shapes) == list(first.shapes)
    assert {type(shape) for shape in again.shapes.values()} == {tuple}


def test_one_made_of_a_network_at_hand_is_the_same() -> None:
    assert outline("mlp", MLP, networks.build("mlp", MLP, seed=3)) == outline("mlp", MLP)


def test_a_folder_of_timms_goes_by_what_it_says(tmp_path: Path, built: list[str]) -> None:
    def folder(name: str, **config: Any) -> str:
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        return f"local-dir:{tmp_path / name}"

    one = folder("one", architecture="resnet18", num_classes=7)
    first = outline(one, {})
    assert first.shapes["fc.weight"] == (7, 512) and built == [one]
    assert outline(folder("two", architecture="resnet18", num_classes=7), {}) == first
    assert built == [one]
    assert outline(folder("one", architecture="resnet18", num_classes=5), {}) != first
    assert built == [one, one]
    with pytest.raises(NetworkError):
        outline(f"local-dir:{tmp_path / 'nothing'}", {})


def test_others_are_told_apart(built: list[str]) -> None:
    wide = outline("mlp", {**MLP, "hidden": [6]})
    narrow = outline("mlp", MLP)
    assert built == ["mlp", "mlp"] and wide.shapes != narrow.shapes and wide.looks != narrow.looks


def test_options_that_say_nothing_new_look_alike() -> None:
    default = outline("resnet18", {}).looks
    assert outline("resnet18", {"drop_rate": 0, "num_classes": 1000}).looks == default
    assert outline("resnet18", {"drop_rate": 0.1}).looks != default


@pytest.mark.parametrize("version", ["VERSION", "_VERSION"])
def test_another_version_is_built_again(
    version: str, built: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    outline("mlp", MLP)
    monkeypatch.setattr(networks if version == "VERSION" else module, version, "0.0")
    outline("mlp", MLP)
    assert built == ["mlp", "mlp"]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"shapes": {"a": 1}}', "\x00"])
def test_a_file_that_is_none_is_made_again(content: str, built: list[str]) -> None:
    first = outline("mlp", MLP)
    files()[0].write_text(content, encoding="utf-8")
    assert outline("mlp", MLP) == first
    assert built == ["mlp", "mlp"]
    assert set(json.loads(files()[0].read_text())) == set(Outline.__dataclass_fields__)


def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PERM_MERGE_CACHE", str(tmp_path / "file"))
    assert outline("mlp", MLP).has_batch_norm


def test_code_of_the_users_own_is_looked_at_each_time(built: list[str]) -> None:
    name = f"{__name__}:own"
    sys.modules.setdefault(__name__, sys.modules[own.__module__])
    assert outline(name, {}).code and outline(name, {}).code
    assert built == [name, name] and not files()


def test_networks_that_others_register_in_timm_are_built_each_time(built: list[str]) -> None:
    @timm.models.register_model
    def of_somebody(width: int = 1, **_: Any) -> nn.Module:
        network = nn.Linear(4, width)
        network.input_shape = (4,)  # type: ignore[assignment]
        return network

    try:
        sys.modules.setdefault(__name__, sys.modules[own.__module__])
        first = outline("of_somebody", {"width": 2})
        assert first.shapes["weight"] == (2, 4)
        outline("of_somebody", {"width": 2})
        assert built == ["of_somebody"] * 2 and not files()
    finally:
        timm.models._registry._model_entrypoints.pop("of_somebody")


def test_what_is_known_may_be_left_aside(built: list[str]) -> None:
    outline("mlp", MLP)
    outline("mlp", MLP, use_cache=False)
    assert built == ["mlp", "mlp"] and len(files()) == 1


def test_the_code_of_built_in_networks_counts(
    built: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    outline("mlp", MLP)
    monkeypatch.setattr(module, "file_sha256", lambda path: f"another {path.name}")
    outline("mlp", MLP)
    assert built == ["mlp", "mlp"] and len(files()) == 2


def test_options_that_json_cannot_hold_are_refused_as_ever() -> None:
    with pytest.raises(NetworkError, match="option 'act_layer'"):
        outline("resnet18", {"act_layer": nn.ReLU})
    assert not files()


def test_options_about_weights_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = []
    build = networks.build
    monkeypatch.setattr(
        networks, "build", lambda *given: whole.append(given) or build(*given), raising=False
    )
    outline("resnet18", {"pretrained": False})
    assert len(whole) == 1 and not files()


def test_merging_files_of_a_known_architecture_loads_no_timm(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        state = networks.build("resnet18", {}, seed=seed).state_dict()
        checkpoints.save(tmp_path / f"{name}.safetensors", state)
    outline("resnet18", {})
    script = (
        "import sys\n"
        "from mergekit_perm.cli.app import main\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    slow = {'timm', 'torchvision', 'altair', 'scipy', 'torch._dynamo'}\n"
        "    assert not slow & set(sys.modules), slow & set(sys.modules)\n"
    )
    done = subprocess.run(
        [
            sys.executable, "-c", script, "merge", "a.safetensors", "b.safetensors",
            "--architecture", "resnet18", "--no-align", "-o", "out",
        ],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    merged = checkpoints.load_state(tmp_path / "out/merged/linear/model.safetensors")
    both = [checkpoints.load_state(tmp_path / f"{name}.safetensors") for name in "ab"]
    torch.testing.assert_close(
        merged["fc.weight"], (both[0]["fc.weight"] + both[1]["fc.weight"]) / 2
    )
