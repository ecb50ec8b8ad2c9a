"""The YAML files that come with the package."""

from __future__ import annotations

from pathlib import Path

import pytest

from mergekit_perm import shipped
from mergekit_perm.errors import RunError
from mergekit_perm.permspec import PermutationSpec


def test_every_shipped_permutation_spec_can_be_read_and_names_its_architecture() -> None:
    specs = shipped.architecture_specs()
    assert len(specs) >= 9
    for name, path in specs.items():
        assert PermutationSpec.load(path).architecture == name


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
