from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from mergekit_perm import yaml_document
from mergekit_perm.errors import SpecError
from mergekit_perm.yaml_document import (
    MAX_BYTES,
    Document,
    Problem,
    counted,
    dotted,
    dump,
    parse,
    read,
    read_file,
    render,
    render_all,
)
from mergekit_perm.yaml_reader import MAX_DEPTH

TEXT = """\
name: one
list:
  - 1
  - {two: 2, three:  3}
empty:
nested:
  deeper: [a, b]
"""


def message(text: str, *, file: str = "f.yaml") -> str:
    with pytest.raises(SpecError) as caught:
        read(text, file=file)
    return str(caught.value)


def first_line(text: str) -> str:
    return message(text).splitlines()[0]


class TestScalars:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("1e-3", 0.001),
            ("1.0e-4", 1e-4),
            (".5", 0.5),
            ("5.", 5.0),
            ("-2E+3", -2000.0),
            ("12", 12),
            ("-7", -7),
            ("+7", 7),
            ("010", 10),
            ("0o17", 15),
            ("0xfF", 255),
            ("true", True),
            ("FALSE", False),
            ("~", None),
            ("Null", None),
            ("", None),
            ("-.inf", -math.inf),
            (".INF", math.inf),
            ("on", "on"),
            ("yes", "yes"),
            ("tRue", "tRue"),
            ("1_000", "1_000"),
            ("2024-01-01", "2024-01-01"),
            ("12:30:45", "12:30:45"),
            ("0b11", "0b11"),
            ("-0x1f", "-0x1f"),
            ("1e", "1e"),
            (".", "."),
            ("+.nan", "+.nan"),
            ("'5'", "5"),
            ('"true"', "true"),
        ],
    )
    def test_core_schema(self, text: str, value: object) -> None:
        found = read(f"key: {text}\n", file="f").data["key"]
        assert found == value
        assert type(found) is type(value)

    def test_not_a_number(self) -> None:
        assert math.isnan(read("[.nan]", file="f").data[0])

    def test_block_text(self) -> None:
        assert read("a: |\n  1\n  2\n", file="f").data == {"a": "1\n2\n"}

    def test_keys_are_text(self) -> None:
        assert read("{1: a, true: b, 1e-3: c, null: d}", file="f").data == {
            "1": "a",
            "true": "b",
            "1e-3": "c",
            "null": "d",
        }

    def test_a_long_whole_number_is_refused(self) -> None:
        assert read("9" * 100, file="f").data == int("9" * 100)
        assert first_line("a: " + "9" * 101) == "f.yaml:1:4: a: a number with more than 100 digits"


class TestPositions:
    document = read(TEXT, file="f")

    @pytest.mark.parametrize(
        ("path", "key", "value"),
        [
            (("name",), (1, 1), (1, 7)),
            (("list",), (2, 1), (3, 3)),
            (("list", 0), (3, 5), (3, 5)),
            (("list", 1), (4, 5), (4, 5)),
            (("list", 1, "three"), (4, 14), (4, 22)),
            (("empty",), (5, 1), (5, 7)),
            (("nested", "deeper", 1), (7, 15), (7, 15)),
            ((), (1, 1), (1, 1)),
        ],
    )
    def test_of_what_is_there(self, path: tuple[Any, ...], key: object, value: object) -> None:
        assert self.document.position(path, key=True) == key
        assert self.document.position(path) == value

    def test_of_what_is_missing_is_that_of_its_nearest_ancestor(self) -> None:
        assert self.document.position(("nested", "deeper", 7, "x")) == (7, 11)
        assert self.document.position(("nested", "other"), key=True) == (6, 1)
        assert self.document.position(("other", 1)) == (1, 1)

    def test_of_an_empty_file(self) -> None:
        document = read("", file="f")
        assert document.data is None
        assert document.position(("a",)) == (1, 1)

    def test_a_leading_comment_moves_the_root(self) -> None:
        assert read("# one\n\na: 1\n", file="f").position(()) == (3, 1)

    def test_a_byte_order_mark_takes_no_column(self) -> None:
        document = read("\ufeffa: 1\n", file="f")
        assert document.data == {"a": 1}
        assert document.position(("a",), key=True) == (1, 1)

    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\x85", "\u2028"])
    def test_line_ends(self, end: str) -> None:
        document = read(f"a: 1{end}b:  2{end}", file="f")
        assert document.position(("b",)) == (2, 5)
        shown = render(document, [Problem(("b",), "no")], footer="end")
        assert shown == "f:2:5: b: no\n    b:  2\n        ^\n\nend"


class TestRefusals:
    @pytest.mark.parametrize(
        ("text", "line"),
        [
            ("a: 1\na: 2\n", "2:1: a: the key 'a' is given twice; first at line 1, column 1"),
            (
                "x: {a: 1, 'a': 2}",
                "1:11: x.a: the key 'a' is given twice; first at line 1, column 5",
            ),
            ("1: x\n'1': y", "2:1: 1: the key '1' is given twice; first at line 1, column 1"),
            ("x: {[1]: 2}", "1:5: x: a key must be text, found a list"),
            ("? {a: 1}\n: 2", "1:3: a key must be text, found a mapping"),
            ('{"": 1}', "1:2: a key is empty"),
            ("a: &one 1", "1:4: a: the anchor &one is not allowed"),
            ("&key a: 1", "1:1: the anchor &key is not allowed"),
            ("a: *one", "1:4: a: the alias *one is not allowed"),
            ("*one : 1", "1:1: the alias *one is not allowed"),
            ("*one", "1:1: the alias *one is not allowed"),
            ("a: !!str 1", "1:4: a: the tag !!str is not allowed"),
            ("a: ! 1", "1:4: a: the tag ! is not allowed"),
            ("a: !own [1]", "1:4: a: the tag !own is not allowed"),
            ("a: 1\n---\nb: 1", "2:1: a second document starts here; one file holds one"),
            (r'a: "\ud800"', "1:4: a: an escape names half a character (a surrogate)"),
            (
                r'a: 1\nb: "\UFFFFFFFF"'.replace(r"\n", "\n"),
                r"2:5: a \U escape in double quotes names no character",
            ),
            ("a: \x07", "1:4: the character U+0007 is not allowed in YAML"),
            ("a: 1\nb: \ud800", "2:4: the character U+D800 is not allowed in YAML"),
            ("a:\n\tb: 1", "2:1: a tab cannot be used here"),
            ("a: @b", "1:4: a value cannot start with @"),
            ("a: `b`", "1:4: a value cannot start with `"),
            ("a: b: c", "1:5: a ':' is not allowed here"),
            (
                "a: 1\nb\nc: 1",
                "2:1: this line is neither a 'key: value' nor part of the value above",
            ),
            ("a: 'b", "1:4: the quote that opens here is never closed"),
            ('a: "b\n--- c', "1:4: the quote that opens here is never closed"),
            (
                "a: [b, c\nd: 1",
                "2:2: a ',' or ']' is missing here; the bracket opens at line 1, column 4",
            ),
            (
                "a: {b: 1 c: 2",
                "1:11: a ',' or '}' is missing here; the bracket opens at line 1, column 4",
            ),
            ("a: [", "1:5: a value is missing here"),
            ("a: [b, c", "1:4: the bracket that opens here is never closed"),
            ("a:\n  b: 1\n c: 2", "3:2: this line does not fit the lines above it"),
            ("- 1\nb: 2", "2:1: this line does not fit the lines above it"),
            ("a: *", "1:4: text that starts with '*' or '&' needs quotes"),
            (r'a: "\d"', "1:6: a backslash before d means nothing in double quotes"),
            ("a: ]", "1:4: a value is missing here"),
            (
                "%YAML 3.0\n---\na: 1",
                "1:1: this is not YAML: found incompatible YAML document (version 1.* is required)",
            ),
        ],
    )
    def test_first_line(self, text: str, line: str) -> None:
        assert first_line(text) == f"f.yaml:{line}"

    def test_all_at_once_with_their_lines(self) -> None:
        assert message("b: *one\na: &two 2\nb: [3\n  ]\n") == (
            "f.yaml:1:4: b: the alias *one is not allowed\n"
            "    b: *one\n"
            "       ^\n"
            "    = write the value out; text that starts with '*' needs quotes\n"
            "\n"
            "f.yaml:2:4: a: the anchor &two is not allowed\n"
            "    a: &two 2\n"
            "       ^\n"
            "    = remove it; text that starts with '&' needs quotes\n"
            "\n"
            "f.yaml:3:1: b: the key 'b' is given twice; first at line 1, column 1\n"
            "    b: [3\n"
            "    ^\n"
            "    = remove one of the two\n"
            "\n"
            "3 problems in f.yaml"
        )

    def test_what_is_left_can_be_used(self) -> None:
        document, problems = parse("a: 1\na: 2\n[x]: [3, {y: 4}]\nb: *c\nd: &e 5\n", file="f")
        assert document.data == {"a": 1, "b": None, "d": 5}
        assert len(problems) == 4

    def test_nothing_is_left_of_what_is_no_yaml(self) -> None:
        document, problems = parse("a: 1\nb: [c", file="f")
        assert document.data is None
        assert [problem.at for problem in problems] == [(2, 4)]

    @pytest.mark.parametrize(("before", "after"), [("[", "]"), ("{a: ", "}"), ("- ", "")])
    def test_depth(self, before: str, after: str) -> None:
        allowed = before * MAX_DEPTH + "1" + after * MAX_DEPTH
        data, depth = read(allowed, file="f").data, 0
        while isinstance(data, list | dict):
            data, depth = data[0] if isinstance(data, list) else data["a"], depth + 1
        assert (data, depth) == (1, MAX_DEPTH)
        column = len(before) * MAX_DEPTH + 1
        assert first_line(before + allowed + after) == (
            f"f.yaml:1:{column}: lists and mappings are nested more than 64 deep"
        )

    @pytest.mark.parametrize("text", ["[" * 400_000, "? " + "[" * 400_000, "{" * 400_000])
    def test_extreme_depth_ends_early(self, text: str) -> None:
        assert "lists and mappings are nested more than 64 deep" in message(text)

    def test_size(self) -> None:
        fits = "# " + "x" * (MAX_BYTES - 2)
        assert read(fits, file="f").data is None
        assert first_line(fits + "x") == "f.yaml:1:1: the file has more than 1,000,000 bytes"
        assert first_line("# " + "é" * (MAX_BYTES // 2)) == (
            "f.yaml:1:1: the file has more than 1,000,000 bytes"
        )

    def test_a_billion_laughs(self) -> None:
        lines = ["a0: &a0 [x, x]"]
        lines += [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40)]
        assert message("\n".join(lines)).endswith("\n118 problems in f.yaml")

    @given(
        st.text(alphabet=st.characters(codec="utf-8"), max_size=60)
        | st.text("[]{}:,-?&*!|>'\"%@`# \n\ta1\\U", max_size=40)
    )
    def test_any_text_is_read_or_refused_in_words(self, text: str) -> None:
        document, problems = parse(text, file="f")
        shown = render(document, problems, footer="end")
        assert shown.endswith("end")
        assert shown.count("f:") >= len(problems)
        assert all(line.isprintable() for line in shown.splitlines())


class TestFiles:
    def test_read_file(self, tmp_path: Path) -> None:
        path = tmp_path / "f.yaml"
        path.write_bytes(b"\xef\xbb\xbfname: \xc3\xa9\n")
        document = read_file(path)
        assert document.data == {"name": "é"}
        assert document.file == str(path)

    def test_a_file_that_is_missing(self, tmp_path: Path) -> None:
        path = tmp_path / "f.yaml"
        with pytest.raises(SpecError) as caught:
            read_file(path)
        assert str(caught.value) == f"{path}: cannot be read: no such file or directory"

    def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(SpecError) as caught:
            read_file(tmp_path)
        assert str(caught.value) == f"{tmp_path}: cannot be read: is a directory"

    def test_an_error_of_the_system_without_words(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*args: object, **options: object) -> None:
            raise OSError

        monkeypatch.setattr(Path, "open", fail)
        with pytest.raises(SpecError) as caught:
            read_file(tmp_path / "f")
        assert str(caught.value) == f"{tmp_path / 'f'}: cannot be read: oserror"

    def test_bytes_that_are_not_utf_8(self, tmp_path: Path) -> None:
        path = tmp_path / "f.yaml"
        path.write_bytes("a: 1\nb: é\n".encode("latin-1"))
        with pytest.raises(SpecError) as caught:
            read_file(path)
        assert str(caught.value) == (
            f"{path}:2:4: byte 0xe9 is not UTF-8; save the file with the encoding UTF-8"
        )

    def test_a_huge_file_is_not_read_whole(self, tmp_path: Path) -> None:
        path = tmp_path / "f.yaml"
        with path.open("wb") as stream:
            stream.truncate(10**9)
        with pytest.raises(SpecError, match="the file has more than 1,000,000 bytes"):
            read_file(path)


class TestRender:
    document = read(TEXT, file="f.yaml")

    def test_order_and_hints(self) -> None:
        problems = [
            Problem(("nested",), "second", "do this", key=True),
            Problem(("list", 1, "two"), "first"),
        ]
        assert render(self.document, problems, footer="2 problems") == (
            "f.yaml:4:11: list[1].two: first\n"
            "      - {two: 2, three:  3}\n"
            "              ^\n"
            "\n"
            "f.yaml:6:1: nested: second\n"
            "    nested:\n"
            "    ^\n"
            "    = do this\n"
            "\n"
            "2 problems"
        )

    def test_a_place_of_its_own(self) -> None:
        assert render(self.document, [Problem((), "here", at=(2, 3))], footer="end") == (
            "f.yaml:2:3: here\n    list:\n      ^\n\nend"
        )

    def test_a_line_without_text_is_not_shown(self) -> None:
        document = Document(None, "f", "a:\n\n", {})
        assert render(document, [Problem((), "m", at=(2, 1))], footer="end") == "f:2:1: m\n\nend"

    def test_documents_stay_together(self) -> None:
        other = read("b: 1\n", file="other")
        findings = [
            (self.document, Problem(("nested",), "late")),
            (other, Problem(("b",), "else")),
            (self.document, Problem(("name",), "early")),
        ]
        lines = render_all(findings, footer="end").splitlines()
        assert [line for line in lines if line.endswith(("early", "late", "else"))] == [
            "f.yaml:1:7: name: early",
            "f.yaml:7:3: nested: late",
            "other:1:4: b: else",
        ]

    def test_a_long_line_is_cut_around_the_column(self) -> None:
        text = "a: 1 # " + "x" * 200 + "y" + "z" * 200
        shown = render(read(text, file="f"), [Problem((), "m", at=(1, 208))], footer="end")
        source, caret = shown.splitlines()[1:3]
        assert source == "    …" + "x" * 75 + "y" + "z" * 24 + "…"
        assert source[caret.index("^")] == "y"

    def test_nothing_that_a_terminal_obeys(self) -> None:
        document = read('"\\e[2J": 1 #\tx', file="f\x1b")
        shown = render(document, [Problem(("\x1b[2J",), "found \x1b\n", "use \x07")], footer="end")
        assert "\x1b" not in shown
        assert "\x07" not in shown
        assert shown.splitlines()[:3] == [
            "f\ufffd:1:10: '\\x1b[2J': found \ufffd\ufffd",
            '    "\\e[2J": 1 # x',
            "             ^",
        ]

    def test_dotted(self) -> None:
        assert dotted(("merge", 0, "parameters", "a.b")) == "merge[0].parameters.a.b"
        assert dotted(("a b", "c\n")) == "'a b'.'c\\n'"
        assert dotted(("x" * 101,)) == "x" * 100 + "…"
        assert dotted(()) == ""

    def test_counted(self) -> None:
        assert [counted([0] * n) for n in (0, 1, 2)] == ["0 problems", "1 problem", "2 problems"]


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(alphabet=st.characters(codec="utf-8"), max_size=12)
    | st.sampled_from(
        ["1e-3", "on", "~", "", "0o7", "0x1", ".inf", "1_0", "2024-01-01", "#", "- a"]
    )
)
KEYS = st.text(alphabet=st.characters(codec="utf-8"), min_size=1, max_size=8)
DATA = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


class TestDump:
    @given(DATA, st.booleans())
    def test_is_read_back_equal(self, data: Any, flow: bool) -> None:
        text = dump(data, flow=flow)
        found = read(text, file="f").data
        assert found == data
        assert repr(found) == repr(data)  # 1 is no True and no 1.0

    @example("0...")
    @given(SCALARS.filter(lambda value: isinstance(value, str)))
    def test_text_is_text_for_readers_of_yaml_1_1_too(self, text: str) -> None:
        assert yaml.safe_load(dump({"a": text})) == {"a": text}

    def test_layout(self) -> None:
        data = {"b": 1e-9, "a": [1, 2], "c": ({"d": "on"}, {}), "e": "1e-3"}
        assert dump(data) == "b: 1.0e-09\na: [1, 2]\nc:\n- d: 'on'\n- {}\ne: '1e-3'\n"
        assert dump(data, flow=True) == "{b: 1.0e-09, a: [1, 2], c: [{d: 'on'}, {}], e: '1e-3'}\n"

    def test_the_module_keeps_its_promises(self) -> None:
        for name in yaml_document.__all__:
            assert getattr(yaml_document, name) is not None
