"""Where a permutation spec comes from, and how a proof is remembered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mergekit_perm import derive, networks, shipped
from mergekit_perm.checkpoints import shapes
from mergekit_perm.derive.proofs import proof_path
from mergekit_perm.errors import PermutationSpecError
from mergekit_perm.permspec import PermutationSpec

torch.set_num_threads(1)

BUILT_IN: list[tuple[str, dict[str, Any]]] = [
    ("mlp", {"in_features": 12, "hidden": [5, 7, 6], "norm": "layer_norm"}),
    ("mlp", {"in_features": 12, "hidden": [8], "norm": "batch_norm"}),
    ("vgg", {"width": 4, "depth": 11, "norm": "none"}),
    ("vgg", {"width": 4, "norm": "layer_norm"}),
    ("resnet_cifar", {"depth": 8, "width": 4, "norm": "layer_norm"}),
    ("resnet_cifar", {"depth": 20, "width": 4}),
]

# Outermost groups and all groups, counted from the architectures' diagrams.
TIMM = {
    "resnet18": (4 + 8, 4 + 8),
    "resnet50": (5 + 32, 5 + 32),
    "vgg11_bn": (10, 10),
    "convnext_atto": (4 + 12, 4 + 12),
    "vit_tiny_patch16_224": (1 + 12 + 12, 1 + 12 * 4),
    "resnext50_32x4d": (5 + 16, 5 + 16 * 3),
}


def found(architecture: str, options: dict[str, Any]) -> derive.Found:
    module = networks.build(architecture, options, seed=0)
    return derive.find(architecture, options, shapes(module))


@pytest.mark.parametrize(("architecture", "options"), BUILT_IN)
def test_built_in_specs_hold_for_any_width_depth_and_norm(
    architecture: str, options: dict[str, Any]
) -> None:
    proof = derive.verify(found(architecture, options).spec, *derive.probe(architecture, options))
    assert proof.difference < 1e-12
    assert min(proof.controls.values()) > 1e-6


@pytest.mark.parametrize("architecture", ["mlp", "vgg", "resnet_cifar"])
def test_built_in_specs_agree_with_the_hand_written_files(architecture: str) -> None:
    written = PermutationSpec.load(shipped.architecture_specs()[architecture])
    own = found(architecture, dict(written.options)).spec
    assert own.shapes is not None
    bound = written.bind(own.shapes)
    assert bound.groups == own.groups
    assert bound.axes == own.axes


@pytest.mark.parametrize("architecture", sorted(TIMM))
def test_shipped_specs_have_the_groups_that_the_architecture_has(architecture: str) -> None:
    spec = found(architecture, {}).spec
    assert (len(spec.groups.top()), len(spec.groups)) == TIMM[architecture]


@pytest.mark.parametrize("architecture", ["resnet18", "convnext_atto"])
def test_shipped_specs_are_proven(architecture: str) -> None:
    options = {"num_classes": 7, "in_chans": 1}
    proof = derive.verify(found(architecture, options).spec, *derive.probe(architecture, options))
    assert proof.difference < 1e-12
    assert proof.coverage > 0.999


@pytest.mark.slow
@pytest.mark.parametrize("architecture", sorted(TIMM))
def test_every_shipped_spec_is_proven(architecture: str) -> None:
    proof = derive.verify(found(architecture, {}).spec, *derive.probe(architecture, {}))
    assert proof.difference < 1e-12
    assert proof.coverage > 0.999


def test_a_pretrained_tag_finds_the_spec_of_its_architecture() -> None:
    module = networks.build("resnet18", {}, seed=0)
    assert derive.find("resnet18.a1_in1k", {}, shapes(module)).source == "shipped resnet18"


def test_an_architecture_without_a_spec_is_refused_with_the_way_out() -> None:
    with pytest.raises(
        PermutationSpecError, match="no permutation spec is known for 'resnet34'"
    ) as e:
        derive.find("resnet34", {}, {})
    assert "perm-merge permspec verify FILE" in str(e.value)


def test_options_that_a_shipped_spec_does_not_hold_for_are_named() -> None:
    with pytest.raises(PermutationSpecError) as error:
        found("resnet18", {"stem_type": "deep"})
    assert "does not hold for options {'stem_type': 'deep'}" in str(error.value)
    assert "conv1.weight: no such tensor" in str(error.value)


def test_tensors_that_a_spec_does_not_know_are_found_by_the_proof() -> None:
    options = {"block_args": {"attn_layer": "se"}}
    spec = found("resnet18", options).spec
    with pytest.raises(PermutationSpecError, match="changes the function"):
        derive.verify(spec, *derive.probe("resnet18", options))


def test_a_spec_of_another_architecture_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(shipped.architecture_specs()["resnet18"].read_text())
    module = networks.build("mlp", {"in_features": 4, "hidden": [3]}, seed=0)
    with pytest.raises(PermutationSpecError) as error:
        derive.from_file(file, shapes(module))
    assert str(error.value).startswith(f"{file}: the permutation spec of resnet18 does not fit")


def test_a_proof_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERM_MERGE_CACHE", str(tmp_path))
    options = {"in_features": 6, "hidden": [4]}
    spec = found("mlp", options).spec
    built = []

    def build() -> Any:
        built.append(1)
        return derive.probe("mlp", options)

    assert not derive.is_proven(spec, "mlp", options)
    first = derive.proven(spec, "mlp", options, build)
    assert derive.is_proven(spec, "mlp", options)
    assert derive.proven(spec, "mlp", options, build) == first
    assert built == [1]
    assert not derive.is_proven(spec, "mlp", {**options, "init": "he_normal"})


def test_a_damaged_proof_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERM_MERGE_CACHE", str(tmp_path))
    options = {"in_features": 6, "hidden": [4]}
    spec = found("mlp", options).spec
    path = proof_path(spec, "mlp", options)
    path.parent.mkdir(parents=True)
    path.write_text('{"difference": 0')
    proof = derive.proven(spec, "mlp", options, lambda: derive.probe("mlp", options))
    assert json.loads(path.read_text())["difference"] == proof.difference


def test_a_failed_proof_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERM_MERGE_CACHE", str(tmp_path))
    options = {"in_features": 6, "hidden": [4]}
    text = networks.permutation_spec_text("mlp", options)
    assert text is not None
    wrong = PermutationSpec.loads(text.replace("  layers.0.bias: [layers.0]\n", ""))
    wrong = wrong.bind(shapes(networks.build("mlp", options, seed=0)))
    with pytest.raises(PermutationSpecError, match="changes the function"):
        derive.proven(wrong, "mlp", options, lambda: derive.probe("mlp", options))
    assert not derive.is_proven(wrong, "mlp", options)


def test_probes_are_small_where_the_network_takes_any_size() -> None:
    assert derive.probe("resnet18", {})[1].shape == (2, 3, 64, 64)
    assert derive.probe("vit_tiny_patch16_224", {"depth": 1})[1].shape == (2, 3, 224, 224)
    assert derive.probe("mlp", {"in_features": 9})[1].shape[1:] == (9,)
