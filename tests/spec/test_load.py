from __future__ import annotations

import io
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergekit_perm.errors import SpecError
from mergekit_perm.shipped import run_specs
from mergekit_perm.spec import load, loads, resolved

ROOT = Path(__file__).parents[2]
MINIMAL = """\
format: perm-merge/run@1
name: x
architecture: mlp
data: digits
networks:
  a: {train: {seed: 0}}
  b: {train: {seed: 1}}
"""


class TestLoading:
    def test_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "x.yaml"
        path.write_text(MINIMAL + "train: {learning_rate: 1e-3, epochs: 2}\n")
        spec = load(path)
        assert spec.name == "x"
        assert spec.train.learning_rate == 0.001
        assert spec.folder == tmp_path
        assert load(str(path)) == spec

    def test_standard_input(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(MINIMAL.encode())))
        spec = load("-", overrides=["name=y"])
        assert spec.name == "y"
        assert spec.folder == Path()

    def test_messages_name_standard_input(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"name: \xff")))
        with pytest.raises(SpecError, match=r"^<stdin>:1:7: byte 0xff is not UTF-8"):
            load("-")

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(
            SpecError, match=r"none\.yaml: cannot be read: no such file or directory"
        ):
            load(tmp_path / "none.yaml")

    def test_messages_show_the_path_as_given(self, tmp_path: Path) -> None:
        path = tmp_path / "x.yaml"
        path.write_text("name: x\n")
        with pytest.raises(SpecError) as caught:
            load(path)
        assert str(caught.value).startswith(f"{path}:1:1: the field 'format' is missing\n")
        assert str(caught.value).endswith(f"\n2 problems in {path}; nothing was run.")

    def test_a_text_has_the_current_folder(self) -> None:
        assert loads(MINIMAL).folder == Path()
        assert loads(MINIMAL, folder=Path("/there")).folder == Path("/there")
        with pytest.raises(SpecError, match=r"^<string>:1:1: the file is empty"):
            loads("")

    def test_a_file_that_is_no_yaml_is_not_checked_further(self) -> None:
        with pytest.raises(SpecError, match=r"\n1 problem in <string>; nothing was run\.$"):
            loads("nme: [", overrides=["also wrong"])

    def test_an_alias_at_the_top_is_one_problem(self) -> None:
        with pytest.raises(SpecError, match=r"\n1 problem in <string>; nothing was run\.$"):
            loads("*one")

    def test_a_checkpoint_is_looked_for_beside_the_file(self, tmp_path: Path) -> None:
        path = tmp_path / "x.yaml"
        path.write_text(MINIMAL + "  c: {checkpoint: weights/c.pth}\n")
        with pytest.raises(SpecError, match=r"no file 'weights/c\.pth'"):
            load(path)
        (tmp_path / "weights").mkdir()
        (tmp_path / "weights" / "c.pth").touch()
        assert load(path).path("weights/c.pth") == tmp_path / "weights" / "c.pth"

    # What names a network of the spec may stand as a reference.
    @given(
        st.text(alphabet=st.characters(codec="utf-8"), max_size=40).filter(
            lambda text: text.strip() not in ("a", "b", "joint")
        )
    )
    def test_any_text_in_place_of_any_value(self, text: str) -> None:
        shown = text.replace("'", "''").replace("\n", " ")
        for line in ("train: '{}'", "align: {{reference: '{}'}}", "merge: [{{'{}': 1}}]"):
            with pytest.raises(SpecError, match=r"nothing was run\.$"):
                loads(MINIMAL + line.format(shown))


class TestShipped:
    @pytest.mark.parametrize("path", sorted((ROOT / "specs").glob("*.yaml")), ids=lambda p: p.stem)
    def test_every_shipped_spec_loads(self, path: Path) -> None:
        spec = load(path)
        assert spec.name == path.stem
        assert spec.merge
        assert spec.evaluate is not None
        assert loads(resolved(spec), folder=spec.folder) == spec

    def test_they_are_found_by_name(self) -> None:
        assert {"quickstart", "resnet_digits"} <= run_specs().keys()

    def test_the_quickstart(self) -> None:
        spec = load(ROOT / "specs" / "quickstart.yaml")
        assert [spec.networks[name].train for name in "abc"] != [None] * 3
        assert spec.options_of("a") == {"in_features": 64, "hidden": [128, 128], "num_classes": 10}
        assert spec.align is not None
        assert spec.align.reference == "joint"
        assert spec.evaluate is not None
        assert spec.evaluate.simplex is not None
        assert spec.evaluate.simplex.grid == 6
        assert spec.evaluate.splits == ("train", "test")
        assert spec.pairs == (("a", "b"), ("a", "c"), ("b", "c"))

    def test_the_residual_networks(self) -> None:
        spec = load(ROOT / "specs" / "resnet_digits.yaml")
        assert spec.architecture == "resnet_cifar"
        assert spec.options["depth"] == 8
        assert (spec.train.epochs, spec.train.weight_decay) == (30, 5e-4)
        assert spec.evaluate is not None
        assert spec.evaluate.calibration == ("none", "batch_norm")


class TestSpeed:
    SCRIPT = (
        "import sys, time\n"
        "start = time.perf_counter()\n"
        "from mergekit_perm.spec import load\n"
        "load(sys.argv[1])\n"
        "seconds = time.perf_counter() - start\n"
        "heavy = {'torch', 'numpy', 'timm', 'scipy', 'rich'} & set(sys.modules)\n"
        "print(f'{seconds:.3f}', *sorted(heavy))\n"
    )

    def fresh(self) -> tuple[float, list[str]]:
        """Return how long a new interpreter needs for the quickstart, and what it imported."""
        path = str(ROOT / "specs" / "quickstart.yaml")
        done = subprocess.run(
            [sys.executable, "-c", self.SCRIPT, path],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        )
        seconds, *heavy = done.stdout.split()
        return float(seconds), heavy

    def test_it_loads_no_torch_and_is_quick(self) -> None:
        seconds, heavy = min(self.fresh() for _ in range(3))
        assert heavy == []
        assert seconds < 0.6  # 0.15 on an idle machine; the rest is for a busy one

    def test_checking_again_is_quick(self) -> None:
        text = (ROOT / "specs" / "quickstart.yaml").read_text()
        start = time.perf_counter()
        for _ in range(5):
            loads(text)
        assert time.perf_counter() - start < 1.0
