"""What a person sees when an input of a run is bad: the exact message, and the exit code.

Regenerate the messages with UPDATE_GOLDEN=1 and read the difference.
"""

from __future__ import annotations

import errno
import os
import pickle
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mergekit_perm import cli, networks

GOLDEN = Path(__file__).parent.parent / "golden/cli"

SPEC = """
format: perm-merge/run@1
name: bad
architecture: mlp
options: {in_features: 64, hidden: [8, 8], num_classes: 10}
data: digits
networks:
  a: {checkpoint: a.safetensors}
  b: {checkpoint: b.safetensors}
align: {}
merge: [{name: mean, method: linear}]
evaluate: {points: 3}
"""


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setenv("PERM_MERGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    Path("spec.yaml").write_text(SPEC)
    for seed, name in enumerate("ab"):
        save_file(network(seed=seed), f"{name}.safetensors")


def network(*, seed: int, hidden: int = 8) -> dict[str, torch.Tensor]:
    options = {"in_features": 64, "hidden": [hidden, hidden], "num_classes": 10}
    return dict(networks.build("mlp", options, seed=seed).state_dict())


def replace_in_spec(old: str, new: str) -> None:
    Path("spec.yaml").write_text(SPEC.replace(old, new))


def misspelt_key(_: pytest.MonkeyPatch) -> None:
    replace_in_spec("align: {}", "align: {referense: joint}")


def missing_checkpoint(_: pytest.MonkeyPatch) -> None:
    Path("b.safetensors").unlink()


def corrupt_safetensors(_: pytest.MonkeyPatch) -> None:
    Path("b.safetensors").write_bytes(Path("b.safetensors").read_bytes()[:100])


class RunsCode:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.system, ("touch was_run",)


def pickle_that_runs_code(_: pytest.MonkeyPatch) -> None:
    torch.save({"state_dict": network(seed=1), "extra": RunsCode()}, "b.pth")
    replace_in_spec("b.safetensors", "b.pth")


def bare_pickle(_: pytest.MonkeyPatch) -> None:
    Path("b.pth").write_bytes(pickle.dumps(RunsCode()))
    replace_in_spec("b.safetensors", "b.pth")


def another_width(_: pytest.MonkeyPatch) -> None:
    save_file(network(seed=1, hidden=9), "b.safetensors")


def nan_weights(_: pytest.MonkeyPatch) -> None:
    state = network(seed=1)
    state["layers.1.weight"][2, 3] = float("nan")
    state["head.bias"][:] = float("inf")
    save_file(state, "b.safetensors")


PERMSPEC = """
format: perm-merge/permspec@1
architecture: resnet18
groups: {layer1: 64}
axes:
  conv1.weight: [layer1, 3, 7, 7]
  fc.weight: [1000, layer1]
"""


def permspec_of_another_architecture(_: pytest.MonkeyPatch) -> None:
    Path("mine.yaml").write_text(PERMSPEC)
    replace_in_spec("align: {}", "align: {permutations: mine.yaml}")


def permspec_that_changes_the_function(_: pytest.MonkeyPatch) -> None:
    text = networks.permutation_spec_text(
        "mlp", {"in_features": 64, "hidden": [8, 8], "num_classes": 10}
    )
    assert text is not None
    Path("mine.yaml").write_text(text.replace("  layers.0.bias: [layers.0]\n", ""))
    replace_in_spec("align: {}", "align: {permutations: mine.yaml}")


def permspec_with_problems(_: pytest.MonkeyPatch) -> None:
    text = PERMSPEC.replace("layer1: 64}", "layer1: 64, layer2: -1}").replace("axes", "axis")
    Path("mine.yaml").write_text(text)
    replace_in_spec("align: {}", "align: {permutations: mine.yaml}")


def permspec_that_cannot_be_derived(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("branching.py").write_text(
        "from torch import nn\n\n\n"
        "class Branching(nn.Linear):\n"
        "    input_shape = (64,)\n\n"
        "    def forward(self, x):\n"
        "        x = super().forward(x.flatten(1))\n"
        "        return x if x.sum() > 0 else -x\n\n\n"
        "def branching():\n"
        "    return Branching(64, 10)\n"
    )
    monkeypatch.syspath_prepend(str(Path.cwd()))
    replace_in_spec("architecture: mlp", "architecture: branching:branching")
    Path("spec.yaml").write_text(
        re.sub(r"options:.*", "options: {}", Path("spec.yaml").read_text())
    )


def empty_split(_: pytest.MonkeyPatch) -> None:
    Path("images/train").mkdir(parents=True)
    Path("images/test").mkdir(parents=True)
    replace_in_spec("data: digits", "data: folder:images")


def missing_data(_: pytest.MonkeyPatch) -> None:
    replace_in_spec("data: digits", "data: {source: 'torchvision:CIFAR10', root: nowhere}")


def unknown_architecture(_: pytest.MonkeyPatch) -> None:
    replace_in_spec("architecture: mlp", "architecture: mpl")


def unknown_option(_: pytest.MonkeyPatch) -> None:
    replace_in_spec("hidden:", "hiden:")


def folder_of_another_spec(_: pytest.MonkeyPatch) -> None:
    Path("out/bad").mkdir(parents=True)
    Path("out/bad/spec.yaml").write_text("name: good")


def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    replace = Path.replace

    def full(self: Path, target: Path) -> Path:
        if "merged" in str(target):
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", full)


CASES = {
    misspelt_key: 2,
    missing_checkpoint: 2,
    corrupt_safetensors: 3,
    pickle_that_runs_code: 3,
    bare_pickle: 3,
    another_width: 3,
    nan_weights: 3,
    permspec_of_another_architecture: 2,
    permspec_that_changes_the_function: 2,
    permspec_with_problems: 2,
    permspec_that_cannot_be_derived: 2,
    empty_split: 3,
    missing_data: 3,
    unknown_architecture: 2,
    unknown_option: 2,
    folder_of_another_spec: 3,
    full_disk: 3,
}


@pytest.mark.parametrize(("spoil", "code"), CASES.items(), ids=[case.__name__ for case in CASES])
def test_bad_input_ends_in_one_clear_message(
    spoil: Callable[[pytest.MonkeyPatch], None],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil(monkeypatch)
    monkeypatch.setattr(sys, "argv", ["perm-merge", "run", "spec.yaml"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    out, message = capsys.readouterr()
    # How much outputs differ depends on the last bits of a machine's arithmetic.
    message = re.sub(r"\d\.\de[-+]\d\d", "N", message)
    golden = GOLDEN / f"{spoil.__name__}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(message)
    assert message == golden.read_text()
    assert end.value.code == code
    assert out == ""
    assert not Path("was_run").exists()
    assert not list(Path().rglob("*.tmp"))
