"""Derived specs against tables that were made without the engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import mergekit_perm as pm
from mergekit_perm import networks
from mergekit_perm.axes import Fixed, Whole, parse
from mergekit_perm.groups import Group, Groups
from mergekit_perm.permspec import PermutationSpec
from tests.derive.same_group import assert_same_group

torch.set_num_threads(1)

HANDWRITTEN = {path.stem: path for path in (Path(__file__).parent / "handwritten").glob("*.yaml")}


@pytest.mark.parametrize("architecture", sorted(HANDWRITTEN))
def test_derived_and_handwritten_specs_are_the_same_group(architecture: str) -> None:
    derived = pm.derive(architecture)
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
    derived = pm.derive("resnet18")
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
    derived = pm.derive("densenet121")
    assert derived.shapes is not None
    assert len(derived.groups) == 120
    by_hand = densenet_by_hand(dict(derived.shapes))
    assert len(by_hand.groups) == 1 + 2 * 58 + 3
    assert_same_group(derived, by_hand, members=2)


# Outermost groups and all groups, nested ones counted once for every block: closed forms from the
# architectures' diagrams.
COUNTS = {
    "resnet18": (4 + 8, 4 + 8),
    "resnet50": (5 + 32, 5 + 32),
    "resnext50_32x4d": (5 + 16, 5 + 16 + 16 * 32 * 2),
    "vgg11_bn": (10, 10),
    "densenet121": (120, 120),
    "convnext_atto": (4 + 12, 4 + 12),
    "mobilenetv3_large_100": (30, 30),
    "efficientnet_b0": (40, 40),
    "regnety_004": (37, 1099),
    "skresnext50_32x4d": (37, 1061),
    "res2net50_26w_4s": (93, 93),
    "mixer_s32_224": (17, 17),
    "vit_tiny_patch16_224": (1 + 12 + 12, 1 + 12 + 12 + 12 * 3 * 2),
    "beit_base_patch16_224": (1 + 12 + 12, 1 + 12 + 12 + 12 * 12 * 2),
    "swin_tiny_patch4_window7_224": (28, 28 + 276),
    "swinv2_tiny_window8_256": (28 + 12, 28 + 12 + 276),
    "coatnet_0_rw_224": (34, 262),
    "maxvit_rmlp_pico_rw_256": (97, 257),
}


# These take a second or more each.
LARGE = {
    "beit_base_patch16_224",
    "coatnet_0_rw_224",
    "densenet121",
    "maxvit_rmlp_pico_rw_256",
    "res2net50_26w_4s",
    "skresnext50_32x4d",
    "swinv2_tiny_window8_256",
}


@pytest.mark.parametrize(
    "architecture",
    [pytest.param(a, marks=pytest.mark.slow if a in LARGE else ()) for a in COUNTS],
)
def test_no_group_is_missing(architecture: str) -> None:
    """A spec with too few groups passes every numerical check: only counting finds it."""
    groups = pm.derive(architecture).groups
    nested = [groups.length(group.within) if group.within else 1 for group in groups.values()]
    assert (len(groups.top()), sum(nested)) == COUNTS[architecture]
