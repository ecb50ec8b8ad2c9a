"""`perm-merge explain`: what filters and gradients make of every option, tensor by tensor."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mergekit_perm import merge, networks

Command = Callable[..., tuple[int, str, str]]
TEXT = """
format: perm-merge/run@1
name: ex
architecture: resnet18
networks: {a: {checkpoint: a.pth}, b: {checkpoint: b.pth}, c: {checkpoint: c.pth}}
merge:
  - {name: arc, method: slerp, base_model: a, networks: [b], parameters: {t: [0.2, 0.8]}}
  - name: trimmed
    method: ties
    base_model: a
    parameters:
      density: [{filter: "glob:layer4.*", value: 0.3}, {value: 0.5}]
      weight: {b: 1.0, c: [{filter: bn, value: 0.1}, {value: 0.5}]}
"""


@pytest.fixture
def spec(tmp_path: Path) -> str:
    for name in "abc":
        (tmp_path / f"{name}.pth").touch()  # no weights are looked at
    (tmp_path / "ex.yaml").write_text(TEXT)
    return str(tmp_path / "ex.yaml")


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_every_tensor_has_its_values_in_json(command: Command, spec: str) -> None:
    code, text, _ = command("explain", spec, "--json")
    assert code == 0
    found = json.loads(text)
    names = list(networks.skeleton("resnet18").state_dict())
    assert [list(tensors) for tensors in found.values()] == [names, names]
    depths = merge.depths(names)
    for name in names:
        arc, trimmed = found["arc"][name], found["trimmed"][name]
        assert arc["depth"] == trimmed["depth"] == depths[name]
        assert arc["options"]["t"] == pytest.approx(0.2 + 0.6 * depths[name])
        density = 0.3 if name.startswith("layer4.") else 0.5
        assert trimmed["options"]["density"] == {"b": density, "c": density}
        assert trimmed["options"]["weight"] == {"b": 1.0, "c": 0.1 if "bn" in name else 0.5}
        assert arc["copied"] == name.endswith("num_batches_tracked")


def test_tensors_with_equal_values_share_a_row(command: Command, spec: str) -> None:
    _, text, _ = command("explain", spec)
    table = rows(text)
    assert ["layer1.1.*", "10", "0.143", "0.285714"] in table
    # Words in a row mean its tensors alone: those of layer4 that the other filter is about as well
    # have a row of their own.
    values = ["0.857", "to", "1", "b", "1,", "c"]
    assert ["layer4.0-1.conv1.weight,", "9", *values, "0.5", "0.3"] in table
    assert ["layer4.0-1.bn1.*,", "layer4.0-1.bn2.*", "16", *values, "0.1", "0.3"] in table
    assert "The same in all: lambda 1, normalize true, rescale false" in text
    assert "arc: slerp of a, b" in text and "trimmed: ties of a, b, c" in text
    assert "Counters are copied: bn1.num_batches_tracked" in text


def test_tensors_may_be_asked_for(command: Command, spec: str) -> None:
    _, text, _ = command("explain", spec, "--merge", "trimmed", "--tensor", "glob:layer3.1.bn2.*")
    assert "arc" not in text
    assert ["layer3.1.bn2.running_var", "0.714"] in rows(text)
    assert "The same in all: weight b 1, c 0.1, density 0.5" in text
    _, text, _ = command("explain", spec, "--merge", "arc", "--tensor", "glob:*.0.conv1.weight")
    assert [row[0] for row in rows(text) if row and row[0].endswith(".conv1.weight")] == [
        f"layer{number}.0.conv1.weight" for number in (1, 2, 3, 4)
    ]
    _, whole, _ = command("explain", spec, "--set", "merge.0.parameters.t=0.5", "--merge", "arc")
    assert "The same in all: t 0.5" in whole and "layer" not in whole.replace("layer1.0.bn1.", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--merge", "trimed"], "no merged network 'trimed' (did you mean 'trimmed'?)"),
        (["--tensor", "layer9"], "--tensor layer9: no tensor is called so; there are conv1.weight"),
        (["--set", "merge=[]"], "nothing is merged, so there is nothing to explain"),
        (
            ["--set", "merge.1.parameters.density=[{filter: gone, value: 1}, {value: 0.5}]"],
            "the filter 'gone' matches no tensor",
        ),
    ],
)
def test_what_cannot_be_explained(
    command: Command, spec: str, arguments: list[str], message: str
) -> None:
    code, text, err = command("explain", spec, *arguments)
    assert (code, text) == (2, "") or "filter" in message
    assert code != 0 and message in err


def test_recipes_that_look_at_data_and_networks_that_are_checkpoints(
    command: Command, tmp_path: Path
) -> None:
    (tmp_path / "data.yaml").write_text(
        "format: perm-merge/run@1\nname: x\narchitecture: mlp\n"
        "options: {in_features: 64, hidden: [4], num_classes: 10}\ndata: digits\n"
        "networks: {a: {train: {seed: 0, checkpoints: [1]}}, b: {train: {seed: 1}}}\n"
        "merge:\n- {name: f, method: fisher}\n"
        "- {name: m, method: linear, networks: [a@1, b], parameters: {weight: {a@1: 2, b: 1}}}\n"
    )
    _, text, _ = command("explain", str(tmp_path / "data.yaml"))
    assert "f: fisher of a, b" in text and "count 512" in text
    assert "The same in all: weight a@1 2, b 1, normalize true" in text
