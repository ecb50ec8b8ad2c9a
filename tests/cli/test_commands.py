"""Every command: what it prints, where, and how it ends."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mergekit_perm import cli
from mergekit_perm.permspec import PermutationSpec

SPEC = """
format: perm-merge/run@1
name: tiny
architecture: mlp
options: {in_features: 64, hidden: [6], num_classes: 10}
data: digits
networks:
  a: {train: {seed: 0}}
  b: {train: {seed: 1}}
train: {epochs: 1}
align: {method: weight_matching}
evaluate: {points: 3}
gates:
  - {barrier: pair, metric: loss, split: test, at_most: 50}
"""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs a command line and returns (exit code, stdout, stderr)."""
    torch.set_num_threads(1)
    monkeypatch.setenv("PERM_MERGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    Path("tiny.yaml").write_text(SPEC)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["perm-merge", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return call


def test_help_names_every_command(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    for command in ("run", "check", "plan", "explain", "sweep", "compare", "report", "permspec"):
        assert f" {command} " in out


@pytest.mark.parametrize("command", ["run", "check", "plan", "explain", "compare", "report"])
def test_every_command_explains_itself(run: Run, command: str) -> None:
    code, out, _ = run(command, "--help")
    assert code == 0
    assert f"perm-merge {command} [OPTIONS]" in out


def test_version(run: Run) -> None:
    assert run("--version") == (0, "perm-merge 0.1.0\n", "")


def test_check_says_that_there_are_no_problems(run: Run) -> None:
    assert run("check", "tiny.yaml") == (0, "tiny.yaml: no problems (2 networks)\n", "")


def test_check_reports_all_problems_on_stderr(run: Run) -> None:
    Path("bad.yaml").write_text(SPEC.replace("train: {epochs: 1}", "train: {epoch: 1, gama: 2}"))
    code, out, err = run("check", "bad.yaml")
    assert (code, out) == (2, "")
    assert "did you mean 'epochs'?" in err and "did you mean 'gamma'?" in err


def test_a_spec_is_read_from_stdin(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(SPEC.encode())))
    assert run("check", "-")[:2] == (0, "-: no problems (2 networks)\n")


def test_shipped_specs_are_found_by_name_from_any_folder(run: Run) -> None:
    assert run("check", "quickstart")[0] == 0
    code, _, err = run("check", "quickstar")
    assert code == 2
    assert err.startswith("no run spec 'quickstar' (did you mean 'quickstart'?)")


def test_run_prints_the_report_and_where_it_is(run: Run) -> None:
    code, out, err = run("run", "tiny.yaml", "--set", "align={}")
    assert (code, err) == (0, "")
    assert "Loss barriers" in out and "passed" in out
    assert out.endswith("Results are in out/tiny\n")
    assert all(len(line) <= 80 for line in out.splitlines())


def test_run_and_report_print_report_json(run: Run) -> None:
    out = run("run", "tiny.yaml", "--json", "--out", "here")[1]
    assert json.loads(out) == json.loads(Path("here/report.json").read_text())
    assert run("report", "here", "--json")[1] == out
    assert run("report", "here/report.json")[1].endswith("Read from here/report.json\n")


def test_a_failed_gate_is_exit_code_1(run: Run) -> None:
    gates = "gates=[{barrier: pair, metric: loss, split: test, at_most: 0, alignment: naive}]"
    code, out, _ = run("run", "tiny.yaml", "--set", gates)
    assert code == 1
    assert "FAILED" in out


def test_overrides_reach_the_run(run: Run) -> None:
    out = run("run", "tiny.yaml", "--set", "evaluate.points=5", "--set", "name=other", "--json")[1]
    assert len(json.loads(out)["barriers"][0]["points"]) == 5
    assert Path("out/other/report.json").exists()


def test_plan_tells_what_would_run(run: Run) -> None:
    code, out, _ = run("plan", "tiny.yaml")
    assert code == 0
    assert "to do  train a  -> networks/a.safetensors\n" in out
    assert "8 of 8 stages to do, 6 mixtures to measure in all" in out
    run("run", "tiny.yaml")
    out = run("plan", "tiny.yaml", "--json")[1]
    assert {stage["status"] for stage in json.loads(out)["stages"]} == {"done"}


@pytest.mark.usefixtures("drawn_pages")
def test_a_report_is_written_as_html_and_pictures(run: Run) -> None:
    run("run", "tiny.yaml")
    text = Path("out/tiny/report.html").read_text(encoding="utf-8")
    code, out, _ = run("report", "out/tiny", "--html", "again.html", "--figures", "pictures")
    assert code == 0
    assert out.startswith("again.html: open it in a browser\npictures: ")
    assert Path("again.html").read_text(encoding="utf-8") == text
    pictures = sorted(file.name for file in Path("pictures").iterdir())
    assert f"pictures: {len(pictures)} files\n" in out
    assert {"curves-test-loss-none-aligned.png", "groups.svg"} <= set(pictures)
    assert run("report", "out/tiny", "--html", "x.html", "--json")[0] == 2
    for option, place in (("--html", "out"), ("--figures", "again.html")):
        code, _, err = run("report", "out/tiny", option, place)
        assert (code, err.count("\n")) == (3, 1)
        assert err.startswith(f"{place}: cannot be written: ")


def test_compare_puts_runs_side_by_side(run: Run) -> None:
    run("run", "tiny.yaml")
    run("run", "tiny.yaml", "--set", "align.seed=1", "--set", "name=second")
    code, out, _ = run("compare", "out/tiny", "out/second", "--each", "--metric", "loss")
    assert code == 0
    assert "tiny" in out and "second" in out and "error" not in out
    rows = json.loads(run("compare", "out/tiny", "out/second", "--each", "--json")[1])["rows"]
    assert {row["alignment"] for row in rows} == {"naive", "aligned"}
    assert all(row["differences"][1] == row["values"][1] - row["values"][0] for row in rows)


def test_compare_averages_runs_that_differ_by_seeds(run: Run) -> None:
    run("run", "tiny.yaml")
    run("run", "tiny.yaml", "--set", "networks.a.train.seed=7", "--set", "name=tiny-1")
    both = json.loads(run("compare", "out/tiny", "out/tiny-1", "--json")[1])
    assert (both["runs"], both["repeats"]) == (["tiny"], [["tiny", "tiny-1"]])
    assert all(row["intervals"][0] is not None for row in both["rows"])
    assert "mean of 2 runs, 95% t-interval" in run("compare", "out/tiny", "out/tiny-1")[1]
    each = json.loads(run("compare", "out/tiny", "out/tiny-1", "--each", "--json")[1])
    assert each["runs"] == ["tiny", "tiny-1"]
    run("run", "tiny.yaml", "--set", "align.seed=1", "--set", "name=third")
    names = json.loads(run("compare", "out/tiny", "out/third", "--json")[1])["runs"]
    assert names == ["tiny", "third"]


def test_compare_writes_a_page_and_pictures(run: Run) -> None:
    run("run", "tiny.yaml")
    code, out, _ = run("compare", "out/tiny", "--html", "runs.html", "--figures", "pictures")
    assert code == 0
    assert out.startswith("runs.html: open it in a browser\npictures: ")
    assert "<h2>test loss</h2>" in Path("runs.html").read_text(encoding="utf-8")
    assert {file.suffix for file in Path("pictures").iterdir()} == {".png", ".svg"}
    code, _, err = run("compare", "out/tiny", "--html", "out")
    assert (code, err.count("\n")) == (3, 1)


def test_compare_for_other_programs_and_in_order(run: Run) -> None:
    run("run", "tiny.yaml")
    run("run", "tiny.yaml", "--set", "align.seed=1", "--set", "name=second")
    both = ("compare", "out/tiny", "out/second", "--each")
    lines = run(*both, "--csv")[1].splitlines()
    assert lines[0].startswith("run,method,saw,split,metric,calibration,figure,alignment,n,value")
    assert {line.split(",")[0] for line in lines[1:]} == {"tiny", "second"}
    assert "### test loss" in run(*both, "--markdown")[1]
    code, _, err = run("compare", "out/tiny", "--csv", "--json")
    assert code == 2
    assert "choose one of --json, --csv and --markdown" in err
    figure = lines[1].split(",")[6]
    rows = json.loads(run(*both, "--sort", figure, "--json")[1])
    chosen = [r for r in rows["rows"] if (r["figure"], r["alignment"]) == (figure, "aligned")]
    assert chosen[0]["values"] == sorted(chosen[0]["values"])


def test_a_sweep_runs_all_and_compares_them(run: Run) -> None:
    sweep = "sweep={seeds: 2, over: {align.method: [weight_matching, merge_many]}}"
    code, out, err = run("sweep", "tiny.yaml", "--set", sweep, "--jobs", "1", "--out", "all")
    assert (code, err) == (0, "")
    assert "weight_matching" in out and "mean of 2 runs" in out
    assert out.endswith("Results are in all\n")
    assert "<h2>test loss</h2>" in Path("all/report.html").read_text(encoding="utf-8")
    # The folder of a sweep stands for its runs.
    names = json.loads(run("compare", "all", "--each", "--json")[1])["runs"]
    assert names == ["weight_matching-0", "weight_matching-1", "merge_many-0", "merge_many-1"]
    averaged = json.loads(run("compare", "all", "--json")[1])["runs"]
    assert averaged == ["weight_matching", "merge_many"]
    again = run("sweep", "tiny.yaml", "--set", sweep, "--out", "all", "--jobs", "1", "--json")[1]
    assert json.loads(again)["repeats"][1] == ["merge_many-0", "merge_many-1"]


def test_a_sweep_says_what_it_shows(run: Run) -> None:
    claim = "{text: low, value: {figure: pair}, at_most: 100, split: test}"
    sweep = f"sweep={{seeds: 2, claims: [{claim}]}}"
    code, out, _ = run("sweep", "tiny.yaml", "--set", sweep, "--jobs", "1", "--out", "all")
    assert code == 0
    assert "holds  low: tiny" in out
    assert "holds  low: tiny" in run("report", "all")[1]
    assert json.loads(run("report", "all", "--json")[1])["claims"][0]["verdict"] == "holds"
    assert run("report", "all", "--html", "all.html")[0] == 0
    assert "<h2>Claims</h2>" in Path("all.html").read_text(encoding="utf-8")
    plan = run("plan", "tiny.yaml", "--set", sweep)[1]
    assert "A sweep of 2 runs such as this one" in plan


def test_a_sweep_is_told_from_a_run(run: Run) -> None:
    code, _, err = run("sweep", "tiny.yaml")
    assert code == 2 and "this spec has no sweep" in err
    code, _, err = run("run", "tiny.yaml", "--set", "sweep.seeds=2")
    assert code == 2 and "run it with perm-merge sweep" in err
    assert run("check", "tiny.yaml", "--set", "sweep.over={align.seed: [1]}")[0] == 0
    code, _, err = run("check", "tiny.yaml", "--set", "sweep.over={align.sede: [1]}")
    assert code == 2 and "unknown key 'sede'" in err


@pytest.mark.parametrize(
    ("command", "words"), [("check", "no problems"), ("plan", "A sweep of 2 runs")]
)
def test_a_sweep_is_read_from_stdin(
    run: Run, monkeypatch: pytest.MonkeyPatch, command: str, words: str
) -> None:
    given = f"{SPEC}sweep: {{seeds: 2}}\n".encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
    code, out, _ = run(command, "-")
    assert code == 0 and words in out


def test_runs_of_a_sweep_that_fail_are_named(run: Run) -> None:
    sweep = "sweep.over={train.learning_rate: [0.1, 1.0e+30]}"
    code, out, err = run("sweep", "tiny.yaml", "--set", sweep, "--jobs", "1")
    assert code == 3
    assert "learning_rate-0.1" in out
    assert err.startswith("1 of 2 runs failed:\nlearning_rate-1e-30: ")


def test_compare_refuses_what_is_not_there(run: Run) -> None:
    run("run", "tiny.yaml")
    assert run("compare", "out/tiny", "--split", "tset")[2] == (
        "no run has the split 'tset' (did you mean 'test'?); there is train, test\n"
    )
    code, _, err = run("compare", "out/nothing")
    assert code == 3
    assert err == "out/nothing: no report there; a finished run has one, so run its spec first\n"


def test_permspec_list_and_show(run: Run) -> None:
    code, out, err = run("permspec", "list")
    assert code == 0
    assert "perm-merge permspec derive ARCH" in err
    (line,) = (line.split() for line in out.splitlines() if line.startswith("vit_tiny_patch16"))
    assert line[:4] == ["vit_tiny_patch16_224", "25", "24", "0.9998"]
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", line[4])
    rows = {row["name"]: row for row in json.loads(run("permspec", "list", "--json")[1])}
    assert rows["resnet18"]["groups"] == 12 and rows["resnet18"]["difference"] < 1e-9
    assert all(row["proven"] for row in rows.values())
    assert "torchvision.models:shufflenet_v2_x1_0" in rows
    assert "layer{i:2..4}.0.downsample.0.weight" in run("permspec", "show", "resnet18")[1]
    shown = run("permspec", "show", "mlp", "--options", "hidden=[5, 6]")[1]
    assert "layers.1: 6" in shown
    assert (
        "fc.weight: [7, layer4]"
        in run("permspec", "show", "resnet18", "--options", "num_classes=7")[1]
    )
    code, _, err = run("permspec", "show", "resnet81")
    assert code == 2 and "(did you mean 'resnet18'?)" in err
    assert run("permspec", "show", "mine.yaml") == (
        2,
        "",
        "mine.yaml: cannot be read: no such file or directory\n",
    )


def test_permspec_derive_writes_a_spec_that_verify_proves_and_records(run: Run) -> None:
    code, out, err = run("permspec", "derive", "test_resnet")
    assert code == 0
    assert out.startswith("format: perm-merge/permspec@1\narchitecture: test_resnet\n")
    assert err.startswith("test_resnet: 11 groups, derived in ")
    code, shown, err = run("permspec", "derive", "test_vit", "-o", "mine.yaml")
    assert (code, shown) == (0, "")
    assert "groups and 12 nested in them" in err and "verify mine.yaml --record" in err
    assert run("permspec", "verify", "mine.yaml", "--record")[0] == 0
    spec = PermutationSpec.load("mine.yaml")
    assert spec.proof["sha256"] == spec.sha256
    once = Path("mine.yaml").read_text()
    assert run("permspec", "verify", "mine.yaml", "--record")[0] == 0
    assert Path("mine.yaml").read_text() == once


TAGGER = """
import torch
from torch import nn


class Tagger(nn.Module):
    example_inputs = torch.randint(50, (2, 7))

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 6)
        self.lstm = nn.LSTM(6, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, tokens):
        return self.head(self.lstm(self.embed(tokens))[0])
"""


IDLE = """
from torch import nn

class Idle(nn.Module):
    input_shape = (3,)
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 6), nn.Linear(6, 5), nn.Linear(6, 2)
    def forward(self, x):
        hidden = self.a(x).relu()
        return self.c(hidden) + 0 * self.b(hidden).sum()
"""


def test_networks_of_the_working_folder_are_found_and_say_what_they_take(run: Run) -> None:
    Path("tagging.py").write_text(TAGGER)
    assert run("permspec", "derive", "tagging:Tagger", "-o", "tagger.yaml")[0] == 0
    groups = PermutationSpec.load("tagger.yaml").groups
    assert {name: group.size for name, group in groups.items()} == {"stream": 6, "lstm": 5}
    code, out, err = run("permspec", "verify", "tagger.yaml")
    assert (code, err) == (0, "") and "verified for tagging:Tagger" in out


def test_permspec_derive_as_json(run: Run) -> None:
    found = json.loads(run("permspec", "derive", "test_resnet", "--json")[1])
    assert found["architecture"] == "test_resnet"
    assert len(found["groups"]) == 11 and found["operations_without_rule"] == {}
    assert set(found["seconds"]) == {"build", "trace", "solve"}
    assert PermutationSpec.loads(found["text"]).fixed


def test_permspec_verify_proves_a_file(run: Run) -> None:
    Path("mine.yaml").write_text(run("permspec", "show", "mlp", "--options", "in_features=9")[1])
    code, out, err = run("permspec", "verify", "mine.yaml")
    assert (code, err) == (0, "")
    assert out.startswith("mine.yaml: verified for mlp on inputs of 2 x 9\n")
    proof = json.loads(run("permspec", "verify", "mine.yaml", "--json")[1])
    assert proof["difference"] < 1e-12 and proof["sizes"] == {"layers.0": 128, "layers.1": 128}
    assert proof["inputs"] == [[2, 9]]


def test_a_permutation_spec_is_read_from_standard_input(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = run("permspec", "show", "mlp", "--options", "in_features=9")[1]

    def piped(*arguments: str, given: str = text) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(given))
        return run("permspec", *arguments, "-")

    assert piped("show") == (0, text, "")
    code, out, _ = piped("verify")
    assert code == 0 and out.startswith("-: verified for mlp on inputs of 2 x 9\n")
    code, out, err = piped("verify", "--record")
    assert (code, out) == (2, "") and "standard input is none" in err
    code, _, err = piped("show", given="format: x\n")
    assert code == 2 and err.startswith("<stdin>:1:1: groups:")


def test_permspec_verify_names_what_nothing_reads(run: Run) -> None:
    Path("idle.py").write_text(IDLE)
    assert run("permspec", "derive", "idle:Idle", "-o", "idle.yaml")[0] == 0
    code, out, err = run("permspec", "verify", "idle.yaml")
    assert (code, err) == (0, "")
    assert "  what nothing reads, whatever it is: b\n" in out


def test_permspec_verify_refuses_a_file_that_is_wrong(run: Run) -> None:
    text = run("permspec", "show", "mlp", "--options", "in_features=9")[1]
    Path("mine.yaml").write_text(text.replace("  layers.1.bias: [layers.1]\n", ""))
    code, out, err = run("permspec", "verify", "mine.yaml")
    assert (code, out) == (2, "")
    assert "changes the function of the network" in err and "layers.1 (" in err
    code, _, err = run("permspec", "verify", "mine.yaml", "--options", "hidden")
    assert (code, err) == (2, "--options hidden: expected KEY=VALUE\n")


def test_permspec_verify_needs_an_architecture(run: Run) -> None:
    text = "format: perm-merge/permspec@1\ngroups: {g: 2}\naxes: {w: [g]}\n"
    Path("mine.yaml").write_text(text)
    assert run("permspec", "verify", "mine.yaml")[2] == (
        "mine.yaml: names no architecture; give one with --architecture\n"
    )


@pytest.mark.parametrize(("arguments", "limit"), [(["--help"], 0.6), (["check", "quickstart"], 1)])
def test_help_and_check_are_fast_and_load_no_torch(arguments: list[str], limit: float) -> None:
    code = (
        "import sys; from mergekit_perm.cli import app\n"
        f"try: app({arguments!r})\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'timm', 'scipy', 'numpy', 'torchvision'} & sys.modules.keys()\n"
        "assert not heavy, heavy"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COV")}
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environment
        )
        seconds.append(time.perf_counter() - began)
        assert done.returncode == 0, done.stderr
    assert min(seconds) < limit


class Terminal(io.StringIO):
    """A terminal on stderr."""

    def isatty(self) -> bool:
        return True


def test_progress_is_drawn_on_a_terminal_only(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    code, out, _ = run("run", "tiny.yaml", "--json", "--set", "align={}")
    assert code == 0 and json.loads(out)["name"] == "tiny"
    for stage in ("training a", "verifying mlp", "aligning b to a", "evaluating a+b, aligned"):
        assert stage in terminal.getvalue()
