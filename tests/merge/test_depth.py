"""Where tensors sit in networks that people use."""

from __future__ import annotations

import pytest
import timm
import torch

from mergekit_perm.merge.depth import block_of, depths

# The first and the last block, how many there are, and tensors that sit before and behind them.
NETWORKS = {
    "resnet18": ("layer1.0", "layer4.1", 8, ["conv1.weight", "bn1.bias"], ["fc.weight"]),
    "vit_tiny_patch16_224": (
        "blocks.0", "blocks.11", 12, ["cls_token", "pos_embed", "patch_embed.proj.weight"],
        ["norm.weight", "head.bias"],
    ),
    "convnext_atto": ("stages.0.blocks.0", "stages.3.blocks.1", 15, ["stem.0.weight"], [
        "head.fc.weight", "head.norm.weight"]),
    "swin_tiny_patch4_window7_224": ("layers.0.blocks.0", "layers.3.blocks.1", 15, [
        "patch_embed.proj.weight"], ["norm.weight", "head.fc.bias"]),
    "efficientnet_b0": ("blocks.0.0", "blocks.6.0", 16, ["conv_stem.weight", "bn1.weight"], [
        "conv_head.weight", "bn2.weight", "classifier.bias"]),
    "mobilenetv2_100": ("blocks.0.0", "blocks.6.0", 17, ["conv_stem.weight"], ["classifier.bias"]),
    "mixer_s32_224": ("blocks.0", "blocks.7", 8, ["stem.proj.weight"], ["norm.weight"]),
    "regnety_002": ("s1.b1", "s4.b7", 13, ["stem.conv.weight"], ["head.fc.weight"]),
    "densenet121": (
        "features.denseblock1.denselayer1", "features.denseblock4.denselayer16", 58, [],
        ["classifier.weight"],
    ),
    "vgg11_bn": ("features.0", "features.26", 16, [], ["pre_logits.fc1.weight", "head.fc.bias"]),
}  # fmt: skip


@pytest.mark.parametrize("architecture", NETWORKS)
@pytest.mark.parametrize("listed", ["as it is", "sorted"])
def test_blocks_of_timm(architecture: str, listed: str) -> None:
    first, last, count, before, behind = NETWORKS[architecture]
    with torch.device("meta"):
        names = list(timm.create_model(architecture).state_dict())
    found = depths(sorted(names) if listed == "sorted" else names)
    places = {block_of(name): depth for name, depth in found.items() if block_of(name)}

    assert set(found) == set(names)
    assert len(places) == len(set(places.values())) == count
    assert (places[first], places[last]) == (0.0, 1.0)
    assert {found[name] for name in before} <= {0.0}
    assert {found[name] for name in behind} <= {1.0}
    inner = sorted(places.values())
    assert inner == pytest.approx([i / (count - 1) for i in range(count)])


def test_blocks_are_in_the_order_of_their_numbers() -> None:
    found = depths([f"blocks.{i}.weight" for i in (10, 2, 0)])
    assert found == {"blocks.0.weight": 0.0, "blocks.2.weight": 0.5, "blocks.10.weight": 1.0}


def test_what_is_inside_of_a_block_belongs_to_it() -> None:
    assert block_of("layer3.1.downsample.0.weight") == "layer3.1"
    assert block_of("stages.2.downsample.1.weight") == "stages.2"
    assert block_of("blocks.7.attn.qkv.weight") == "blocks.7"
    assert block_of("layers.0.weight") == "layers.0"
    assert block_of("head.0.weight") == block_of("weight") == ""


def test_other_tensors_sit_where_the_block_before_them_does() -> None:
    names = ["start", "layers.0.weight", "between", "layers.1.weight", "end"]
    assert list(depths(names).values()) == [0.0, 0.0, 0.0, 1.0, 1.0]


def test_without_numbers_modules_are_blocks() -> None:
    assert list(depths(["a.weight", "a.bias", "b.weight", "c.weight"]).values()) == [0, 0, 0.5, 1]
    assert depths(["weight"]) == {"weight": 0.0}
    assert depths([]) == {}
