"""Runs of networks that have one tensor under several names."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, load_model, save_file, save_model

from mergekit_perm import checkpoints, networks, pipeline, spec
from mergekit_perm.errors import CheckpointError, MergeError, RunError

NETWORK = """
import torch
from torch import nn

class Net(nn.Module):
    input_shape = (1, 8, 8)

    def __init__(self):
        super().__init__()
        self.first, self.middle = nn.Linear(64, 8), nn.Linear(8, 8)
        self.again, self.head = nn.Linear(8, 8), nn.Linear(8, 10)
        self.again.weight = self.middle.weight

    def forward(self, x):
        x = torch.relu(self.middle(torch.relu(self.first(x.flatten(1)))))
        return self.head(torch.relu(self.again(x)))

def make():
    return Net()
"""
RUN = """
format: perm-merge/run@1
name: tied
architecture: {architecture}
networks:
  a: {{checkpoint: a.safetensors}}
  b: {{checkpoint: b.safetensors}}
  c: {{checkpoint: c.pth}}
align: {{}}
merge:
  - {{name: mean, method: linear}}
  - {{name: dare, method: dare_linear, base_model: a, parameters: {{density: 0.5}}}}
  - {{name: della, method: della, base_model: a, parameters: {{density: 0.5}}, out_dtype: float64}}
"""
_NUMBERS = itertools.count()


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of an architecture, of which there are three checkpoints."""
    module = f"tied_network_{next(_NUMBERS)}"
    monkeypatch.syspath_prepend(str(tmp_path))
    Path(f"{module}.py").write_text(NETWORK)
    a, b, c = (networks.build(f"{module}:make", seed=seed) for seed in range(3))
    save_model(a, "a.safetensors")
    every = {name: tensor.clone() for name, tensor in b.state_dict().items()}
    save_file(every, "b.safetensors")
    # Files of transformers leave names out, too, and do not say so.
    torch.save({n: t for n, t in c.state_dict().items() if n != "again.weight"}, "c.pth")
    return f"{module}:make"


def load(architecture: str, *overrides: str) -> spec.RunSpec:
    text = RUN.format(architecture=architecture)
    return spec.loads(text, file="tied.yaml", overrides=overrides)


def test_each_tensor_is_merged_and_written_once(own: str) -> None:
    pipeline.run(load(own))
    for name in ("mean", "dare", "della"):
        file = f"out/tied/merged/{name}/model.safetensors"
        network = networks.build(own, seed=9)
        assert load_model(network, file) == (set(), [])
        found = load_file(file)
        assert "middle.weight" not in found and "again.weight" in found
        wanted = network.state_dict()
        assert all(torch.equal(found[n].float(), wanted[n]) for n in found)
    for name in "abc":
        assert "middle.weight" not in load_file(f"out/tied/aligned/{name}.safetensors")
    # The lines on the card load it.
    card = Path("out/tied/merged/mean/README.md").read_text()
    lines = card.partition("```python\n")[2].partition("```")[0]
    found_by_them: dict[str, Any] = {}
    exec(lines.replace("./", "out/tied/merged/mean/"), found_by_them)
    mean = load_file("out/tied/merged/mean/model.safetensors")
    middle = found_by_them["model"].state_dict()["middle.weight"]
    assert torch.equal(middle, mean["again.weight"])


def test_a_permuted_copy_is_found_again(own: str) -> None:
    b, p = load_file("b.safetensors"), torch.randperm(8, generator=torch.Generator().manual_seed(0))
    inputs = {"middle.weight", "again.weight", "head.weight"}
    moved = {name: t[:, p] if name in inputs else t for name, t in b.items()}
    a = {name: t if name.startswith("head") else t[p] for name, t in moved.items()}
    save_file({name: tensor.contiguous() for name, tensor in a.items()}, "a.safetensors")
    pipeline.run(load(own, "align.reference=b"))
    aligned = checkpoints.load_state("out/tied/aligned/a.safetensors")
    assert not torch.equal(a["again.weight"], b["again.weight"])
    assert all(torch.equal(aligned[name], tensor) for name, tensor in b.items())


def test_all_that_is_measured_of_them(own: str) -> None:
    recipes = ("fisher", "regmean", "greedy_soup")
    merge = ", ".join(f"{{name: {name}, method: {name}}}" for name in recipes)
    given = ("data=digits", "evaluate={points: 3}", f"merge=[{merge}]")
    report = pipeline.run(load(own, *given, "align.method=weight_matching"))
    assert report.barriers
    for name in recipes:
        network = networks.build(own, seed=9)
        assert load_model(network, f"out/tied/merged/{name}/model.safetensors") == (set(), [])


def test_two_values_for_one_tensor_are_refused(own: str) -> None:
    state = load_file("b.safetensors")
    state["middle.weight"] += 1
    save_file(state, "b.safetensors")
    with pytest.raises(CheckpointError) as caught:
        pipeline.run(load(own))
    assert "b.safetensors has different values for what is one tensor" in str(caught.value)
    assert "middle.weight and again.weight" in str(caught.value)


def test_a_filter_is_about_the_name_that_stands(own: str) -> None:
    weight = "merge.0.parameters={weight: [{filter: FILTER, value: 0.5}, {value: 1}]}"
    pipeline.make_plan(load(own, weight.replace("FILTER", "again.weight")))
    with pytest.raises(MergeError, match=r"middle\.weight"):
        pipeline.make_plan(load(own, weight.replace("FILTER", "middle.weight")))
    missing = "missing=[{filter: middle.weight, policy: union}]"
    with pytest.raises(RunError, match=r"middle\.weight and again\.weight are one tensor"):
        pipeline.make_plan(load(own, missing))
    pipeline.make_plan(load(own, "missing=[{filter: regex:middle|again, policy: union}]"))


def test_timm_reads_tied_tensors_by_each_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed, file in enumerate(("a.safetensors", "b.safetensors", "c.pth")):
        network = networks.build("coat_lite_tiny", seed=seed)
        save_model(network, file) if seed < 2 else torch.save(network.state_dict(), file)
    pipeline.run(load("coat_lite_tiny", "align=null", "merge=[{name: mean, method: linear}]"))
    place = "out/tied/merged/mean"
    model = timm.create_model(f"local-dir:{place}", pretrained=True)
    merged, own = load_file(f"{place}/model.safetensors"), model.state_dict()
    assert merged.keys() == own.keys()
    assert all(torch.equal(merged[name], own[name]) for name in own)
    for name in "abc":
        timm.create_model("coat_lite_tiny", checkpoint_path=f"out/tied/networks/{name}.safetensors")
