from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from mergekit_perm import networks
from mergekit_perm.errors import NetworkError
from mergekit_perm.preprocessing import Preprocessing

torch.set_num_threads(1)

FOLDERS: list[tuple[str, dict[str, Any]]] = [
    ("mlp", {"in_features": 64, "hidden": [16, 8], "norm": "batch_norm"}),
    ("mlp", {"num_classes": 3}),
    ("vgg", {"depth": 11, "width": 4, "in_chans": 1, "num_classes": 7, "img_size": 8}),
    ("vgg", {"depth": 11, "width": 2, "in_chans": 5}),
    ("resnet_cifar", {"depth": 8, "width": 4, "num_classes": 3, "norm": "layer_norm"}),
    ("resnet18", {}),
    ("resnet18", {"num_classes": 5, "in_chans": 1}),
    ("resnet18", {"num_classes": 5, "in_chans": 4}),
    ("vit_tiny_patch16_224", {}),
    ("vit_tiny_patch16_224", {"img_size": 64, "num_classes": 4}),
]


def write(folder: Path, architecture: str, options: dict[str, Any], module: nn.Module) -> str:
    save_file(dict(module.state_dict()), folder / "model.safetensors")
    config = networks.model_config(architecture, options, module)
    (folder / "config.json").write_text(json.dumps(config))
    return f"local-dir:{folder}"


@pytest.mark.parametrize(("architecture", "options"), FOLDERS)
def test_timm_loads_what_is_described(
    tmp_path: Path, architecture: str, options: dict[str, Any]
) -> None:
    module = networks.build(architecture, options, seed=1)
    name = write(tmp_path, architecture, options, module)
    x = torch.randn(2, *networks.input_shape(module, options))
    loaded = timm.create_model(name, pretrained=True).eval()
    assert torch.equal(loaded(x), module(x))
    assert networks.input_shape(loaded) == networks.input_shape(module, options)
    assert networks.preprocessing(loaded) == networks.preprocessing(module, options)
    assert networks.model_config(name, {}, loaded) == networks.model_config(
        architecture, options, module
    )


def test_a_folder_is_an_architecture(tmp_path: Path) -> None:
    options = {"in_features": 4, "hidden": [3]}
    name = write(tmp_path, "mlp", options, networks.build("mlp", options))
    built = networks.build(name, seed=5)
    fresh = networks.build("mlp", options, seed=5)
    assert torch.equal(built.head.weight, fresh.head.weight)


def test_another_head_can_be_put_on(tmp_path: Path) -> None:
    options = {"width": 2, "depth": 11}
    module = networks.build("vgg", options, seed=1)
    name = write(tmp_path, "vgg", options, module)
    loaded = timm.create_model(name, pretrained=True, num_classes=4)
    assert loaded.head.weight.shape == (4, 16)
    assert torch.equal(loaded.features[0].weight, module.features[0].weight)


def test_config_of_a_builtin() -> None:
    options = {"in_features": 64, "hidden": (16, 8)}
    module = networks.build("mlp", options)
    assert networks.model_config("mlp", options, module) == {
        "architecture": "mlp",
        "num_classes": 10,
        "num_features": 8,
        "model_args": {"in_features": 64, "hidden": [16, 8]},
        "pretrained_cfg": {
            "custom_load": False,
            "fixed_input_size": False,
            "num_classes": 10,
            "pool_size": None,
            "first_conv": None,
            "classifier": "head",
        },
    }


def test_config_of_a_timm_network_keeps_its_preprocessing_and_forgets_where_weights_were() -> None:
    module = networks.build("vit_tiny_patch16_224", {"num_classes": 4, "img_size": 64})
    config = networks.model_config(
        "vit_tiny_patch16_224",
        {"num_classes": 4, "img_size": 64, "pretrained": False, "cache_dir": "x"},
        module,
    )
    assert config["architecture"] == "vit_tiny_patch16_224"
    assert config["num_classes"] == 4
    assert config["model_args"] == {"num_classes": 4, "img_size": 64}
    cfg = config["pretrained_cfg"]
    assert cfg["mean"] == cfg["std"] == [0.5, 0.5, 0.5]
    assert cfg["input_size"] == [3, 64, 64]
    assert cfg["num_classes"] == 4
    assert not {"url", "file", "hf_hub_id", "source"} & cfg.keys()


def test_config_does_not_change_the_module() -> None:
    module = networks.build("resnet18", {"num_classes": 3})
    before = json.dumps(module.pretrained_cfg, default=str)
    networks.model_config("resnet18", {"num_classes": 3}, module)
    assert json.dumps(module.pretrained_cfg, default=str) == before


def test_config_of_a_function(monkeypatch: pytest.MonkeyPatch) -> None:
    own = types.ModuleType("own_nets")
    own.net = lambda classes: timm.create_model("resnet18", num_classes=classes)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "own_nets", own)
    module = networks.build("own_nets:net", {"classes": 4})
    assert networks.model_config("own_nets:net", {"classes": 4}, module) == {
        "architecture": "own_nets:net",
        "num_classes": 4,
        "num_features": 512,
        "model_args": {"classes": 4},
    }


def test_an_option_that_json_cannot_hold() -> None:
    module = networks.build("mlp")
    with pytest.raises(NetworkError) as caught:
        networks.model_config("mlp", {"act": nn.ReLU}, module)
    assert str(caught.value) == (
        "mlp: option 'act' is <class 'torch.nn.modules.activation.ReLU'>, "
        "which config.json cannot hold"
    )


@pytest.mark.parametrize(
    ("architecture", "options", "expected"),
    [
        ("mlp", {"in_features": 64}, (64,)),
        ("vgg", {"in_chans": 1, "img_size": 8}, (1, 8, 8)),
        ("resnet_cifar", {}, (3, 32, 32)),
        ("resnet18", {}, (3, 224, 224)),
        ("resnet18", {"in_chans": 1}, (1, 224, 224)),
        ("inception_v3", {}, (3, 299, 299)),
        ("vit_tiny_patch16_224", {"img_size": [64, 96]}, (3, 64, 96)),
    ],
)
def test_input_shape(architecture: str, options: dict[str, Any], expected: tuple[int, ...]) -> None:
    module = networks.build(architecture, options)
    assert networks.input_shape(module, options) == expected


def test_input_shape_of_a_module_that_says_it() -> None:
    module = nn.Linear(3, 2)
    with pytest.raises(NetworkError) as caught:
        networks.input_shape(module)
    assert str(caught.value) == (
        "Linear does not say what input it takes: set an attribute on the module, "
        "such as `module.input_shape = (3, 32, 32)`, without the batch axis, or "
        "`module.example_inputs`, a batch, where one float tensor will not do"
    )
    module.input_shape = [3]  # type: ignore[assignment]
    assert networks.input_shape(module) == (3,)


def test_preprocessing_is_that_of_timm() -> None:
    module = networks.build("vit_tiny_patch16_224")
    assert networks.preprocessing(module) == Preprocessing(
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        input_size=(3, 224, 224),
        crop_pct=0.9,
        interpolation="bicubic",
        crop_mode="center",
        fixed_size=True,
    )
    flexible = networks.preprocessing(module, {"dynamic_img_size": True})
    assert flexible is not None
    assert not flexible.fixed_size


def test_preprocessing_of_another_number_of_channels_averages() -> None:
    options = {"in_chans": 1}
    found = networks.preprocessing(networks.build("resnet18", options), options)
    assert found is not None
    assert found.mean == pytest.approx(((0.485 + 0.456 + 0.406) / 3,))
    assert found.std == pytest.approx(((0.229 + 0.224 + 0.225) / 3,))
    assert found.input_size == (1, 224, 224)
    assert not found.fixed_size


@pytest.mark.parametrize("architecture", networks.BUILTINS)
def test_builtins_have_no_preprocessing(architecture: str) -> None:
    assert networks.preprocessing(networks.build(architecture)) is None


def test_modules_without_a_configuration_have_no_preprocessing() -> None:
    assert networks.preprocessing(nn.Linear(3, 2)) is None
