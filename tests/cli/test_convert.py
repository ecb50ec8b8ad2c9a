"""`perm-merge convert`: what it prints and where, and that what it wrote runs.

UPDATE_GOLDEN=1 writes the conversions anew; read the difference before keeping it.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf

from mergekit_perm import networks, spec
from mergekit_perm.spec import mergekit_files

Command = Callable[..., tuple[int, str, str]]

GOLDEN = Path(__file__).parents[1] / "golden/convert"
FILES = sorted(GOLDEN.glob("*.yaml"))
OPTIONS = {"in_features": 64, "hidden": [8, 8], "num_classes": 10}
MLP = ("--architecture", "mlp", "--options", "in_features=64", "--options", "hidden=[8, 8]")
LINEAR = """
merge_method: linear
models:
  - {model: a.safetensors, parameters: {weight: 0.25}}
  - {model: b.safetensors, parameters: {weight: 0.75}}
"""


@pytest.fixture(autouse=True)
def checkpoints(command: Command) -> dict[str, dict[str, torch.Tensor]]:
    states = {}
    for seed, name in enumerate("abc"):
        states[name] = dict(networks.build("mlp", OPTIONS, seed=seed).state_dict())
        save_file(states[name], f"{name}.safetensors")
    Path("linear.yml").write_text(LINEAR)
    return states


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_conversions(command: Command, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(path, path.name)
    # Which recipes there are is no matter of conversion; what they take is checked with them.
    monkeypatch.setitem(mergekit_files.convert.__kwdefaults__, "provided", ("linear", "ties"))
    code, out, err = command("convert", path.name, "--architecture", "mlp")
    assert code == 0, err
    found = f"{out}---- stderr ----\n{err}"
    golden = path.with_suffix(".txt")
    if os.environ.get("UPDATE_GOLDEN") == "1":
        golden.write_text(found, encoding="utf-8")
    assert found == golden.read_text(encoding="utf-8")


def test_there_are_conversions() -> None:
    assert len(FILES) >= 3


def test_what_was_written_runs_and_is_what_mergekit_would_make(
    command: Command, checkpoints: dict[str, dict[str, torch.Tensor]]
) -> None:
    code, out, err = command("convert", "linear.yml", *MLP, "--no-align", "-o", "specs/new.yaml")
    assert (code, out) == (0, "")
    assert err == "Check it with `perm-merge check specs/new.yaml`.\n"
    assert command("check", "specs/new.yaml")[0] == 0
    assert command("run", "specs/new.yaml", "--out", "done")[0] == 0
    merged = load_file("done/merged/linear/model.safetensors")
    for name, tensor in merged.items():
        a, b = (checkpoints[n][name].double() for n in "ab")
        assert torch.equal(tensor, (0.25 * a + 0.75 * b).float())


def test_networks_are_aligned_unless_told_otherwise(command: Command) -> None:
    out = command("convert", "linear.yml", *MLP)[1]
    assert spec.loads(out).align is not None
    assert "# mergekit merges weights as they are." in out
    out = command("convert", "linear.yml", *MLP, "--no-align")[1]
    assert spec.loads(out).align is None and "merges weights as they are" not in out


def test_without_an_architecture_it_says_where_to_write_it(command: Command) -> None:
    code, out, err = command("convert", "linear.yml")
    assert code == 0
    assert "\n# architecture: resnet18   # mergekit files do not say it" in out
    assert "give it with --architecture" in err
    Path("new.yaml").write_text(out)
    code, _, err = command("check", "new.yaml")
    assert code == 2 and err.count("new.yaml:") == 1 and "'architecture' is missing" in err


def test_the_architecture_that_a_folder_says(command: Command) -> None:
    save_for_hf(networks.build("test_resnet", seed=0), "one", safe_serialization=True)
    Path("m.yml").write_text("merge_method: linear\nmodels: [one, a.safetensors]\n")
    _, out, err = command("convert", "m.yml")
    assert spec.loads(out).architecture == "test_resnet"
    assert "Taken: --architecture test_resnet, as one/config.json says\n" in err
    Path("one/config.json").write_text("{")
    code, out, err = command("convert", "m.yml")
    assert code == 0 and "cannot be read as JSON" in err and "architecture: resnet18" in out


def test_standard_input_and_json(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(LINEAR.encode())))
    done = json.loads(command("convert", "-", "--json", *MLP)[1])
    assert done["spec"]["name"] == "stdin" and done["notes"] == []
    assert done["spec"]["merge"][0]["parameters"] == {"weight": {"a": 0.25, "b": 0.75}}


def test_files_that_are_there_are_kept(command: Command) -> None:
    code, _, err = command("convert", "linear.yml", "-o", "linear.yml")
    assert code == 3 and "is there already" in err
    assert Path("linear.yml").read_text() == LINEAR
    assert command("convert", "linear.yml", *MLP, "-o", "linear.yml", "--force")[0] == 0
    assert command("check", "linear.yml")[0] == 0


@pytest.mark.parametrize("name", ["run", "check", "plan", "sweep"])
def test_commands_that_take_run_specs_name_the_way(command: Command, name: str) -> None:
    code, out, err = command(name, "linear.yml")
    assert (code, out) == (2, "")
    assert err.count("linear.yml:") == 1
    assert "perm-merge convert linear.yml -o NEW.yaml" in err


def test_problems_are_all_there(command: Command) -> None:
    Path("bad.yml").write_text(LINEAR.replace("weight: 0.75", "wieght: 1") + "slices: []\n")
    code, out, err = command("convert", "bad.yml", "-o", "new.yaml")
    assert (code, out) == (2, "")
    assert "bad.yml:5:41: models[1].parameters.wieght: linear has no parameter 'wieght'" in err
    assert "bad.yml:6:1: slices: 'slices' is not provided here" in err
    assert "nothing was converted" in err and not Path("new.yaml").exists()


def test_ties_loads(command: Command) -> None:
    Path("ties.yml").write_text(LINEAR.replace("linear", "ties") + "base_model: c.safetensors\n")
    code, out, err = command("convert", "ties.yml", *MLP)
    assert code == 0, err
    assert spec.loads(out).merge[0].method == "ties"
