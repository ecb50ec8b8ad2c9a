"""The permutation specs that come with perm-merge: derived, proven, and written again.

    python -m tests.benchmarks.shipped_specs                   all of them
    python -m tests.benchmarks.shipped_specs resnet50 dla34    some

A spec is written only when it differs from the one there in what it permutes or says; a proof with
today's date is recorded in each file that is written, or that has none. The specs of the built-in
architectures are written by hand: these are proven only.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

from mergekit_perm import derive, networks, shipped
from mergekit_perm.files import write_text
from mergekit_perm.permspec import PermutationSpec
from mergekit_perm.permspec_text import with_proof

FOLDER = Path(__file__).parents[2] / "specs" / "architectures"

# fmt: off
ARCHITECTURES = [
    "beit_base_patch16_224", "beitv2_base_patch16_224", "cait_xxs24_224", "caformer_s18",
    "coatnet_0_rw_224", "convmixer_768_32", "convnext_atto", "convnext_tiny", "convnextv2_atto",
    "convnextv2_tiny", "crossvit_tiny_240", "davit_tiny", "deit_tiny_patch16_224",
    "deit3_small_patch16_224", "densenet121", "dla34", "eca_nfnet_l0", "edgenext_small",
    "efficientformer_l1", "efficientnet_b0", "efficientnetv2_rw_t", "eva02_tiny_patch14_224",
    "fastvit_t8", "focalnet_tiny_srf", "ghostnet_100", "gmlp_s16_224", "hgnetv2_b0",
    "hiera_tiny_224", "hrnet_w18_small", "inception_v3", "inception_v4", "levit_128s",
    "maxvit_tiny_tf_224", "mixer_b16_224", "mnasnet_100", "mobilenetv2_100",
    "mobilenetv3_large_100", "mobilenetv3_small_100", "mobileone_s1", "mobilevit_s",
    "nf_regnet_b0", "pit_ti_224", "poolformer_s12", "pvt_v2_b0", "regnetx_032", "regnety_004",
    "repvgg_a2", "res2net50_26w_4s", "resnest14d", "resnet18", "resnet34", "resnet50",
    "resnet101", "resnetv2_50", "resnext50_32x4d", "rexnet_100", "seresnet50", "skresnet18",
    "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "tf_efficientnetv2_b0",
    "tiny_vit_5m_224", "tresnet_m", "twins_svt_small", "vgg11_bn", "vgg16_bn",
    "vit_base_patch16_224", "vit_small_patch14_reg4_dinov2", "vit_small_patch16_224",
    "vit_tiny_patch16_224", "volo_d1_224", "wide_resnet50_2", "xcit_tiny_12_p16_224",
    "torchvision.models:shufflenet_v2_x1_0",
]
# fmt: on


def main(names: list[str]) -> None:
    """Derive, prove and write the specs of `names`, or of all; prove those of the built-ins."""
    torch.set_num_threads(1)
    for name in names or [*ARCHITECTURES, *networks.BUILTINS]:
        began = time.perf_counter()
        outcome = renewed(name)
        print(f"{name}: {outcome}, {time.perf_counter() - began:.1f} s", file=sys.stderr)


def renewed(name: str) -> str:
    """Write the spec of one architecture; return in a few words what was done."""
    path = FOLDER / f"{shipped.file_name(name)}.yaml"
    if name in networks.BUILTINS:
        text = path.read_text(encoding="utf-8")
    else:
        text = derive.derive(name).dumps()
    spec = PermutationSpec.loads(text)
    if path.exists():
        there = path.read_text(encoding="utf-8")
        proof = PermutationSpec.loads(there).proof
        if proof.get("sha256") == spec.sha256 and there == with_proof(text, proof):
            return "unchanged"
    proof = derive.verify(spec)
    write_text(path, with_proof(text, derive.record_of(spec, proof)))
    return f"written, {proof.difference:.1e}, coverage {proof.coverage:.4f}"


if __name__ == "__main__":
    main(sys.argv[1:])
