"""Where a permutation spec comes from, and how a proof is remembered."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mergekit_perm import derive, networks, shipped
from mergekit_perm.axes import Fixed
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

SHAPES = shapes(networks.build("resnet18", {}, seed=0))


def found(architecture: str, options: dict[str, Any]) -> derive.Found:
    module = networks.build(architecture, options, seed=0)
    return derive.find(architecture, options, shapes(module))


def verified(spec: PermutationSpec, architecture: str, options: dict[str, Any]) -> derive.Proof:
    fresh = derive.probe(architecture, options)
    return derive.verify(spec, fresh.module, fresh.inputs, shapes=fresh.shapes)


@pytest.mark.parametrize(("architecture", "options"), BUILT_IN)
def test_built_in_specs_hold_for_any_width_depth_and_norm(
    architecture: str, options: dict[str, Any]
) -> None:
    proof = verified(found(architecture, options).spec, architecture, options)
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


def test_shipped_specs_are_proven() -> None:
    proof = verified(found("resnet18", {}).spec, "resnet18", {})
    assert proof.difference < 1e-12
    assert proof.coverage > 0.999


def test_a_pretrained_tag_finds_the_spec_of_its_architecture() -> None:
    assert derive.find("resnet18.a1_in1k", {}, SHAPES).source == "shipped resnet18"


def test_options_that_only_say_where_weights_come_from_change_nothing() -> None:
    assert derive.find("resnet18", {"pretrained": False}, SHAPES).source == "shipped resnet18"


def test_an_architecture_that_is_not_shipped_is_derived_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERM_MERGE_CACHE", str(tmp_path))
    first = found("test_resnet", {})
    assert first.source == "derived from test_resnet"
    (kept,) = (tmp_path / "permspecs").iterdir()
    assert kept.read_text() == first.text
    monkeypatch.setattr(
        sys.modules["mergekit_perm.derive.find"], "derive", None
    )  # the second one needs no engine
    again = found("test_resnet", {})
    assert again.spec.sha256 == first.spec.sha256
    assert again.spec.axes == first.spec.axes


def test_a_cache_that_cannot_be_written_costs_time_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PERM_MERGE_CACHE", str(tmp_path / "file"))
    assert found("test_resnet", {}).source == "derived from test_resnet"


def test_options_that_a_shipped_spec_was_not_written_for_are_derived() -> None:
    spec = found("resnet18", {"stem_type": "deep"})
    assert spec.source == "derived from resnet18"
    assert "conv1.0.weight" in spec.spec.axes
    assert found("resnet18", {"num_classes": 7}).spec.axes["fc.weight"][0] == Fixed(7)


def test_tensors_that_other_options_add_are_in_the_derived_spec() -> None:
    options = {"block_args": {"attn_layer": "se"}}
    spec = found("resnet18", options).spec
    proof = verified(spec, "resnet18", options)
    assert proof.difference < 1e-12
    assert len(spec.groups) == 4 + 8 + 8


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
