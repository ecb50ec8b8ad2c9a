"""Networks of timm without a head, and networks that are cut down to their features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from mergekit_perm import networks, pipeline, spec
from mergekit_perm.errors import CheckpointError, RunError

RUN = """
format: perm-merge/run@1
name: run
architecture: {architecture}
options: {options}
networks:
  a: {{checkpoint: a.safetensors}}
  b: {{checkpoint: b.safetensors}}
align: {{restarts: 1}}
merge: [{{name: mean, method: linear}}]
"""
MERGED = "out/run/merged/mean"
HEADLESS, FEATURES = {"num_classes": 0}, {"features_only": True}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def one_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the first test derives, the others find: no test here is about that."""
    monkeypatch.setenv("PERM_MERGE_CACHE", str(cache))


def write(architecture: str, options: dict[str, Any], *names: str) -> None:
    for seed, name in enumerate(names or "ab"):
        state = networks.build(architecture, options, seed=seed).state_dict()
        save_file({n: t.contiguous() for n, t in state.items()}, f"{name}.safetensors")


def run(architecture: str, options: str, *overrides: str) -> None:
    text = RUN.format(architecture=architecture, options=options)
    pipeline.run(spec.loads(text, file="run.yaml", overrides=overrides))


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("convnext_atto", HEADLESS),
        ("convnext_atto", FEATURES),
        ("resnet18", FEATURES),
        ("vit_tiny_patch16_224", FEATURES),
    ],
)
def test_what_is_merged_is_loaded_by_the_lines_on_the_card(
    architecture: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(architecture, options)
    run(architecture, str(options).replace("True", "true"))
    merged = load_file(f"{MERGED}/model.safetensors")
    monkeypatch.chdir(MERGED)
    found: dict[str, Any] = {}
    card = Path("README.md").read_text()
    exec(card.partition("```python\n")[2].partition("```")[0], found)
    own = found["model"].state_dict()
    assert own.keys() == merged.keys()
    assert all(torch.equal(own[name], merged[name]) for name in own)
    outputs = found["model"].eval()(torch.zeros(1, 3, 224, 224))
    assert isinstance(outputs, list) == ("features_only" in options)


def test_a_head_is_left_out_where_the_spec_says_so() -> None:
    write("convnext_atto", {"num_classes": 5}, "a")
    write("convnext_atto", HEADLESS, "b")
    with pytest.raises(CheckpointError) as caught:
        run("convnext_atto", "{num_classes: 0}")
    rule = "missing: [{filter: 'glob:head.fc.*', policy: intersection}]"
    assert str(caught.value).splitlines()[-1] == (
        f"  num_classes: 0 builds a network without a head: write {rule} to leave that of the "
        "file out, or the number of classes to merge it"
    )
    run("convnext_atto", "{num_classes: 0}", rule.replace(": ", "=", 1))
    model = timm.create_model(f"local-dir:{MERGED}", pretrained=True)
    assert model.num_classes == 0


def test_a_network_without_a_head_where_one_with_a_head_is_asked_for() -> None:
    write("resnet18", HEADLESS)
    with pytest.raises(CheckpointError) as caught:
        run("resnet18", "{}")
    assert str(caught.value).endswith(
        "\n  is it a network without a head? Then write options: {num_classes: 0}"
    )


def test_whole_networks_where_features_are_asked_for() -> None:
    write("convnext_atto", {})
    with pytest.raises(CheckpointError, match="Then leave features_only out"):
        run("convnext_atto", "{features_only: true}")
    # What the message says to do.
    run("convnext_atto", "{}")
    model = timm.create_model(f"local-dir:{MERGED}", pretrained=True, features_only=True)
    merged = load_file(f"{MERGED}/model.safetensors")
    own = model.state_dict()
    assert torch.equal(own["stem_0.weight"], merged["stem.0.weight"])
    last = "blocks.1.mlp.fc2.weight"
    assert torch.equal(own[f"stages_3.{last}"], merged[f"stages.3.{last}"])


def test_other_tensors_are_what_they_are() -> None:
    write("vit_tiny_patch16_224", HEADLESS)
    with pytest.raises(CheckpointError) as caught:
        run("resnet18", "{}")
    assert str(caught.value).endswith("is it of another architecture?")
    with pytest.raises(CheckpointError) as caught:
        run("resnet18", "{num_classes: 0}")
    assert str(caught.value).endswith("is it of another architecture?")


@pytest.mark.parametrize("options", [HEADLESS, FEATURES])
def test_features_are_not_measured_as_logits(options: dict[str, Any]) -> None:
    given = {**options, "in_chans": 1}
    write("resnet18", given)
    with pytest.raises(RunError, match="has features for outputs, not logits"):
        run("resnet18", str(given).replace("True", "true"), "data=digits", "evaluate={}")
