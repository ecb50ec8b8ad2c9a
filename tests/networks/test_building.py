from __future__ import annotations

import sys
import types

import pytest
import timm
import torch
from torch import nn

from mergekit_perm import networks
from mergekit_perm.errors import NetworkError

torch.set_num_threads(1)


def same(a: nn.Module, b: nn.Module) -> bool:
    states = a.state_dict(), b.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(states[0][name], states[1][name]) for name in states[0]
    )


def message(architecture: str, **options: object) -> str:
    with pytest.raises(NetworkError) as caught:
        networks.build(architecture, options)
    return str(caught.value)


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("own_networks")
    module.linear = lambda outputs=2: nn.Linear(3, outputs)  # type: ignore[attr-defined]
    module.number = 5  # type: ignore[attr-defined]
    module.text = lambda: "no module"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "own_networks", module)
    return module


@pytest.mark.parametrize("architecture", ["mlp", "resnet18", "resnet18.a1_in1k"])
def test_a_seed_decides_the_weights(architecture: str) -> None:
    first = networks.build(architecture, seed=1)
    assert same(first, networks.build(architecture, seed=1))
    assert not same(first, networks.build(architecture, seed=2))
    assert not first.training


def test_a_seed_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    networks.build("mlp", seed=1)
    assert torch.equal(before, torch.get_rng_state())
    networks.build("mlp")
    assert not torch.equal(before, torch.get_rng_state())


def test_a_seed_does_not_depend_on_the_global_random_state() -> None:
    first = networks.build("mlp", seed=1)
    torch.rand(3)
    assert same(first, networks.build("mlp", seed=1))


@pytest.mark.parametrize("architecture", networks.BUILTINS)
def test_timm_builds_the_builtins(architecture: str) -> None:
    assert architecture in timm.list_models()
    options = {"in_features": 4} if architecture == "mlp" else {"width": 2}
    built = networks.build(architecture, {**options, "num_classes": 3}, seed=0)
    torch.manual_seed(0)
    by_timm = timm.create_model(architecture, num_classes=3, **options)
    assert same(built, by_timm)
    assert built.num_classes == 3


def test_a_function_is_called_with_the_options(own: types.ModuleType) -> None:
    built = networks.build("own_networks:linear", {"outputs": 7})
    assert built.weight.shape == (7, 3)
    assert not built.training


@pytest.mark.parametrize(
    ("architecture", "options", "expected"),
    [
        ("resnt18", {}, "unknown architecture 'resnt18' (did you mean 'resnet18'?)"),
        ("resnet_cifr", {}, "unknown architecture 'resnet_cifr' (did you mean 'resnet_cifar'?)"),
        (
            "out/a",
            {},
            "unknown architecture 'out/a'; for a folder write 'local-dir:out/a', "
            "for the Hugging Face hub 'hf-hub:out/a'",
        ),
        (
            "resnet18",
            {"num_clases": 3},
            "resnet18 has no option 'num_clases' (did you mean 'num_classes'?)",
        ),
        (
            "vit_tiny_patch16_224",
            {"imgsize": 32},
            "vit_tiny_patch16_224 has no option 'imgsize' (did you mean 'img_size'?)",
        ),
        ("mlp", {"hiden": [3]}, "mlp has no option 'hiden' (did you mean 'hidden'?)"),
        ("vgg", {"quite": 1}, "vgg has no option 'quite'"),
        (
            "mlp",
            {"in_chans": 3},
            "mlp has no option 'in_chans': it flattens inputs; give 'in_features'",
        ),
        (
            "mlp",
            {"norm": "batchnorm"},
            "mlp: norm is 'batchnorm', not one of none, layer_norm, batch_norm "
            "(did you mean 'batch_norm'?)",
        ),
        (
            "mlp",
            {"norm": None, "hidden": 3},
            "mlp: hidden is 3, not a list of widths such as [128, 128]",
        ),
        ("mlp", {"hidden": [4, 0]}, "mlp: hidden[1] is 0, not a whole number of 1 or more"),
        ("mlp", {"init": 3}, "mlp: init is 3, not one of default, he_normal"),
        ("vgg", {"depth": 12}, "vgg: depth is 12, not one of 11, 13, 16, 19"),
        ("vgg", {"width": True}, "vgg: width is True, not a whole number of 1 or more"),
        (
            "resnet_cifar",
            {"depth": 9},
            "resnet_cifar: depth is 9, not 6 n + 2: 8, 14, 20, 32, 44, 56, 110, ...",
        ),
        (
            "resnet18",
            {"num_classes": "x"},
            "resnet18 cannot be built with num_classes='x': TypeError: "
            "'<=' not supported between instances of 'str' and 'int'",
        ),
        (
            "resnet18.nope",
            {},
            "resnet18.nope cannot be built with no options: "
            "RuntimeError: Invalid pretrained tag (nope) for resnet18.",
        ),
        (
            "no_such_package.nets:f",
            {},
            "'no_such_package.nets:f': there is no module 'no_such_package'; install it, "
            "go to the folder that holds it, or put that folder on PYTHONPATH",
        ),
        (
            "own_networks:liner",
            {},
            "'own_networks:liner': module 'own_networks' has no 'liner' (did you mean 'linear'?)",
        ),
        ("own_networks:number", {}, "'own_networks:number' is int, not a function"),
        ("own_networks:text", {}, "'own_networks:text' returned str, not a torch.nn.Module"),
        (
            "own_networks:linear",
            {"output": 2},
            "own_networks:linear cannot be built with output=2: TypeError: "
            "own.<locals>.<lambda>() got an unexpected keyword argument 'output'",
        ),
    ],
)
def test_messages(
    own: types.ModuleType, architecture: str, options: dict[str, object], expected: str
) -> None:
    assert message(architecture, **options) == expected


def test_an_option_that_a_function_refuses(own: types.ModuleType) -> None:
    def linear(outputs: int = 2) -> nn.Module:
        return nn.Linear(3, outputs)

    linear.__qualname__ = "linear"
    own.linear = linear  # type: ignore[attr-defined]
    expected = "own_networks:linear has no option 'output' (did you mean 'outputs'?)"
    assert message("own_networks:linear", output=2) == expected


def test_a_function_that_fails_keeps_its_cause(own: types.ModuleType) -> None:
    def fails() -> nn.Module:
        raise RuntimeError("out of\n  luck")

    own.fails = fails  # type: ignore[attr-defined]
    with pytest.raises(NetworkError) as caught:
        networks.build("own_networks:fails")
    assert str(caught.value) == (
        "own_networks:fails cannot be built with no options: RuntimeError: out of luck"
    )
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_folder_that_is_not_there() -> None:
    assert message("local-dir:/no/such").startswith(
        "local-dir:/no/such cannot be built with no options: FileNotFoundError: "
    )


def test_a_module_that_fails_on_import(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_nets.py").write_text("import not_installed_anywhere\n")  # type: ignore[operator]
    (tmp_path / "raising_nets.py").write_text("1 / 0\n")  # type: ignore[operator]
    monkeypatch.syspath_prepend(str(tmp_path))
    assert message("broken_nets:f") == (
        "'broken_nets:f': importing 'broken_nets' failed: No module named 'not_installed_anywhere'"
    )
    assert message("raising_nets:f") == (
        "'raising_nets:f': importing 'raising_nets' raised ZeroDivisionError: division by zero"
    )
