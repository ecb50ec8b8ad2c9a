"""Derivation of variants that nobody named, by options of timm, and of very large networks."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from typing import Any, NoReturn

import pytest

import mergekit_perm as pm
from tests.derive.proving import counts, derived_and_proven, images

# Architecture, options, shape of an image, outermost groups and all (nested ones for each block).
Row = tuple[str, dict[str, Any], tuple[int, int, int], int, int]

VIT = {"depth": 2, "embed_dim": 16, "num_heads": 4, "img_size": 32}
# A stream; per block heads and a hidden layer; per head what q and k, and what v and proj share.
VIT_TOP, VIT_NESTED = 1 + 2 * 2, 2 * 4 * 2
RESNET = {"channels": [64, 16, 24, 32]}
CONVNEXT = {"depths": [1, 1, 2, 1], "dims": [8, 16, 24, 32]}
SWIN = {"depths": [2, 1], "embed_dim": 24, "num_heads": [2, 4], "img_size": 56}
SWIN_TOP, SWIN_NESTED = 2 + 2 * 3, 2 * (2 * 2 + 4)


def vit(options: dict[str, Any], top: int = 0, nested: int = 0) -> Row:
    """Return the row of a vision transformer with so many groups more than a plain one."""
    top += VIT_TOP
    edge = options.get("img_size", 32)
    shape = (options.get("in_chans", 3), edge, edge)
    return "vit_tiny_patch16_224", {**VIT, **options}, shape, top, top + VIT_NESTED + nested


def resnet(options: dict[str, Any], more: int = 0, nested: int = 0) -> Row:
    """Return the row of a ResNet-18: four streams and eight blocks."""
    shape = (options.get("in_chans", 3), 64, 64)
    return "resnet18", {**RESNET, **options}, shape, 12 + more, 12 + more + nested


FAST: list[Row] = [
    vit({}),
    vit({"num_classes": 7, "in_chans": 1}),
    vit({"num_classes": 0, "in_chans": 4}, -1),  # the stream is the output
    vit({"global_pool": ""}),
    vit({"global_pool": "avg", "class_token": False}),
    vit({"global_pool": "max"}),
    # The pool has a latent of its own, heads, a stream and a hidden layer.
    vit({"global_pool": "map"}, 4, 4 * 2),
    vit({"reg_tokens": 4, "no_embed_class": True}, 1),  # registers, which have no position
    vit({"reg_tokens": 4}, 1),  # registers with their positions
    # Heads share a norm, and with it the order of what q and k share.
    vit({"qkv_bias": False, "qk_norm": True}, 2, -2 * 4),
    vit({"dynamic_img_size": True, "img_size": 48}),
    vit({"init_values": 1e-5, "mlp_ratio": 2, "patch_size": 8, "drop_path_rate": 0.1}),
    vit({"norm_layer": "rmsnorm", "act_layer": "silu", "pre_norm": True}),
    vit({"features_only": True, "out_indices": [0, 1]}, -1),
    vit({"num_heads": 1}, 2 * 2 - 2, -2 * 4 * 2),  # no heads: qk, vo and hidden layer per block
    resnet({}),
    resnet({"num_classes": 0}, -1),
    resnet({"num_classes": 7, "in_chans": 4, "global_pool": "catavgmax"}),
    resnet({"in_chans": 1, "global_pool": "max", "output_stride": 16, "act_layer": "gelu"}),
    ("convnext_atto", CONVNEXT, (3, 64, 64), 4 + 5, 9),
    ("swin_tiny_patch4_window7_224", SWIN, (3, 56, 56), SWIN_TOP, SWIN_TOP + SWIN_NESTED),
]

SLOW: list[Row] = [
    resnet({"global_pool": "", "num_classes": 0}, -1),
    resnet({"features_only": True}, -4),  # the outputs are the four streams; the stem's is one
    resnet({"features_only": True, "out_indices": [1, 3]}, -2 - 1 - 2),  # stage 4 is not there
    resnet({"drop_path_rate": 0.1, "block_args": {"attn_layer": "se"}}, 8),
    resnet({"block_args": {"attn_layer": "eca"}}, -4),  # a convolution along the channels
    resnet({"stem_type": "deep", "avg_down": True}, 3),  # wider than the first stage's stream
    resnet({"norm_layer": "layernorm2d"}),
    (
        "resnet18",
        {"norm_layer": "groupnorm", "channels": [64, 64, 96, 128]},
        (3, 64, 64),
        12,
        12 + 12 * 32,
    ),
    ("resnet18", {"pretrained": False, "num_classes": 7}, (3, 64, 64), 12, 12),
    vit({"final_norm": False, "fc_norm": True, "pos_embed": "none"}),
    vit({"scale_attn_norm": True, "scale_mlp_norm": True}),
    ("deit_tiny_distilled_patch16_224", VIT, (3, 32, 32), VIT_TOP, VIT_TOP + VIT_NESTED),
    ("beit_base_patch16_224", VIT, (3, 32, 32), VIT_TOP, VIT_TOP + VIT_NESTED),
    (
        "beit_base_patch16_224",
        {**VIT, "qkv_bias": False, "use_abs_pos_emb": True, "use_rel_pos_bias": False},
        (3, 32, 32),
        VIT_TOP,
        VIT_TOP + VIT_NESTED,
    ),
    # Talking heads: those of q and k, those they are mixed to, those of v; two class blocks more.
    ("cait_xxs24_224", VIT, (3, 32, 32), 1 + 2 * 4 + 2 * 2, 13 + 4 * 4 * 2),
    ("convnext_atto", {**CONVNEXT, "conv_mlp": False, "use_grn": True}, (3, 64, 64), 9, 9),
    ("convnext_atto", {**CONVNEXT, "features_only": True}, (3, 64, 64), 5, 5),
    (
        "convnext_atto",
        {**CONVNEXT, "norm_layer": "batchnorm2d", "num_classes": 0},
        (3, 64, 64),
        8,
        8,
    ),
    # A stem with a stream of its own, and a hidden layer in the head.
    ("convnext_atto", {**CONVNEXT, "patch_size": 2, "head_hidden_size": 20}, (3, 64, 64), 11, 11),
    (
        "swin_tiny_patch4_window7_224",
        {**SWIN, "num_classes": 0, "qkv_bias": False},
        (3, 56, 56),
        SWIN_TOP - 1,
        SWIN_TOP - 1 + SWIN_NESTED,
    ),
    (
        "swin_tiny_patch4_window7_224",
        {**SWIN, "features_only": True},
        (3, 56, 56),
        SWIN_TOP - 2,
        SWIN_TOP - 2 + SWIN_NESTED,
    ),
    ("mobilenetv3_small_050", {"global_pool": "max", "in_chans": 1}, (1, 64, 64), 26, 26),
    ("mobilenetv3_small_050", {"num_classes": 0}, (3, 64, 64), 25, 25),
    # Squeezed layers of nine blocks, hidden ones of ten, one stream that is no output.
    ("mobilenetv3_small_050", {"features_only": True}, (3, 64, 64), 9 + 10 + 1, 20),
    ("regnety_002", {"num_classes": 3, "global_pool": "max"}, (3, 64, 64), 5 + 13 * 2, 847),
    # Stem and stages are outputs; groups of 8 channels, twice for every block.
    (
        "regnetx_002",
        {"output_stride": 16, "features_only": True},
        (3, 64, 64),
        13,
        13 + 2 * (1 * 3 + 1 * 7 + 4 * 19 + 7 * 46),
    ),
    (
        "levit_128s",
        {"embed_dim": [32, 48, 64], "num_heads": [2, 3, 4], "depth": [1, 1, 1], "num_classes": 5},
        (3, 224, 224),
        16,
        44,
    ),
    ("edgenext_xx_small", CONVNEXT, (3, 64, 64), 15, 39),
    ("xcit_nano_12_p16_224", {**VIT, "embed_dim": 32, "img_size": 64}, (3, 64, 64), 12, 44),
]


def row_id(row: Row) -> str:
    plain = {**VIT, **RESNET, **CONVNEXT, **SWIN}
    return " ".join([row[0], *(f"{k}={v}" for k, v in row[1].items() if plain.get(k) != v)])


def controls(row: Row) -> list[float]:
    """Check what a network's groups are, prove them, and return how far its controls changed it."""
    architecture, options, shape, top, every = row
    spec, proof = derived_and_proven(architecture, images(*shape), options=options)
    assert counts(spec) == (top, every)
    assert spec.options == {name: v for name, v in options.items() if name != "pretrained"}
    return list(proof.controls.values())


@pytest.mark.parametrize("row", FAST, ids=row_id)
def test_variants(row: Row) -> None:
    assert all(change > 1e-7 for change in controls(row))


@pytest.mark.slow
@pytest.mark.parametrize("row", SLOW, ids=row_id)
def test_more_variants(row: Row) -> None:
    assert all(change > 1e-7 for change in controls(row))


def test_streams_that_are_outputs_stay_for_that_reason() -> None:
    spec = pm.derive("vit_tiny_patch16_224", {**VIT, "features_only": True, "out_indices": [0, 1]})
    for i in (0, 1):
        reason = spec.fixed[f"model.blocks.{i}.mlp.fc2.bias"]
        assert reason.startswith("axis 0: output of the network in add (vision_transformer.py:")


def test_weights_are_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object) -> NoReturn:
        raise AssertionError("the network is reached for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    options = {"pretrained": True, "cache_dir": "/nowhere", "num_classes": 1000}
    spec = pm.derive("resnet18", options)
    assert spec.options == {"num_classes": 1000}
    assert counts(spec) == (12, 12)


LARGE = {
    "vit_large_patch16_224": (1 + 24 * 2, 49 + 24 * 16 * 2),
    "convnext_xlarge": (4 + 36, 40),
}

SCRIPT = """
import json, resource, sys
import mergekit_perm as pm

spec = pm.derive(sys.argv[1])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
blocks = [spec.groups.length(g.within) if g.within else 1 for g in spec.groups.values()]
print(json.dumps([len(spec.groups.top()), sum(blocks), peak]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is in other units elsewhere")
@pytest.mark.parametrize("architecture", LARGE)
def test_large_networks_take_little_memory(architecture: str) -> None:
    """Their weights alone would take 1.2 GiB."""
    command = [sys.executable, "-c", SCRIPT, architecture]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    top, every, peak = json.loads(done.stdout)
    assert (top, every) == LARGE[architecture]
    assert peak * 1024 < 1.5 * 2**30
