"""The Python interface: its names are pinned, and its pieces fit together."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch

import mergekit_perm as pm
from mergekit_perm import checkpoints, data, networks

torch.set_num_threads(1)

NAMES = [
    "Alignment", "Family", "METHODS", "PermMergeError", "Permutation", "PermutationSpec", "Proof",
    "RECIPES", "Report", "__version__", "align", "barrier", "derive", "merge", "run", "verify",
]  # fmt: skip


def test_the_public_names_are_these() -> None:
    assert sorted(pm.__all__) == NAMES
    assert dir(pm) == NAMES
    assert all(getattr(pm, name) is not None for name in NAMES)


def test_what_packages_load_when_it_is_asked_for() -> None:
    assert dir(pm.merge) == sorted(pm.merge.__all__)
    assert all(getattr(pm.merge, name) is not None for name in pm.merge.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'mege'"):
        _ = pm.merge.mege


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'aling'"):
        _ = pm.aling


def test_packages_that_share_a_name_with_their_function_can_be_called() -> None:
    for module, function in (
        (pm.align, pm.align.align),
        (pm.derive, pm.derive.derive),
        (pm.merge, pm.merge.merge),
    ):
        assert inspect.signature(module) == inspect.signature(function)


def test_the_readme_journey_in_python(tmp_path: Path) -> None:
    options = {"in_features": 64, "hidden": [8, 8], "num_classes": 10}
    states = {
        name: dict(networks.build("mlp", options, seed=seed).state_dict())
        for seed, name in enumerate("abc")
    }
    text = networks.permutation_spec_text("mlp", options)
    assert text is not None
    (tmp_path / "mine.yaml").write_text(text)

    spec = pm.PermutationSpec.load(tmp_path / "mine.yaml")
    assert pm.verify(spec).difference < 1e-12
    family = pm.align(states, spec, reference="joint")
    assert family.objective > family.objective_before
    merged = pm.merge(family.states, method="linear")
    assert checkpoints.shapes(merged) == checkpoints.shapes(states["a"])
    model, digits = networks.build("mlp", options), data.load("digits", splits=["test"])
    barriers = pm.barrier(family.states, model, digits, points=3, device="cpu")
    assert [b.metric for b in barriers] == ["loss", "error"] * 3
    assert isinstance(barriers[0].barrier, float)


def test_random_members_come_from_a_generator_of_torch_or_numpy() -> None:
    text = networks.permutation_spec_text("mlp", {"in_features": 4, "hidden": [9]})
    assert text is not None
    spec = pm.PermutationSpec.loads(text)
    first, second = (spec.random(generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert first == second and first["layers.0"].moved > 0
