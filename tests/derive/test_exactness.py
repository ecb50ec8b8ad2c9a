"""Derived specs against tables that were made without the engine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import mergekit_perm as pm
from mergekit_perm import networks
from mergekit_perm.axes import Fixed, Whole
from mergekit_perm.axis_text import parse
from mergekit_perm.groups import Group, Groups
from mergekit_perm.permspec import PermutationSpec
from tests.derive.same_group import assert_same_group

torch.set_num_threads(1)

HANDWRITTEN = {path.stem: path for path in (Path(__file__).parent / "handwritten").glob("*.yaml")}


@cache
def derived_spec(architecture: str) -> PermutationSpec:
    return pm.derive(architecture)


@pytest.mark.parametrize("architecture", sorted(HANDWRITTEN))
def test_derived_and_handwritten_specs_are_the_same_group(architecture: str) -> None:
    derived = derived_spec(architecture)
    assert derived.shapes is not None
    written = PermutationSpec.load(HANDWRITTEN[architecture]).bind(derived.shapes)
    assert_same_group(derived, written)


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("mlp", {"in_features": 12, "hidden": [5, 7, 6], "norm": "layer_norm"}),
        ("mlp", {"in_features": 12, "hidden": [8], "norm": "batch_norm"}),
        ("vgg", {"width": 4, "depth": 11, "norm": "none"}),
        ("vgg", {"width": 4, "norm": "layer_norm"}),
        ("resnet_cifar", {"depth": 8, "width": 4, "norm": "layer_norm"}),
        ("resnet_cifar", {"depth": 20, "width": 4}),
    ],
)
def test_derived_specs_of_the_built_ins_are_their_own(
    architecture: str, options: dict[str, object]
) -> None:
    derived = pm.derive(architecture, options)
    text = networks.permutation_spec_text(architecture, options)
    assert text is not None and derived.shapes is not None
    assert_same_group(derived, PermutationSpec.loads(text).bind(derived.shapes))


def test_a_smaller_group_is_not_the_same() -> None:
    derived = derived_spec("resnet18")
    left_out = Whole("layer4.1.conv1")
    smaller = replace(
        derived,
        groups=Groups({n: g for n, g in derived.groups.items() if n != left_out.group}),
        axes={
            name: tuple(Fixed(512) if axis == left_out else axis for axis in row)
            for name, row in derived.axes.items()
        },
    )
    with pytest.raises(AssertionError, match="moves otherwise"):
        assert_same_group(derived, smaller)


def densenet_by_hand(shapes: dict[str, tuple[int, ...]]) -> PermutationSpec:
    """The groups of densenet121, from the structure of its blocks alone.

    Every layer of a block reads the concatenation of what the block was given and of the outputs of
    all layers before it; a transition halves the channels of all of them.
    """
    sizes = {"stem": 64}
    rows: dict[str, list[str]] = {"features.conv0.weight": ["stem", "3", "7", "7"]}

    def norm(module: str, channels: str) -> None:
        for name in ("weight", "bias", "running_mean", "running_var"):
            rows[f"{module}.{name}"] = [channels]

    norm("features.norm0", "stem")
    known = ["stem"]
    for block, layers in enumerate((6, 12, 24, 16), start=1):
        for layer in range(1, layers + 1):
            module = f"features.denseblock{block}.denselayer{layer}"
            middle, out = f"b{block}.l{layer}.middle", f"b{block}.l{layer}.out"
            sizes[middle], sizes[out] = 4 * 32, 32
            norm(f"{module}.norm1", " + ".join(known))
            rows[f"{module}.conv1.weight"] = [middle, " + ".join(known), "1", "1"]
            norm(f"{module}.norm2", middle)
            rows[f"{module}.conv2.weight"] = [out, middle, "3", "3"]
            known.append(out)
        if block < 4:
            module, halved = f"features.transition{block}", f"t{block}"
            norm(f"{module}.norm", " + ".join(known))
            sizes[halved] = sum(sizes[name] for name in known) // 2
            rows[f"{module}.conv.weight"] = [halved, " + ".join(known), "1", "1"]
            known = [halved]
    norm("features.norm5", " + ".join(known))
    rows["classifier.weight"] = ["1000", " + ".join(known)]
    return PermutationSpec(
        groups=Groups({name: Group(name, size) for name, size in sizes.items()}),
        axes={name: tuple(map(parse, row)) for name, row in rows.items()},
    ).bind(shapes)


def test_densenet_concatenates_as_its_blocks_say() -> None:
    derived = derived_spec("densenet121")
    assert derived.shapes is not None
    assert len(derived.groups) == 120
    by_hand = densenet_by_hand(dict(derived.shapes))
    assert len(by_hand.groups) == 1 + 2 * 58 + 3
    assert_same_group(derived, by_hand, members=2)


# Outermost groups and all groups, nested ones counted once for every block: closed forms from the
# architectures' diagrams. Depths and widths are those of timm's configurations.
COUNTS = {
    # Streams, and two hidden layers a block.
    "resnet18": (4 + 8, 4 + 8),
    "resnet50": (5 + 32, 5 + 32),
    # Streams; the 32 groups of a block with the two layers in them.
    "resnext50_32x4d": (5 + 16, 5 + 16 + 16 * 32 * 2),
    # As well a squeezed layer a block; groups of 8 channels.
    "regnety_004": (
        5 + 16 * 2,
        5 + 16 * 2 + 2 * (1 * 6 + 3 * 13 + 6 * 26 + 6 * 55),
    ),
    "skresnext50_32x4d": (5 + 16 * 2, 5 + 16 * 2 + 16 * 32 * 2),
    # Four parts a block: seven layers where a stage begins, five where each adds to the next part.
    "res2net50_26w_4s": (5 + 4 * 7 + 12 * 5, 5 + 4 * 7 + 12 * 5),
    "vgg11_bn": (8 + 2, 8 + 2),
    # The stem, two a layer, three transitions.
    "densenet121": (1 + 2 * 58 + 3, 1 + 2 * 58 + 3),
    # Streams, a hidden layer a block.
    "convnext_atto": (4 + 12, 4 + 12),
    # Streams, expanded layers, squeezed layers, the head's.
    "mobilenetv3_large_100": (6 + 14 + 8 + 2, 6 + 14 + 8 + 2),
    "efficientnet_b0": (8 + 15 + 16 + 1, 8 + 15 + 16 + 1),
    # The stem and the head; three layers in the one group of the first block, groups of the others.
    # What ECA runs along stays, and with it the streams of all stages.
    "eca_nfnet_l0": (4 + 1 + 3 + 11, 4 + 1 + 3 + 11 + 3 * (2 * 2 + 6 * 6 + 3 * 6)),
    # The stream; hidden layers of tokens and channels.
    "mixer_s32_224": (1 + 8 * 2, 1 + 8 * 2),
    # The stream, a hidden layer a block: tokens are what inputs are.
    "gmlp_ti16_224": (1 + 30, 1 + 30),
    # The stream; heads and hidden layers; query with key, and value with the projection, by head.
    "vit_tiny_patch16_224": (1 + 12 + 12, 1 + 12 + 12 + 12 * 3 * 2),
    "beit_base_patch16_224": (1 + 12 + 12, 1 + 12 + 12 + 12 * 12 * 2),
    # Without a classifier the stream is the output: no group. Rotated queries and keys keep their
    # order, values do not. Register tokens trade places.
    "vit_tiny_patch16_dinov3_qkvb": (12 + 12 + 1, 12 + 12 + 1 + 12 * 3),
    "qwen3_vit_88m": (12 + 12, 12 + 12 + 12 * 12),
    "gemma4_vit_167m": (16 + 16, 16 + 16 + 16 * 12),
    # Four streams, or with the layers between; heads and hidden layers.
    "swin_tiny_patch4_window7_224": (
        4 + 12 * 2,
        4 + 12 * 2 + 2 * (2 * 3 + 2 * 6 + 6 * 12 + 2 * 24),
    ),
    # As well a hidden layer of positions in every block.
    "swinv2_tiny_window8_256": (
        4 + 12 * 3,
        4 + 12 * 3 + 2 * (2 * 3 + 2 * 6 + 6 * 12 + 2 * 24),
    ),
    # The stem and streams; expanded and squeezed layers of five blocks; nine transformers, the
    # first of a stage with half the heads.
    "coatnet_0_rw_224": (
        2 + 4 + 5 * 2 + 9 * 2,
        2 + 4 + 5 * 2 + 9 * 2 + 2 * (6 + 6 * 12 + 12 + 24),
    ),
    # In each of 11 blocks expanded and squeezed layers, and twice heads, positions and a hidden
    # layer. The one head of the first stage is two groups, query with key and value.
    "maxvit_rmlp_pico_rw_256": (
        1 + 4 + 11 * (2 + 2 * 3) + 2 * 2,
        1 + 4 + 11 * (2 + 2 * 3) + 2 * 2 + 2 * 2 * (2 * 2 + 5 * 4 + 2 * 8),
    ),
}


# These take seconds.
LARGE = {
    "densenet121",
    "gemma4_vit_167m",
    "maxvit_rmlp_pico_rw_256",
    "swin_tiny_patch4_window7_224",
    "swinv2_tiny_window8_256",
}


def large_apart(architectures: Iterable[str]) -> list[Any]:
    return [pytest.param(a, marks=pytest.mark.slow if a in LARGE else ()) for a in architectures]


@pytest.mark.parametrize("architecture", large_apart(COUNTS))
def test_no_group_is_missing(architecture: str) -> None:
    """A spec with too few groups passes every numerical check: only counting finds it."""
    groups = derived_spec(architecture).groups
    nested = [groups.length(group.within) if group.within else 1 for group in groups.values()]
    assert (len(groups.top()), sum(nested)) == COUNTS[architecture]


# Where less than .99 of the parameters can move: which tensors stay whole, and why none of them can
# move. An axis of inputs, outputs or kernels cannot be permuted without permuting these.
STILL = {
    # Tokens are patches of the image, in its order, and these weights mix tokens.
    "gmlp_ti16_224": 30 * (196 * 196 + 196) + 1000,
    # Coordinates of the stream are outputs; the rotation of positions turns every pair of
    # coordinates of a query or key at a speed of its own.
    "gemma4_vit_167m": 2 * 10240 * 768 + 768 * 768 + 16 * (4 * 768 + 2 * 64),
    "qwen3_vit_88m": 2304 * 768 + 768 * (768 + 1) + 12 * (2 * 2 + 1 + 1) * 768,
    "vit_tiny_patch16_dinov3_qkvb": 192
    + 192 * (768 + 1)
    + 12 * (2 + 2 * 2 + 1 + 1) * 192
    + 2 * 192,
}


@pytest.mark.parametrize("architecture", large_apart(STILL))
def test_what_stays_whole_is_what_inputs_and_outputs_keep(architecture: str) -> None:
    derived = derived_spec(architecture)
    parameters = dict(networks.skeleton(architecture, {}).named_parameters())
    still = [p.numel() for name, p in parameters.items() if name not in derived.axes]
    assert sum(still) == STILL[architecture]
