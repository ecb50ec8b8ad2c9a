"""`perm-merge merge`: checkpoints in, a network that timm loads out, and the spec of it beside."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf
from torch import nn

from mergekit_perm import networks, spec
from mergekit_perm.merge import RECIPES

Command = Callable[..., tuple[int, str, str]]
State = dict[str, torch.Tensor]

OPTIONS = {"in_features": 64, "hidden": [8, 8], "num_classes": 10}
MLP = ("--architecture", "mlp", "--options", "in_features=64", "--options", "hidden=[8, 8]")


def network(architecture: str, options: dict[str, Any], seed: int) -> nn.Module:
    """A network whose BatchNorm statistics are not those of a fresh one."""
    module = networks.build(architecture, options, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return module


def mlps(*names: str) -> dict[str, State]:
    states = {n: dict(network("mlp", OPTIONS, i).state_dict()) for i, n in enumerate(names)}
    for name, state in states.items():
        save_file(state, f"{name}.safetensors")
    return states


def training(state: State, *, arch: str, **arguments: Any) -> dict[str, Any]:
    """A checkpoint as timm's train.py writes it."""
    given = argparse.Namespace(num_classes=None, in_chans=None, gp=None, **arguments)
    return {"epoch": 3, "arch": arch, "state_dict": state, "args": given, "version": 2}


def same(found: State, wanted: State) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[n], wanted[n]) for n in wanted)


def mean(*states: State) -> State:
    """The average, summed in float64; counters are those of the first where all are alike."""
    return {
        name: (sum(s[name].double() for s in states) / len(states)).to(tensor.dtype)
        for name, tensor in states[0].items()
    }


def test_two_resnets_as_a_new_user_merges_them(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(dict(network("resnet18", {}, 0).state_dict()), "a.safetensors")
    torch.save(training(network("resnet18", {}, 1).state_dict(), arch="resnet18"), "b.pth.tar")
    code, out, err = command("merge", "a.safetensors", "b.pth.tar", "-o", "out/two")
    assert code == 0
    assert err.startswith("Taken: --architecture resnet18, as b.pth.tar says\n")
    assert "The run spec is out/two/merge.yaml\n" in out
    line = out.splitlines()[-1].strip()
    aligned = [load_file(f"out/two/aligned/{name}.safetensors") for name in "ab"]
    merged = load_file("out/two/merged/linear/model.safetensors")
    assert same(merged, mean(*aligned))
    assert not torch.equal(aligned[0]["conv1.weight"], aligned[1]["conv1.weight"])
    # The line that was printed loads it.
    found: dict[str, Any] = {}
    exec(line, found)
    assert same(dict(found["model"].state_dict()), merged)
    # The spec runs from anywhere, and finds that all is done.
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    stages = json.loads(command("plan", "../out/two/merge.yaml", "--json")[1])["stages"]
    assert {stage["status"] for stage in stages} == {"done"}
    assert command("run", "../out/two/merge.yaml")[0] == 0
    assert not any(Path().iterdir())
    text = Path("../out/two/merge.yaml").read_text(encoding="utf-8")
    assert text.startswith(
        "# Written by: perm-merge merge a.safetensors b.pth.tar -o out/two\n"
        "# The same again: perm-merge run out/two/merge.yaml\n"
        "format: perm-merge/run@1\nname: two\narchitecture: resnet18\n"
    )
    assert "checkpoint: ../../a.safetensors" in text


def test_weights_by_name_without_alignment(command: Command) -> None:
    states = mlps("a", "b", "c")
    arguments = ["a.safetensors", "b.safetensors", "c.safetensors", *MLP, "--no-align"]
    weights = {"a": 1, "b": 2, "c": 5}
    given = [f"--parameter=weight.{name}={value}" for name, value in weights.items()]
    assert command("merge", *arguments, *given, "-o", "out")[0] == 0
    merged = load_file("out/merged/linear/model.safetensors")
    for name, tensor in merged.items():
        wanted = sum(weight * states[n][name].double() for n, weight in weights.items()) / 8
        assert torch.equal(tensor, wanted.float())
    assert not Path("out/aligned").exists()
    import mergekit_perm.networks.builtin  # noqa: F401

    model = timm.create_model("local-dir:out/merged/linear", pretrained=True)
    assert same(dict(model.state_dict()), merged)


def test_a_named_reference_stays_as_it_is(command: Command) -> None:
    states = mlps("a", "b")
    two = ("a.safetensors", "b.safetensors", *MLP)
    for place, reference in (("one", "b"), ("two", "b.safetensors")):
        assert command("merge", *two, "--reference", reference, "-o", place)[0] == 0
        assert same(load_file(f"{place}/aligned/b.safetensors"), states["b"])
        assert spec.load(f"{place}/merge.yaml").align.reference == "b"  # type: ignore[union-attr]


def test_barriers_are_measured_where_there_is_data(command: Command) -> None:
    mlps("a", "b")
    code, out, _ = command(
        *("merge", "a.safetensors", "b.safetensors", *MLP, "--data", "digits", "-o", "out"),
        *("--align-method", "weight_matching", "--set", "evaluate.points=3", "--json"),
    )
    assert code == 0
    done = json.loads(out)
    assert done["report"] == json.loads(Path("out/report.json").read_text())
    assert {barrier["split"] for barrier in done["report"]["barriers"]} == {"train", "test"}
    assert done["merged"] == {"linear": "out/merged/linear"}
    assert done["load"]["linear"].startswith("import timm; import mergekit_perm.networks.builtin; ")
    assert spec.load("out/merge.yaml").evaluate.points == 3  # type: ignore[union-attr]


def test_a_gate_that_fails_is_exit_code_1(command: Command) -> None:
    text = (
        "format: perm-merge/run@1\nname: x\narchitecture: mlp\ndata: digits\ntrain: {epochs: 1}\n"
    )
    text += "options: {in_features: 64, hidden: [8, 8]}\n"
    Path("own.yaml").write_text(text + "networks: {a: {train: {seed: 0}}, b: {train: {seed: 1}}}\n")
    assert command("run", "own.yaml", "--out", "own")[0] == 0
    two = ("own/networks/a.safetensors", "own/networks/b.safetensors", *MLP, "--no-align")
    gate = "{barrier: pair, metric: loss, split: test, at_most: %s, alignment: naive}"
    measured = ("--data", "digits", "--set", "evaluate.points=3", "-o", "out", "--set")
    assert command("merge", *two, *measured, f"gates=[{gate % 0}]")[0] == 1
    assert command("merge", *two, *measured, f"gates=[{gate % 99}]")[0] == 0


def test_without_data_nothing_is_measured(command: Command) -> None:
    mlps("a", "b")
    out = command("merge", "a.safetensors", "b.safetensors", *MLP, "-o", "out", "--json")[1]
    report = json.loads(out)["report"]
    assert report["barriers"] == [] and report["alignment"]["method"] == "weight_matching"


def test_a_dry_run_writes_nothing_and_knows_what_is_done(command: Command) -> None:
    mlps("a", "b")
    two = ("merge", "a.safetensors", "b.safetensors", *MLP, "-o", "out/x")
    code, out, _ = command(*two, "--dry-run")
    assert code == 0 and "into out/x" in out
    assert "to do  merge a, b by linear" in out
    assert not Path("out").exists()
    assert command(*two)[0] == 0
    stages = json.loads(command(*two, "--dry-run", "--json")[1])["stages"]
    assert {stage["status"] for stage in stages} == {"done"}


def test_changed_arguments_go_on_in_the_same_folder(command: Command) -> None:
    states = mlps("a", "b")
    two = ("merge", "a.safetensors", "b.safetensors", *MLP, "-o", "out")
    assert command(*two)[0] == 0
    assert command(*two, "--no-align")[0] == 0
    merged = load_file("out/merged/linear/model.safetensors")
    assert same(merged, mean(states["a"], states["b"]))
    assert spec.load("out/merge.yaml").align is None


def test_paths_outside_the_current_folder_are_absolute(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlps("a", "b")
    here = Path.cwd()
    Path("inner").mkdir()
    monkeypatch.chdir("inner")
    assert command("merge", "../a.safetensors", "../b.safetensors", *MLP, "-o", "out")[0] == 0
    found = spec.load("out/merge.yaml").networks
    assert found["a"].checkpoint == str(here / "a.safetensors")


def test_paths_in_overrides_start_from_the_current_folder(command: Command) -> None:
    mlps("a", "b")
    shown = command("permspec", "show", "mlp", *MLP[2:])[1]
    Path("mine.yaml").write_text(shown)
    two = ("merge", "a.safetensors", "b.safetensors", *MLP, "-o", "out")
    assert command(*two, "--set", "align.permutations=mine.yaml")[0] == 0
    assert spec.load("out/merge.yaml").align.permutations == "../mine.yaml"  # type: ignore[union-attr]


# --------------------------------------------------------------------------- folders


def test_folders_of_others_are_left_alone(command: Command) -> None:
    mlps("a", "b")
    two = ("merge", "a.safetensors", "b.safetensors", *MLP, "-o", "out/mine")
    Path("out/mine").mkdir(parents=True)
    Path("out/mine/thesis.txt").write_text("x")
    code, _, err = command(*two)
    assert code == 3 and "holds files that are no run of perm-merge" in err
    assert [path.name for path in Path("out/mine").iterdir()] == ["thesis.txt"]
    Path("out/mine/thesis.txt").unlink()
    text = "format: perm-merge/run@1\nname: mine\narchitecture: mlp\ndata: digits\n"
    Path("own.yaml").write_text(text + "networks: {a: {train: {seed: 0}}}\ntrain: {epochs: 1}\n")
    assert command("run", "own.yaml", "--set", "options={in_features: 64}")[0] == 0
    code, _, err = command(*two)
    assert code == 3 and "a run that merge did not start" in err
    assert Path("out/mine/networks/a.safetensors").exists()
    assert command(*two, "--force")[0] == 0


def test_a_spec_of_that_name_beside_ones_own_files_does_not_take_them_over(
    command: Command,
) -> None:
    """Only the folder of a run is gone on in, not any folder with a spec.yaml in it."""
    Path("mine").mkdir()
    text = "format: perm-merge/run@1\nname: mine\narchitecture: mlp\ndata: digits\n"
    text += "options: {in_features: 64}\nnetworks: {a: {train: {seed: 0}}}\ntrain: {epochs: 1}\n"
    Path("mine/spec.yaml").write_text(text)
    assert command("run", "mine/spec.yaml")[1].endswith("Results are in out/mine\n")
    assert Path("mine/spec.yaml").read_text() == text


# ---------------------------------------------------------------------- architectures


def folder(name: str, module: nn.Module, **changes: Any) -> None:
    save_for_hf(module, name, safe_serialization=True)
    path = Path(name, "config.json")
    config = json.loads(path.read_text())
    config["pretrained_cfg"] |= changes
    path.write_text(json.dumps(config))


def planned(command: Command, *arguments: str) -> tuple[spec.RunSpec, str]:
    code, _, err = command("merge", *arguments, "--no-align", "-o", "out")
    assert code == 0, err
    return spec.load("out/merge.yaml"), err


@pytest.mark.parametrize("scheme", ["local-dir:one", "one/model.safetensors"])
def test_the_architecture_that_config_json_says(command: Command, scheme: str) -> None:
    options = {"num_classes": 5}
    folder("one", network("test_resnet", options, 0))
    save_file(dict(network("test_resnet", options, 1).state_dict()), "b.safetensors")
    made, err = planned(command, "b.safetensors", scheme)
    # Options that are as they would be anyway are left out.
    assert (made.architecture, made.options) == ("test_resnet", options)
    said = "Taken: --architecture test_resnet --options num_classes=5, as "
    assert err.startswith(said) and err.endswith("one/config.json says\n")
    model = timm.create_model("local-dir:out/merged/linear", pretrained=True)
    assert model.num_classes == 5


def test_how_images_are_prepared_is_not_lost(command: Command) -> None:
    for seed, name in enumerate(("one", "two")):
        folder(name, network("test_resnet", {}, seed), mean=[0.1, 0.2, 0.3])
    made, _ = planned(command, "local-dir:one", "local-dir:two")
    assert made.architecture == f"local-dir:{Path('one').absolute()}"
    config = json.loads(Path("out/merged/linear/config.json").read_text())
    assert config["pretrained_cfg"]["mean"] == [0.1, 0.2, 0.3]


def test_what_a_merge_wrote_is_merged_again(command: Command) -> None:
    mlps("a", "b")
    assert command("merge", "a.safetensors", "b.safetensors", *MLP, "-o", "one")[0] == 0
    made, _ = planned(command, "local-dir:one/merged/linear", "b.safetensors")
    assert made.architecture == "mlp"
    assert made.options == {"in_features": 64, "hidden": [8, 8]}


def test_the_arguments_of_a_training_are_options(command: Command) -> None:
    for seed, name in enumerate(("a", "b")):
        state = network("test_resnet", {"in_chans": 1, "num_classes": 3}, seed).state_dict()
        saved = training(state, arch="test_resnet", model_kwargs={})
        saved["args"].in_chans, saved["args"].num_classes = 1, 3
        torch.save(saved, f"{name}.pth.tar")
    made, _ = planned(command, "a.pth.tar", "b.pth.tar")
    assert made.options == {"in_chans": 1, "num_classes": 3}


def test_classes_are_counted_in_the_checkpoint(command: Command) -> None:
    for seed, name in enumerate(("a", "b")):
        state = network("test_resnet", {"num_classes": 7}, seed).state_dict()
        save_file(dict(state), f"{name}.safetensors")
    two = ("a.safetensors", "b.safetensors", "--architecture", "test_resnet")
    made, err = planned(command, *two)
    assert made.options == {"num_classes": 7}
    assert err == "Taken: --options num_classes=7, as fc.weight of a.safetensors has so many rows\n"
    code, _, err = command("merge", *two, "--options", "num_classes=8", "-o", "out")
    assert code == 3 and "of another shape" in err  # what is given is not second-guessed


def test_the_name_of_a_class_is_no_architecture(command: Command) -> None:
    for name in ("a", "b"):
        state = network("test_resnet", {}, 0).state_dict()
        torch.save(training(state, arch="somebodysnet"), f"{name}.pth.tar")
    code, out, err = command("merge", "a.pth.tar", "b.pth.tar", "-o", "out")
    assert (code, out) == (2, "")
    assert err == (
        "no checkpoint says of which architecture it is: give it with --architecture, "
        "for example --architecture resnet18\n"
    )
    assert not Path("out").exists()


def test_checkpoints_that_disagree(command: Command) -> None:
    folder("one", network("test_resnet", {}, 0))
    folder("two", network("test_resnet", {"num_classes": 5}, 1))
    code, _, err = command("merge", "local-dir:one", "local-dir:two", "-o", "out")
    assert code == 2
    assert "one/config.json says --architecture test_resnet, and " in err
    assert "two/config.json says --architecture test_resnet --options num_classes=5" in err


def test_a_name_in_config_json_that_nobody_knows(command: Command) -> None:
    folder("one", network("test_resnet", {}, 0))
    config = Path("one/config.json")
    config.write_text(config.read_text().replace('"test_resnet"', '"test_resnot"'))
    code, _, err = command("merge", "local-dir:one", "local-dir:one", "-o", "out")
    assert code == 2 and "unknown architecture 'test_resnot' (did you mean" in err


def test_two_names_of_one_network_are_no_disagreement(command: Command) -> None:
    folder("one", network("test_resnet", {}, 0))
    state = network("test_resnet", {}, 1).state_dict()
    torch.save(training(state, arch="test_resnet.r160_in1k"), "b.pth.tar")
    made, _ = planned(command, "local-dir:one", "b.pth.tar")
    assert made.architecture == "test_resnet"


FUNCTION = """
from torch import nn

def build(width):
    module = nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 2))
    module.input_shape = (3,)
    return module
"""


def test_an_architecture_of_the_users_own(command: Command) -> None:
    Path("own_net.py").write_text(FUNCTION)
    torch.manual_seed(0)
    for name in ("a", "b"):
        module = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
        save_file(dict(module.state_dict()), f"{name}.safetensors")
    two = ("a.safetensors", "b.safetensors", "--architecture", "own_net:build")
    code, out, _ = command("merge", *two, "--options", "width=5", "-o", "out")
    assert code == 0
    line = out.splitlines()[-1].strip()
    found: dict[str, Any] = {}
    exec(line, found)
    assert same(found["model"].state_dict(), load_file("out/merged/linear/model.safetensors"))
    # It says what it is, options without a default included.
    made, _ = planned(command, "local-dir:out/merged/linear", "b.safetensors", "--force")
    assert (made.architecture, made.options) == ("own_net:build", {"width": 5})


def test_architectures_of_each_network(command: Command) -> None:
    mlps("a", "b")
    own = "{architecture: mlp, options: {in_features: 64, hidden: [8, 8]}, checkpoint: %s}"
    given = [f"--set=networks.{name}={own % name}.safetensors" for name in "ab"]
    given = [text.replace("}.safetensors", ".safetensors}") for text in given]
    made, err = planned(command, "a.safetensors", "b.safetensors", *given)
    assert err == "" and made.architecture is None


def test_folders_of_images_are_found_from_the_folder_of_the_spec(command: Command) -> None:
    mlps("a", "b")
    two = ("merge", "a.safetensors", "b.safetensors", *MLP, "-o", "out/x")
    code, _, err = command(*two, "--data", "folder:images")
    assert code == 3 and "images" in err
    source = spec.load("out/x/merge.yaml").data
    assert source is not None and source.source == "folder:../../images"
    command(*two, "--data", "folder:images", "--set", "data.root=there")
    source = spec.load("out/x/merge.yaml").data
    assert source is not None
    assert (source.source, source.root) == ("folder:images", "../../there")


def test_an_unknown_architecture(command: Command) -> None:
    mlps("a", "b")
    two = ("merge", "a.safetensors", "b.safetensors", "--architecture", "resnet81", "-o", "out")
    code, _, err = command(*two)
    assert code == 2 and "(did you mean 'resnet18'?)" in err


# ------------------------------------------------------------------------------ errors


def refused(command: Command, *arguments: str) -> str:
    code, out, err = command("merge", *arguments, "-o", "out")
    assert (code, out) == (2, "")
    assert not Path("out").exists()
    assert "merge.yaml" not in err and "<string>" not in err
    return err


def test_all_problems_at_once_with_their_arguments(command: Command) -> None:
    mlps("a")
    err = refused(
        command,
        *("a.safetensors", "nope.safetensors", *MLP, "--method", "linaer"),
        *("--align-method", "weight_matchin", "--set", "align.sede=1"),
    )
    assert "--method linaer: expected " in err and "= did you mean 'linear'?" in err
    assert "nope.safetensors: no file 'nope.safetensors'\n" in err
    assert "--align-method weight_matchin: expected one of " in err
    assert "--set align.sede=1:1:7: align.sede: unknown key 'sede'" in err
    assert err.endswith("\n4 problems with the arguments of perm-merge merge; nothing was run.\n")


def test_a_parameter_that_a_recipe_has_not(command: Command) -> None:
    mlps("ab")
    err = refused(command, "a.safetensors", "b.safetensors", *MLP, "--parameter", "wieght=2")
    assert "--parameter wieght=2: linear has no parameter 'wieght'" in err
    assert "= did you mean 'weight'?" in err


MESSAGES = {
    ("--reference", "q"): "--reference q: no network 'q'\n    = networks here: joint, a, b\n",
    ("--parameter", "weight.q=1"): "--parameter weight.q=1: no network 'q'\n",
    ("--parameter", "weight"): "--parameter weight: expected KEY=VALUE\n",
    ("--align-method", "straight_through"): "    = add --data, for example --data digits",
    ("--parameter", "weight=1", "--parameter", "weight.a=2"): (
        "--parameter weight.a=2: '--parameter weight=1' is for all networks already\n"
    ),
    ("--set", "evaluate={}"): "    = add --data, for example --data digits",
    ("--set", "networks.a.x=1"): "--set networks.a.x=1:1:12: networks.a.x: unknown key 'x'",
    ("--set", "oops"): "--set oops:1:5: expected PATH=VALUE",
    ("--data", ""): "--data : source: expected text, found an empty text\n",
}


@pytest.mark.parametrize(("arguments", "message"), MESSAGES.items(), ids=" ".join)
def test_messages_name_the_argument(
    command: Command, arguments: tuple[str, ...], message: str
) -> None:
    mlps("a", "b")
    assert message in refused(command, "a.safetensors", "b.safetensors", *MLP, *arguments)


def test_one_checkpoint_is_too_few(command: Command) -> None:
    mlps("a")
    assert "merging takes two checkpoints or more" in refused(command, "a.safetensors", *MLP)


def test_a_folder_is_told_how_to_be_written(command: Command) -> None:
    mlps("a")
    Path("b").mkdir()
    assert "b: 'b' is a folder\n    = write local-dir:b\n" in refused(
        command, "a.safetensors", "b", *MLP
    )


def test_a_base_model_is_a_network(command: Command) -> None:
    mlps("a", "b")
    arguments = ("a.safetensors", "b.safetensors", *MLP, "--base-model", "a.safetensors")
    err = refused(command, *arguments, "--method", "linear")
    assert err.startswith("--base-model a.safetensors: ")


@pytest.mark.skipif("ties" not in RECIPES, reason="the recipe is not there")
def test_ties_with_a_base(command: Command) -> None:
    mlps("a", "b", "c")
    three = ("a.safetensors", "b.safetensors", "c.safetensors", *MLP)
    given = ("--method", "ties", "--base-model", "a", "--parameter", "density=0.5")
    code, _, err = command(
        "merge", *three, *given, "--parameter", "weight=1", "--no-align", "-o", "out"
    )
    assert code == 0, err
    assert (Path("out/merged/ties") / "model.safetensors").exists()


def test_a_folder_that_cannot_be_written(command: Command) -> None:
    mlps("a", "b")
    Path("file").write_text("")
    code, _, err = command("merge", "a.safetensors", "b.safetensors", *MLP, "-o", "file/out")
    assert code == 3
    assert err.startswith(f"{Path('file/out')}: cannot be written: ")


def test_networks_without_a_head_and_of_features_alone(command: Command) -> None:
    for kind, options in (("bare", {"num_classes": 0}), ("cut", {"features_only": True})):
        for seed in range(2):
            state = dict(network("convnext_atto", options, seed).state_dict())
            save_file(state, f"{kind}{seed}.safetensors")
    arguments = ["--architecture", "convnext_atto", "--no-align", "-o"]
    code, _, err = command("merge", "bare0.safetensors", "bare1.safetensors", *arguments, "bare")
    assert code == 0
    assert "Taken: --options num_classes=0, as bare0.safetensors has no head\n" in err
    assert spec.load("bare/merge.yaml").options == {"num_classes": 0}
    cut = ("cut0.safetensors", "cut1.safetensors", "--options", "features_only=true")
    code, out, _ = command("merge", *cut, *arguments, "cut")
    assert code == 0
    found: dict[str, Any] = {}
    exec(out.splitlines()[-1].strip(), found)
    merged = load_file("cut/merged/linear/model.safetensors")
    assert same(dict(found["model"].state_dict()), merged)
    # Which the folder says of itself.
    made, _ = planned(command, "local-dir:cut/merged/linear", "cut1.safetensors", "--force")
    assert made.options["features_only"] is True
    # Neither is taken for the other, nor for a network with a head.
    code, _, err = command("merge", *cut[:2], *arguments, "none")
    assert code == 3 and "is it of another architecture?" in err
