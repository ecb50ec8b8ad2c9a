from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from mergekit_perm import networks
from mergekit_perm.networks.layers import LayerNorm2d

torch.set_num_threads(1)


def names(module: nn.Module) -> list[str]:
    return list(module.state_dict())


def test_mlp_names_and_shapes() -> None:
    module = networks.build("mlp", {"in_features": 5, "hidden": [4, 3], "norm": "layer_norm"})
    assert names(module) == [
        "layers.0.weight",
        "layers.0.bias",
        "layers.1.weight",
        "layers.1.bias",
        "norms.0.weight",
        "norms.0.bias",
        "norms.1.weight",
        "norms.1.bias",
        "head.weight",
        "head.bias",
    ]
    assert module.layers[1].weight.shape == (3, 4)
    assert module.head.weight.shape == (10, 3)


def test_mlp_computes_what_it_says() -> None:
    module = networks.build(
        "mlp", {"in_features": 6, "hidden": [4], "norm": "batch_norm", "num_classes": 2}, seed=3
    )
    norm = module.norms[0]
    with torch.no_grad():
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    x = torch.randn(3, 1, 2, 3)
    hidden = functional.linear(x.flatten(1), module.layers[0].weight, module.layers[0].bias)
    hidden = (hidden - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
    expected = functional.linear(hidden.relu(), module.head.weight, module.head.bias)
    torch.testing.assert_close(module(x), expected)


def test_mlp_without_hidden_layers_is_linear() -> None:
    module = networks.build("mlp", {"in_features": 6, "hidden": []}, seed=3)
    assert names(module) == ["head.weight", "head.bias"]
    assert module(torch.zeros(1, 6)).equal(module.head.bias[None])


def test_layer_norm_2d_normalises_over_channels_at_each_position() -> None:
    norm = LayerNorm2d(5)
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
    x = torch.randn(2, 5, 3, 4)
    centred = x - x.mean(1, keepdim=True)
    scaled = centred / (x.var(1, unbiased=False, keepdim=True) + norm.eps).sqrt()
    expected = scaled * norm.weight[:, None, None] + norm.bias[:, None, None]
    torch.testing.assert_close(norm(x), expected)


@pytest.mark.parametrize(
    ("depth", "plan"),
    [
        (11, [2, 4, 8, 8, 16, 16, 16, 16]),
        (13, [2, 2, 4, 4, 8, 8, 16, 16, 16, 16]),
        (16, [2, 2, 4, 4, 8, 8, 8, 16, 16, 16, 16, 16, 16]),
        (19, [2, 2, 4, 4, 8, 8, 8, 8, 16, 16, 16, 16, 16, 16, 16, 16]),
    ],
)
def test_vgg_plan(depth: int, plan: list[int]) -> None:
    module = networks.build("vgg", {"depth": depth, "width": 2})
    layers = [layer for layer in module.features if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in layers] == plan
    assert depth == len(layers) + 3  # the paper counts three linear layers; here there is one
    assert module.head.weight.shape == (10, 16)
    assert sum(type(layer).__name__ == "Halve" for layer in module.features) == 4


@pytest.mark.parametrize("edge", [1, 2, 5, 8, 12, 32])
@pytest.mark.parametrize("architecture", ["vgg", "resnet_cifar"])
def test_image_networks_take_images_of_any_size(architecture: str, edge: int) -> None:
    module = networks.build(architecture, {"width": 4, "in_chans": 1, "num_classes": 3}, seed=0)
    output = module(torch.randn(2, 1, edge, edge))
    assert output.shape == (2, 3)
    assert not torch.equal(output[0], output[1])


def test_vgg_halves_four_times_until_one_pixel_is_left() -> None:
    features = networks.build("vgg", {"width": 1, "depth": 11}).features
    assert features(torch.zeros(1, 3, 32, 32)).shape[-2:] == (2, 2)
    assert features(torch.zeros(1, 3, 8, 8)).shape[-2:] == (1, 1)
    assert features(torch.zeros(1, 3, 16, 3)).shape[-2:] == (1, 1)


@pytest.mark.parametrize(
    ("architecture", "norm", "kind"),
    [
        ("vgg", "layer_norm", LayerNorm2d),
        ("vgg", "batch_norm", nn.BatchNorm2d),
        ("resnet_cifar", "layer_norm", LayerNorm2d),
        ("resnet_cifar", "batch_norm", nn.BatchNorm2d),
    ],
)
def test_norms(architecture: str, norm: str, kind: type[nn.Module]) -> None:
    module = networks.build(architecture, {"width": 2, "norm": norm})
    convolutions = sum(isinstance(layer, nn.Conv2d) for layer in module.modules())
    assert sum(type(layer) is kind for layer in module.modules()) == convolutions
    bare = networks.build(architecture, {"width": 2, "norm": "none"})
    assert not any(isinstance(m, nn.LayerNorm | nn.BatchNorm2d) for m in bare.modules())
    assert all(m.bias is not None for m in bare.modules() if isinstance(m, nn.Conv2d))


def test_resnet_names() -> None:
    module = networks.build("resnet_cifar", {"depth": 8, "width": 4})
    weights = [name for name in names(module) if name.endswith("weight")]
    assert weights == [
        "conv1.weight",
        "norm1.weight",
        "layer1.0.conv1.weight",
        "layer1.0.norm1.weight",
        "layer1.0.conv2.weight",
        "layer1.0.norm2.weight",
        *(
            f"layer{stage}.0.{part}.weight"
            for stage in (2, 3)
            for part in ("conv1", "norm1", "conv2", "norm2", "shortcut.0", "shortcut.1")
        ),
        "head.weight",
    ]
    assert module.layer3[0].conv1.weight.shape == (16, 8, 3, 3)
    assert module.layer3[0].shortcut[0].weight.shape == (16, 8, 1, 1)


def test_resnet_20_has_the_layers_of_the_paper() -> None:
    module = networks.build("resnet_cifar")
    convolutions = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
    assert sum(layer.kernel_size == (3, 3) for layer in convolutions) == 19  # and the head
    # The paper's .27 M, and the two 1x1 convolutions of the shortcuts with their norms.
    count = sum(parameter.numel() for parameter in module.parameters())
    assert count == 272_474 - 2_752 + 2_752
    assert module.layer3(module.layer2(torch.zeros(1, 16, 32, 32))).shape == (1, 64, 8, 8)


@pytest.mark.parametrize("architecture", networks.BUILTINS)
def test_he_normal_initialisation(architecture: str) -> None:
    options = {"init": "he_normal"}
    options |= {"hidden": [300, 300]} if architecture == "mlp" else {"width": 16, "norm": "none"}
    module = networks.build(architecture, options, seed=0)
    layers = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for layer in layers:
        assert layer.bias is not None
        assert not layer.bias.any()
        fan_in = layer.weight[0].numel()
        wide = layer.weight.numel() > 5000
        assert layer.weight.std().item() == pytest.approx(
            (2 / fan_in) ** 0.5, rel=0.05 if wide else 0.4
        )
    widest = max((layer.weight for layer in layers), key=torch.numel)
    assert widest.abs().max() > 3 * widest.std()  # normal, not uniform


def test_default_initialisation_is_that_of_pytorch() -> None:
    weight = networks.build("mlp", {"hidden": [300]}, seed=0).layers[0].weight
    bound = 784**-0.5
    assert bound * 0.99 < weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx((1 / (3 * 784)) ** 0.5, rel=0.02)
