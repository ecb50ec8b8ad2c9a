"""`perm-merge permute`: what it prints, writes and refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mergekit_perm import checkpoints, cli, networks
from mergekit_perm.alignment import Alignment
from mergekit_perm.permspec import PermutationSpec

torch.set_num_threads(1)

OPTIONS = {"in_features": 6, "hidden": [7, 5], "num_classes": 3}
RUN = """
format: perm-merge/run@1
name: tiny
architecture: mlp
options: {in_features: 64, hidden: [6], num_classes: 10}
data: digits
networks:
  a: {train: {seed: 0}}
  b: {train: {seed: 1}}
train: {epochs: 1}
align: {reference: a}
"""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs a command line and returns (exit code, stdout, stderr)."""
    monkeypatch.setenv("PERM_MERGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["perm-merge", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return call


@pytest.fixture
def made(run: Run) -> Alignment:
    """Write net.safetensors, p.safetensors and q.safetensors to the working folder; return p."""
    text = networks.permutation_spec_text("mlp", OPTIONS)
    assert text is not None
    network = networks.build("mlp", OPTIONS, seed=0)
    spec = PermutationSpec.loads(text).bind(checkpoints.shapes(network))
    checkpoints.save("net.safetensors", network.state_dict())
    p, q = (
        Alignment(spec.random(generator=np.random.default_rng(seed)), spec, "b", "joint")
        for seed in range(2)
    )
    q.save("q.safetensors")
    p.save("p.safetensors")
    return p


def state(file: str) -> dict[str, torch.Tensor]:
    return checkpoints.load(file).state


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def test_it_says_what_it_did(run: Run, made: Alignment) -> None:
    assert run("permute", "net.safetensors", "--with", "p.safetensors") == (
        0,
        "net.safetensors: 5 tensors moved by 2 of 2 groups, b to the joint reference\n"
        "  the file: 5 of 5 tensors of the permutation spec found, 5 tensors moved\n"
        "Written to net.permuted.safetensors\n",
        "",
    )
    assert same(state("net.permuted.safetensors"), made.apply(state("net.safetensors")))


def test_inverse_and_composition(run: Run, made: Alignment) -> None:
    both = ("--with", "p.safetensors", "--with", "q.safetensors")
    q = Alignment.load("q.safetensors")
    assert run("permute", "net.safetensors", *both, "-o", "there.pth")[0] == 0
    assert same(state("there.pth"), q.apply(made.apply(state("net.safetensors"))))
    assert run("permute", "there.pth", *both, "--inverse", "--out", "back.safetensors")[0] == 0
    assert same(state("back.safetensors"), state("net.safetensors"))


def test_what_is_undone_is_said_the_other_way_round(run: Run, made: Alignment) -> None:
    out = run("permute", "net.safetensors", "--with", "p.safetensors", "--inverse")[1]
    assert "groups, the joint reference to b\n" in out


def test_as_json(run: Run, made: Alignment) -> None:
    out = run("permute", "net.safetensors", "--with", "p.safetensors", "--json", "--inverse")[1]
    found = json.loads(out)
    assert found["out"] == "net.permuted.safetensors" and found["source"] == "net.safetensors"
    assert found["alignment"] == {
        "files": ["p.safetensors"],
        "inverse": True,
        "network": "joint",
        "reference": "b",
        "sha256": made.inverse().sha256,
        "permspec_sha256": Alignment.load("p.safetensors").spec.sha256,
        "groups": 2,
        "moved": 2,
    }
    assert found["parts"] == [{"place": "", "kind": "tensors", "found": 5, "moved": 5}]


def test_a_mask_says_how_much_of_the_network_it_has(run: Run, made: Alignment) -> None:
    torch.save({"head.weight": torch.ones(3, 5) > 0, "more": torch.ones(2)}, "mask.pth")
    assert run("permute", "mask.pth", "--with", "p.safetensors")[1] == (
        "mask.pth: 1 tensors moved by 2 of 2 groups, b to the joint reference\n"
        "  the file: 1 of 5 tensors of the permutation spec found, 1 tensors moved\n"
        "Written to mask.permuted.pth\n"
    )
    torch.save({"encoder": torch.ones(3, 5)}, "other.pth")
    code, out, err = run("permute", "other.pth", "--with", "p.safetensors")
    assert (code, out) == (2, "")
    assert err == (
        "other.pth: none of its 1 tensors is in the permutation spec of mlp: it has 'encoder', "
        "the spec 'layers.0.weight'\n"
    )


def test_a_training_checkpoint_is_permuted_whole(run: Run, made: Alignment) -> None:
    network = networks.build("mlp", OPTIONS, seed=1)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.randn(2, 6)).sum().backward()
    optimizer.step()
    content = {
        "epoch": 3,
        "arch": "mlp",
        "state_dict": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "state_dict_ema": networks.build("mlp", OPTIONS, seed=2).state_dict(),
    }
    torch.save(content, "last.pth.tar")
    assert run("permute", "last.pth.tar", "--with", "p.safetensors")[1] == (
        "last.pth.tar: 20 tensors moved by 2 of 2 groups, b to the joint reference\n"
        "  state_dict: 5 of 5 tensors of the permutation spec found, 5 tensors moved\n"
        "  state_dict_ema: 5 of 5 tensors of the permutation spec found, 5 tensors moved\n"
        "  optimizer: the states of 5 parameters, 10 tensors moved\n"
        "Written to last.permuted.pth.tar\n"
    )


def test_a_run_keeps_alignments_that_need_nothing_else(run: Run) -> None:
    Path("tiny.yaml").write_text(RUN)
    assert run("run", "tiny.yaml")[0] == 0
    kept, weights = "out/tiny/permutations/b.safetensors", "out/tiny/networks/b.safetensors"
    assert run("permute", weights, "--with", kept, "-o", "b.safetensors")[0] == 0
    assert same(state("b.safetensors"), state("out/tiny/aligned/b.safetensors"))
    found = Alignment.load(kept)
    assert (found.network, found.reference, found.spec.architecture) == ("b", "a", "mlp")
    assert found.spec.options == {"in_features": 64, "hidden": [6], "num_classes": 10}
    aligned = "out/tiny/aligned/b.safetensors"
    code, _, err = run("permute", aligned, "--with", kept)
    assert code == 3 and "this alignment was applied to it already" in err
    assert run("permute", aligned, "--with", kept, "--again")[0] == 0
    assert run("permute", aligned, "--with", kept, "--inverse", "-o", "back.safetensors")[0] == 0
    assert same(state("back.safetensors"), state(weights))

    older = Path("older/permutations/b.safetensors")
    checkpoints.save(older, checkpoints.load_state(kept))
    code, _, err = run("permute", weights, "--with", str(older))
    assert code == 2 and "give the spec it was made with (--permspec FILE)\n" in err
    spec = ("--permspec", "out/tiny/permspec.yaml")
    assert run("permute", weights, "--with", str(older), *spec, "-o", "c.safetensors")[0] == 0
    Path("older/permspec.yaml").write_text(Path("out/tiny/permspec.yaml").read_text())
    assert run("permute", weights, "--with", str(older), "-o", "d.safetensors")[0] == 0
    assert same(state("c.safetensors"), state(aligned))
    assert same(state("d.safetensors"), state(aligned))


def test_what_it_refuses(run: Run, made: Alignment) -> None:
    p = ("--with", "p.safetensors")
    assert run("permute", "net.safetensors", *p)[0] == 0
    assert run("permute", "net.safetensors", *p)[::2] == (
        3,
        "net.permuted.safetensors: is there already; choose another file with --out, or replace "
        "it with --force\n",
    )
    assert run("permute", "net.safetensors", *p, "--force")[0] == 0
    assert run("permute", "net.safetensors", *p, "-o", "x.txt")[0] == 2
    assert run("permute", "nett.safetensors", *p)[::2] == (
        3,
        "nett.safetensors: no such file (did you mean 'net.safetensors'?)\n",
    )
    code, _, err = run("permute", "net.safetensors", "--with", "net.safetensors")
    assert code == 3 and "group 'head.bias': a permutation is a list of whole numbers" in err
    assert run("permute", "net.safetensors")[0] == 2


def test_a_spec_with_patterns_says_how_many_it_found(run: Run, made: Alignment) -> None:
    text = networks.permutation_spec_text("mlp", OPTIONS)
    assert text is not None
    lines = [line for line in text.splitlines() if "layers.0.bias" not in line]
    Path("mine.yaml").write_text("\n".join([*lines, "  layers.0.b*: [layers.0]"]) + "\n")
    arguments = ("--with", "p.safetensors", "--permspec", "mine.yaml")
    out = run("permute", "net.safetensors", *arguments)[1]
    assert "  the file: 5 tensors of the permutation spec found, 5 tensors moved\n" in out


def test_help_loads_no_torch() -> None:
    code = (
        "import sys; from mergekit_perm.cli import app\n"
        "try: app(['permute', '--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert not {'torch', 'timm', 'numpy'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "NETWORK" in done.stdout and "--inverse" in done.stdout
