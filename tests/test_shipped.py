"""The YAML files that come with the package."""

from __future__ import annotations

from pathlib import Path

import pytest

import mergekit_perm as pm
from mergekit_perm import networks, shipped
from mergekit_perm.errors import RunError
from mergekit_perm.permspec import PermutationSpec
from tests.derive.test_rules import names_operations

SPECS = shipped.architecture_specs()


def test_there_are_specs_of_the_most_used_architectures() -> None:
    assert len(SPECS) >= 40
    assert {"resnet50", "convnext_tiny", "vit_base_patch16_224", "efficientnet_b0"} <= set(SPECS)


@pytest.mark.parametrize("name", SPECS)
def test_shipped_specs_name_their_architecture_and_are_proven(name: str) -> None:
    spec = PermutationSpec.load(SPECS[name])
    assert shipped.file_name(spec.architecture or "") == name
    assert spec.proof["sha256"] == spec.sha256
    assert spec.proof["coverage"] > 0.8
    assert spec.proof["difference"] < 1e-9
    assert spec.proof["inputs"]


# Small ones are derived again each time, all of them with -m slow.
QUICK = {"resnet18", "convnext_atto", "vit_tiny_patch16_224", "levit_128s", "mobilenetv2_100"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in SPECS
        if name not in networks.BUILTINS
    ],
)
def test_shipped_specs_are_what_is_derived(name: str) -> None:
    spec = PermutationSpec.load(SPECS[name])
    derived = pm.derive(spec.architecture or "")
    assert derived.shapes is not None
    assert all(map(names_operations, derived.fixed.values()))
    text = SPECS[name].read_text(encoding="utf-8")
    assert text.startswith(derived.dumps())
    bound = spec.bind(derived.shapes)
    assert bound.axes == derived.axes
    assert dict(bound.groups) == dict(derived.groups)


def test_the_run_specs_are_there() -> None:
    assert {"quickstart", "resnet_digits"} <= shipped.run_specs().keys()


def test_an_installation_without_specs_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipped, "_FOLDERS", (tmp_path,))
    with pytest.raises(RunError) as error:
        shipped.specs_folder()
    assert str(error.value) == (
        f"{tmp_path}: the shipped specs are missing; install perm-merge again"
    )
