from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergekit_perm.axes import (
    Axis,
    Block,
    Concatenation,
    Fixed,
    Inner,
    Interleaving,
    Pick,
    Product,
    Slice,
    Whole,
)
from mergekit_perm.axis_text import format_axis, is_name, parse
from mergekit_perm.errors import PermutationSpecError
from tests.strategies import LAW, NAMES, expressions

g, h = Whole("g"), Whole("h")

NO_PART = "inner(n, ...) is a whole axis, no part"

EXAMPLES: list[tuple[str | int, Axis, str]] = [
    ("64", Fixed(64), "64"),
    (64, Fixed(64), "64"),
    ("0", Fixed(0), "0"),
    ("_", Fixed(None), "_"),
    (" g ", g, "g"),
    ("blocks.0.mlp", Whole("blocks.0.mlp"), "blocks.0.mlp"),
    ("0.weight", Whole("0.weight"), "0.weight"),
    ("inner", Whole("inner"), "inner"),
    ("inner(g)", Inner("g"), "inner(g)"),
    ("inner ( a.b )", Inner("a.b"), "inner(a.b)"),
    (
        "inner(3, a + interleave(2, b, c))",
        Block(3, Concatenation((Whole("a"), Interleaving(2, (Whole("b"), Whole("c")))))),
        "inner(3, a + interleave(2, b, c))",
    ),
    ("inner * g", Product((Whole("inner"), g)), "inner * g"),
    ("g*49", Product((g, Fixed(49))), "g * 49"),
    ("2 * g * h", Product((Fixed(2), g, h)), "2 * g * h"),
    ("2*(g*h)", Product((Fixed(2), Product((g, h)))), "2 * (g * h)"),
    ("g+g + 5", Concatenation((g, g, Fixed(5))), "g + g + 5"),
    ("g + (h + 5)", Concatenation((g, Concatenation((h, Fixed(5))))), "g + (h + 5)"),
    ("g + h * 2", Concatenation((g, Product((h, Fixed(2))))), "g + h * 2"),
    ("(g + h) * 2", Product((Concatenation((g, h)), Fixed(2))), "(g + h) * 2"),
    ("(g)", g, "g"),
    ("((g + h))", Concatenation((g, h)), "g + h"),
    ("g[1:2]", Slice(g, 1, 2, None), "g[1:2]"),
    ("g[1:2:3]", Slice(g, 1, 2, 3), "g[1:2:3]"),
    ("g[:]", Slice(g, None, None, None), "g[:]"),
    ("g[::]", Slice(g, None, None, None), "g[:]"),
    ("g[::-1]", Slice(g, None, None, -1), "g[::-1]"),
    ("g[-3:]", Slice(g, -3, None, None), "g[-3:]"),
    ("g[:-3]", Slice(g, None, -3, None), "g[:-3]"),
    ("g[ 1 : : 2 ]", Slice(g, 1, None, 2), "g[1::2]"),
    ("g[[2, 0,1]]", Pick(g, (2, 0, 1)), "g[[2, 0, 1]]"),
    ("g[[-1]]", Pick(g, (-1,)), "g[[-1]]"),
    ("g[1:][[0]]", Pick(Slice(g, 1, None, None), (0,)), "g[1:][[0]]"),
    ("(g * 2)[::2]", Slice(Product((g, Fixed(2))), None, None, 2), "(g * 2)[::2]"),
    ("(g + h)[[0]]", Pick(Concatenation((g, h)), (0,)), "(g + h)[[0]]"),
    ("64[:3] + g", Concatenation((Slice(Fixed(64), None, 3, None), g)), "64[:3] + g"),
    ("g * h[:1]", Product((g, Slice(h, None, 1, None))), "g * h[:1]"),
    (
        "interleave(2,g,h+5)",
        Interleaving(2, (g, Concatenation((h, Fixed(5))))),
        "interleave(2, g, h + 5)",
    ),
    ("interleave * 2", Product((Whole("interleave"), Fixed(2))), "interleave * 2"),
    ("inner(g)[[1, 0]] * 9", Product((Pick(Inner("g"), (1, 0)), Fixed(9))), "inner(g)[[1, 0]] * 9"),
]


@pytest.mark.parametrize(("text", "axis", "formatted"), EXAMPLES)
def test_parse_and_format(text: str | int, axis: Axis, formatted: str) -> None:
    assert parse(text) == axis
    assert format_axis(axis) == formatted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "an axis is empty: write a number, a group, or `_`"),
        ("  ", "an axis is empty: write a number, a group, or `_`"),
        ("g ?", "axis 'g ?', column 3: this character has no meaning here"),
        ("  {i}", "axis '  {i}', column 3: this character has no meaning here"),
        ("g.", "axis 'g.', column 2: this character has no meaning here"),
        ("g h", "axis 'g h', column 3: expected '+', '*', '[' or the end"),
        ("conv-1", "axis 'conv-1', column 5: expected '+', '*', '[' or the end"),
        ("g)", "axis 'g)', column 2: expected '+', '*', '[' or the end"),
        ("g +", "axis 'g +', column 4: expected a number, a group name or '('"),
        ("+ g", "axis '+ g', column 1: expected a number, a group name or '('"),
        ("g * * h", "axis 'g * * h', column 5: expected a number, a group name or '('"),
        ("-3", "axis '-3', column 1: expected a number, a group name or '('"),
        ("(g", "axis '(g', column 3: expected ')'"),
        ("(g h)", "axis '(g h)', column 4: expected ')'"),
        ("inner(g", "axis 'inner(g', column 8: expected ')'"),
        ("inner(", "axis 'inner(', column 7: expected a group name"),
        ("inner(64)", "axis 'inner(64)', column 9: expected ','"),
        (
            "inner(2",
            "axis 'inner(2', column 8: expected ','; in YAML, text with commas is quoted",
        ),
        ("inner(0, g)", "axis 'inner(0, g)', column 7: expected a number of blocks"),
        ("inner(2, g", "axis 'inner(2, g', column 11: expected ')'"),
        ("inner(2, g) + 1", f"axis 'inner(2, g) + 1': {NO_PART}"),
        ("inner(2, inner(2, g))", f"axis 'inner(2, inner(2, g))': {NO_PART}"),
        ("inner(g + h)", "axis 'inner(g + h)', column 9: expected ')'"),
        (
            "interleave(g)",
            "axis 'interleave(g)', column 12: expected a number of blocks",
        ),
        (
            "interleave(0, g)",
            "axis 'interleave(0, g)', column 12: expected a number of blocks",
        ),
        ("interleave(2)", "axis 'interleave(2)', column 12: nothing to interleave"),
        ("interleave(2, g", "axis 'interleave(2, g', column 16: expected ')'"),
        ("interleave(", "axis 'interleave(', column 12: expected a number of blocks"),
        ("g[3]", "axis 'g[3]', column 4: expected ':'"),
        ("g[]", "axis 'g[]', column 3: expected ':'"),
        ("g[", "axis 'g[', column 3: expected ':'"),
        ("g[1:2", "axis 'g[1:2', column 6: expected ']'"),
        ("g[1:2:3:4]", "axis 'g[1:2:3:4]', column 8: expected ']'"),
        ("g[h:]", "axis 'g[h:]', column 3: expected ':'"),
        ("g[[]]", "axis 'g[[]]', column 4: expected a whole number"),
        ("g[[0,", "axis 'g[[0,', column 6: expected a whole number"),
        ("g[[0 1]]", "axis 'g[[0 1]]', column 6: expected ']'"),
        ("g[[0]", "axis 'g[[0]', column 6: expected ']'"),
        ("g[[0, h]]", "axis 'g[[0, h]]', column 7: expected a whole number"),
        ("2 + " + "1" * 16, f"axis '2 + {'1' * 16}', column 5: this number is too large"),
    ],
)
def test_text_that_makes_no_sense(text: str, message: str) -> None:
    with pytest.raises(PermutationSpecError) as caught:
        parse(text)
    assert str(caught.value) == message


def test_brackets_nest_to_64_and_no_further() -> None:
    assert parse("(" * 64 + "g" + ")" * 64) == g
    chain = parse("g" + "[:]" * 64)
    assert format_axis(chain) == "g" + "[:]" * 64
    assert parse(" + ".join(["(g)[:]"] * 100)) == Concatenation((Slice(g, None, None, None),) * 100)
    for text, column in (("(" * 99 + "g" + ")" * 99, 65), ("g" + "[:]" * 65, 194)):
        with pytest.raises(PermutationSpecError) as caught:
            parse(text)
        message = str(caught.value)
        assert message.endswith(f", column {column}: brackets more than 64 deep")
        assert message.startswith(f"axis '{text[:100]}…'")


@LAW
@given(expressions())
def test_parse_undoes_format(axis: Axis) -> None:
    assert parse(format_axis(axis)) == axis


@LAW
@given(expressions(), st.sampled_from(["", " ", "  "]))
def test_spaces_do_not_matter(axis: Axis, space: str) -> None:
    spaced = format_axis(axis)
    for mark in "+*()[]:,":
        spaced = spaced.replace(mark, f"{space}{mark}{space}")
    assert parse(spaced) == axis


@LAW
@given(st.text(alphabet="g1_ .+*()[]:,-inner", max_size=20))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        axis = parse(text)
    except PermutationSpecError as error:
        assert str(error).startswith(("axis '", "an axis is empty"))
    else:
        assert parse(format_axis(axis)) == axis


@pytest.mark.parametrize(
    ("name", "usable"),
    [
        *((name, True) for name in NAMES),
        ("_", False),
        ("", False),
        ("64", False),
        ("-1", False),
        ("a-b", False),
        ("a b", False),
        ("a.", False),
        (".a", False),
        ("2x", False),
        ("a\n", False),
        ("(", False),
    ],
)
def test_is_name(name: str, usable: bool) -> None:
    assert is_name(name) is usable
