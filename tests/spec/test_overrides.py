from __future__ import annotations

from typing import Any

import pytest

from mergekit_perm.errors import SpecError
from mergekit_perm.spec import RunSpec, loads

TEXT = """\
format: perm-merge/run@1
name: x
architecture: mlp
data: digits
networks:
  a: {train: {seed: 0}}
  v1.0: {train: {seed: 1}}
evaluate: {points: 11}
merge:
  - {name: m, method: linear}
gates:
  - {barrier: pair, metric: loss, split: test, at_most: 0.5, alignment: naive}
"""


def spec(*overrides: str) -> RunSpec:
    return loads(TEXT, file="f.yaml", overrides=overrides)


def message(*overrides: str, text: str = TEXT) -> str:
    with pytest.raises(SpecError) as caught:
        loads(text, file="f.yaml", overrides=overrides)
    return str(caught.value)


class TestSetting:
    @pytest.mark.parametrize(
        ("override", "path", "value"),
        [
            ("train.epochs=5", "train.epochs", 5),
            ("train.learning_rate=1e-3", "train.learning_rate", 1e-3),
            ("train.augment.flip=true", "train.augment.flip", True),
            ("train={epochs: 3, augment: {crop: 2}}", "train.augment.crop", 2),
            ("name=a-b.c", "name", "a-b.c"),
            ("name='7'", "name", "7"),
            ("evaluate.simplex.grid=4", "evaluate.simplex.grid", 4),
            ("evaluate.splits=[test]", "evaluate.splits", ("test",)),
            ("data={source: digits, root: there}", "data.root", "there"),
            ("options.text=a=b", "options", {"text": "a=b"}),
            ("options.text=", "options", {"text": None}),
            ("options.0=[]", "options", {"0": []}),
            ('options."a.b"=1', "options", {"a.b": 1}),
            ("align={}", "align.reference", "joint"),
        ],
    )
    def test_value(self, override: str, path: str, value: object) -> None:
        found: Any = spec(override)
        for name in path.split("."):
            found = getattr(found, name)
        assert found == value
        assert type(found) is type(value)

    @pytest.mark.parametrize("place", ["gates[0].at_most", "gates.0.at_most"])
    def test_entry_of_a_list(self, place: str) -> None:
        assert spec(f"{place}=0.1").gates[0].at_most == 0.1
        assert spec(f"{place}=0.1").gates[0].split == "test"

    def test_quoted_network(self) -> None:
        assert spec('networks."v1.0".train.seed=7').training("v1.0").epochs == 60
        assert spec('networks."v1.0".train.seed=7').networks["v1.0"].train.seed == 7  # type: ignore[union-attr]

    def test_new_network(self) -> None:
        assert tuple(spec("networks.c.train.seed=2").networks) == ("a", "v1.0", "c")

    def test_the_last_one_wins(self) -> None:
        assert spec("train.epochs=5", "train={gamma: 0.5}", "train.epochs=6").train.epochs == 6
        assert spec("train.epochs=5", "train={gamma: 0.5}").train.epochs == 60

    def test_a_value_of_the_file_that_is_wrong_may_be_replaced(self) -> None:
        broken = TEXT.replace("points: 11", "points: many")
        assert loads(broken, overrides=["evaluate.points=3"]).evaluate.points == 3  # type: ignore[union-attr]


class TestProblems:
    def test_a_wrong_value(self) -> None:
        assert message("train.epochs=5.0") == (
            "--set train.epochs=5.0:1:14: train.epochs: expected a whole number, found 5.0\n"
            "    train.epochs=5.0\n"
            "                 ^\n"
            "    = write 5\n"
            "\n"
            "1 problem in --set train.epochs=5.0; nothing was run."
        )

    def test_an_unknown_key(self) -> None:
        assert message("train.epocs=5").splitlines()[:4] == [
            "--set train.epocs=5:1:7: train.epocs: unknown key 'epocs'",
            "    train.epocs=5",
            "          ^",
            "    = did you mean 'epochs'?",
        ]

    def test_a_place_inside_the_value(self) -> None:
        assert message("train={epochs: 3, gama: 1}").splitlines()[0] == (
            "--set train={epochs: 3, gama: 1}:1:19: train.gama: unknown key 'gama'"
        )

    def test_a_mapping_that_the_option_made(self) -> None:
        assert message("networks.c.train.epochs=3").splitlines()[:3] == [
            "--set networks.c.train.epochs=3:1:12: networks.c.train: the field 'seed' is missing",
            "    networks.c.train.epochs=3",
            "               ^",
        ]

    def test_what_is_missing_in_the_file_is_placed_there(self) -> None:
        text = TEXT.replace("name: x\n", "")
        assert message("train.epochs=3", text=text).splitlines()[0] == (
            "f.yaml:1:1: the field 'name' is missing"
        )

    def test_a_problem_beside_the_value_is_placed_in_the_file(self) -> None:
        text = TEXT.replace("points: 11", "points: many")
        assert message("evaluate.batch_size=3", text=text).splitlines()[0] == (
            "f.yaml:8:20: evaluate.points: expected a whole number, found the text 'many'"
        )

    def test_file_and_options_together(self) -> None:
        text = TEXT.replace("points: 11", "points: many")
        lines = message("train.epochs=x", "name", "name=_", text=text).splitlines()
        assert [line for line in lines if not line.startswith(" ") and line] == [
            "f.yaml:8:20: evaluate.points: expected a whole number, found the text 'many'",
            "--set train.epochs=x:1:14: train.epochs: expected a whole number, found the text 'x'",
            "--set name:1:5: expected PATH=VALUE, such as train.epochs=5",
            "--set name=_:1:6: name: expected a name of letters, digits, '.', '_', '-' that starts "
            "with a letter or digit, found the text '_'",
            "4 problems in f.yaml, --set train.epochs=x, --set name, --set name=_; "
            "nothing was run.",
        ]

    @pytest.mark.parametrize(
        ("override", "column"),
        [
            ("", 1),
            ("=1", 1),
            ("train", 6),
            ("train.=1", 7),
            ("train.epochs 5", 13),
            (".a=1", 1),
            ('"a=1', 1),
        ],
    )
    def test_no_path_or_no_value(self, override: str, column: int) -> None:
        assert message(override).splitlines()[0] == (
            f"--set {override}:1:{column}: expected PATH=VALUE, such as train.epochs=5"
        )

    @pytest.mark.parametrize(
        ("override", "line"),
        [
            ("data.root=x", "1:6: data.root: 'data' is the text 'digits' and has no keys"),
            ("name.a.b=x", "1:6: name.a: 'name' is the text 'x' and has no keys"),
            ("gates[1].at_most=0", "1:6: gates[1]: 'gates' is a list of one entry, counted from 0"),
            ("gates.x=0", "1:7: gates.x: 'gates' is a list of one entry, counted from 0"),
        ],
    )
    def test_a_path_that_leads_nowhere(self, override: str, line: str) -> None:
        assert message(override).splitlines()[0] == f"--set {override}:{line}"

    def test_an_index_beyond_a_longer_list(self) -> None:
        text = TEXT.replace("gates:", "  - {name: n, method: linear}\ngates:")
        assert "'merge' is a list of 2 entries, counted from 0" in message(
            "merge.2.name=o", text=text
        )

    def test_a_value_that_is_no_yaml(self) -> None:
        assert message("train={epochs: 3").splitlines()[:3] == [
            "--set train={epochs: 3:1:7: train: the bracket that opens here is never closed",
            "    train={epochs: 3",
            "          ^",
        ]

    def test_an_alias(self) -> None:
        assert "the alias *x is not allowed" in message("train.epochs=*x")

    def test_nothing_that_a_terminal_obeys(self) -> None:
        assert "\x1b" not in message("train.epochs='\x1b[2J'")
        assert message("name=\udcff").splitlines()[0] == (
            "--set name=\ufffd:1:6: name: the character U+DCFF is not allowed in YAML"
        )

    def test_a_file_without_a_mapping_is_the_only_problem(self) -> None:
        assert message("train.epochs=x", text="").endswith("1 problem in f.yaml; nothing was run.")
