"""Merged networks are timm's: built, loaded, and taken apart for features by its own functions."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from timm.models import load_checkpoint

from mergekit_perm import checkpoints, pipeline
from mergekit_perm.spec import loads

ARCHITECTURES = [
    "resnet18", "mobilenetv3_small_050", "vit_tiny_patch16_224", "convnext_atto", "regnetx_002",
    "levit_128s", "test_efficientnet", "test_nfnet", "test_byobnet", "mobileone_s0",
]  # fmt: skip
TEXT = """
format: perm-merge/run@1
name: merged
architecture: {architecture}
options: {{num_classes: 7}}
networks: {{a: {{checkpoint: a.safetensors}}, b: {{checkpoint: b.safetensors}}}}
merge: [{{name: mean, method: linear, parameters: {{weight: {{a: 3, b: 1}}}}}}]
"""
FOLDER = Path("out/merged/mean")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_timm_builds_loads_and_takes_features(architecture: str) -> None:
    states = {}
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        states[name] = timm.create_model(architecture, num_classes=7).state_dict()
        checkpoints.save(f"{name}.safetensors", states[name])
    pipeline.run(loads(TEXT.format(architecture=architecture)), out="out")
    model = timm.create_model(f"local-dir:{FOLDER}", pretrained=True).eval()
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            expected = 0.75 * states["a"][name].double() + 0.25 * states["b"][name].double()
            assert torch.allclose(tensor.double(), expected, rtol=1e-6, atol=1e-7)
    size = model.pretrained_cfg["input_size"]
    images = torch.randn(2, *size)
    with torch.no_grad():
        logits = model(images)
        assert logits.shape == (2, 7)
        # The file by itself, in a model that was built for it.
        other = timm.create_model(architecture, num_classes=7).eval()
        load_checkpoint(other, str(FOLDER / "model.safetensors"), strict=True)
        assert torch.equal(other(images), logits)
        # Another head, and none: what timm's users fine-tune and embed with.
        backbone = timm.create_model(f"local-dir:{FOLDER}", pretrained=True, num_classes=0).eval()
        assert torch.equal(backbone(images), model.forward_head(
            model.forward_features(images), pre_logits=True
        ))  # fmt: skip
        taken = timm.create_model(f"local-dir:{FOLDER}", pretrained=True, features_only=True).eval()
        maps = taken(images)
        assert len(maps) == len(taken.feature_info.channels())
        assert all(bool(each.isfinite().all()) for each in maps)
    for key in ("mean", "std", "input_size"):
        assert tuple(model.pretrained_cfg[key]) == tuple(other.pretrained_cfg[key])
