"""The hand-written permutation specs, proved with a permuter of their own.

The permuter knows only what these specs use (a group or a number per axis), so that a fault in
`mergekit_perm.tensor_action` cannot hide one here.
"""

from __future__ import annotations

import fnmatch
import itertools
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from mergekit_perm import networks
from mergekit_perm.errors import NetworkError

torch.set_num_threads(1)

NORMS = ("none", "layer_norm", "batch_norm")
CASES: list[tuple[str, dict[str, Any], int]] = [
    *(("mlp", {"in_features": 12, "hidden": [5], "norm": norm}, 1) for norm in NORMS),
    *(
        ("mlp", {"in_features": 12, "hidden": [5, 7, 4], "norm": norm, "num_classes": 3}, 3)
        for norm in NORMS
    ),
    *(
        ("vgg", {"depth": depth, "width": width, "norm": norm, "in_chans": 1}, depth - 3)
        for depth, width, norm in itertools.product((11, 16), (3, 4), NORMS)
    ),
    ("vgg", {"depth": 13, "width": 4}, 10),
    ("vgg", {"depth": 19, "width": 4, "num_classes": 4}, 16),
    *(
        ("resnet_cifar", {"depth": depth, "width": width, "norm": norm}, 3 + (depth - 2) // 2)
        for depth, width, norm in itertools.product((8, 14), (2, 3), NORMS)
    ),
    ("resnet_cifar", {"depth": 20, "width": 3, "init": "he_normal", "img_size": 8}, 12),
]


def rows(spec: dict[str, Any], state: dict[str, torch.Tensor]) -> dict[str, list[Any]]:
    """Return the axes of every tensor that the spec names; a pattern skips scalars."""
    found: dict[str, list[Any]] = {}
    for pattern, row in spec["axes"].items():
        hits = [n for n in state if fnmatch.fnmatchcase(n, pattern) and state[n].ndim]
        assert hits, f"{pattern} matches nothing"
        for name in hits:
            assert name not in found
            found[name] = row
    return found


def permuted(
    state: dict[str, torch.Tensor],
    axes: dict[str, list[Any]],
    members: dict[str, torch.Tensor],
    *,
    without: str = "",
) -> dict[str, torch.Tensor]:
    result = dict(state)
    for name, row in axes.items():
        if name == without:
            continue
        for dimension, axis in enumerate(row):
            if axis in members:
                result[name] = result[name].index_select(dimension, members[axis])
    return result


def shuffled(size: int, generator: torch.Generator) -> torch.Tensor:
    """Return a permutation that moves everything, so that no tensor stays by chance."""
    order = torch.randperm(size, generator=generator)
    move = torch.empty(size, dtype=torch.int64)
    move[order] = order.roll(1)
    return move


def randomised(architecture: str, options: dict[str, Any]) -> nn.Module:
    module = networks.build(architecture, options, seed=0).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            # Weights that keep the signal's size, so that the first layer still tells in the last.
            if tensor.ndim > 1:
                tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=generator)
            if name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
                tensor.uniform_(0.5, 2, generator=generator)
            elif tensor.ndim == 1:
                tensor.normal_(0, 0.3, generator=generator)
    return module


@pytest.mark.parametrize(("architecture", "options", "groups"), CASES)
def test_spec(architecture: str, options: dict[str, Any], groups: int) -> None:
    module = randomised(architecture, options)
    state = module.state_dict()
    text = networks.permutation_spec_text(architecture, options)
    spec = yaml.safe_load(text)
    axes = rows(spec, state)

    assert spec["format"] == "perm-merge/permspec@1"
    assert spec["architecture"] == architecture
    assert (
        spec["options"].items()
        >= {k: v for k, v in options.items() if k not in ("init", "img_size")}.items()
    )
    assert len(spec["groups"]) == groups
    for name, row in axes.items():
        assert [spec["groups"].get(axis, axis) for axis in row] == list(state[name].shape)
    # Everything but the outputs, and counters, is named.
    assert {name for name in state if state[name].ndim} - set(axes) == {"head.bias"}

    generator = torch.Generator().manual_seed(2)
    edge = () if architecture == "mlp" else (8, 8)
    x = torch.randn(4, module.input_shape[0], *edge, dtype=torch.float64, generator=generator)
    with torch.no_grad():
        before = module(x)
    scale = before.abs().max()
    members = {g: shuffled(size, generator) for g, size in spec["groups"].items()}

    def moved(**choice: Any) -> float:
        permuted_state = permuted(state, axes, **choice)
        with torch.no_grad():
            after = torch.func.functional_call(module, permuted_state, (x,))
        return float((after - before).abs().max() / scale)

    assert moved(members=members) < 1e-12
    for group, member in members.items():
        assert moved(members={group: member}) < 1e-12
    for name in axes:
        assert moved(members=members, without=name) > 1e-9, f"{name} need not be permuted"


def test_text_of_a_small_mlp() -> None:
    text = networks.permutation_spec_text(
        "mlp", {"in_features": 64, "hidden": [16, 8], "norm": "layer_norm"}
    )
    assert text == (
        "format: perm-merge/permspec@1\n"
        "architecture: mlp\n"
        "options: {in_features: 64, hidden: [16, 8], num_classes: 10, norm: layer_norm}\n"
        "groups:\n"
        "  layers.0: 16\n"
        "  layers.1: 8\n"
        "axes:\n"
        "  layers.0.weight: [layers.0, 64]\n"
        "  layers.0.bias: [layers.0]\n"
        "  norms.0.*: [layers.0]\n"
        "  layers.1.weight: [layers.1, layers.0]\n"
        "  layers.1.bias: [layers.1]\n"
        "  norms.1.*: [layers.1]\n"
        "  head.weight: [10, layers.1]\n"
    )


def test_a_linear_network_has_no_groups() -> None:
    spec = yaml.safe_load(networks.permutation_spec_text("mlp", {"hidden": []}))
    assert spec["groups"] == {}
    assert spec["axes"] == {"head.weight": [10, 784]}


def test_the_defaults_are_those_of_the_networks() -> None:
    for architecture in networks.BUILTINS:
        state = networks.build(architecture).state_dict()
        spec = yaml.safe_load(networks.permutation_spec_text(architecture, {}))
        for name, row in rows(spec, state).items():
            assert [spec["groups"].get(axis, axis) for axis in row] == list(state[name].shape)


@pytest.mark.parametrize(
    ("architecture", "options", "expected"),
    [
        ("vgg", {"dept": 11}, "vgg has no option 'dept' (did you mean 'depth'?)"),
        ("vgg", {"norm": "x"}, "vgg: norm is 'x', not one of none, layer_norm, batch_norm"),
        ("mlp", {"norm": "y"}, "mlp: norm is 'y', not one of none, layer_norm, batch_norm"),
        ("resnet_cifar", {"width": 0}, "resnet_cifar: width is 0, not a whole number of 1 or more"),
        ("resnet18", {}, "resnet18 is none of mlp, vgg, resnet_cifar"),
    ],
)
def test_options_are_checked(architecture: str, options: dict[str, Any], expected: str) -> None:
    with pytest.raises(NetworkError) as caught:
        networks.permutation_spec_text(architecture, options)
    assert str(caught.value) == expected
