from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergekit_perm import axes
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
    format_axis,
    parse,
)
from mergekit_perm.errors import PermutationSpecError
from mergekit_perm.groups import Group, Groups
from tests.strategies import LAW, NAMES, closed_axes, expressions, group_sets

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
    assert axes.is_name(name) is usable


# --------------------------------------------------------------------------------- structure

DEEP = parse("a * (3 + inner(b)) + c[1:][[0]] + a")


def test_leaves_and_names() -> None:
    a, b, c = Whole("a"), Inner("b"), Whole("c")
    assert list(axes.leaves(DEEP)) == [a, Fixed(3), b, c, a]
    assert axes.names(DEEP) == {"a", "b", "c"}
    assert axes.names(Fixed(3)) == set()


def test_inner_group() -> None:
    assert axes.inner_group(DEEP) == "b"
    assert axes.inner_group(parse("a + c * 2")) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a + c", False), ("inner(b)", True), ("2 + inner(b)", True), ("inner(2, a + c)", True)],
)
def test_has_inner(text: str, expected: bool) -> None:
    assert axes.has_inner(parse(text)) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("g", False),
        ("3", False),
        ("inner(g)", False),
        ("g * 2 + h", False),
        ("g[:]", True),
        ("2 * (h + g[[0]])", True),
    ],
)
def test_has_part(text: str, expected: bool) -> None:
    assert axes.has_part(parse(text)) is expected


VALUES = [*axes.leaves(DEEP), DEEP, *map(parse, ("g[1:]", "g[[0]]", "g * h")), Group("g", 2)]


@pytest.mark.parametrize("value", VALUES)
def test_expressions_and_groups_are_frozen_small_values(value: Any) -> None:
    assert len({value, value}) == 1
    assert not hasattr(value, "__dict__")
    with pytest.raises(FrozenInstanceError):
        setattr(value, fields(value)[0].name, None)


def some_groups() -> Groups:
    listed = [
        Group("vo", 5, "heads"),
        Group("g", 4),
        Group("heads", 3),
        Group("deep", 2, "vo"),
        Group("qk", 2, "heads"),
    ]
    return Groups({group.name: group for group in listed})


def test_groups_know_lengths_chains_children_and_labels() -> None:
    groups = some_groups()
    assert {name: groups.length(name) for name in groups} == {
        "vo": 15,
        "g": 4,
        "heads": 3,
        "deep": 30,
        "qk": 6,
    }
    assert groups.offsets == {"vo": 0, "g": 15, "heads": 19, "deep": 22, "qk": 52}
    assert groups.total == 58
    assert [group.name for group in groups.chain("deep")] == ["deep", "vo", "heads"]
    assert groups.children("heads") == ["vo", "qk"]
    assert groups.children("g") == []
    assert groups.top() == ["g", "heads"]
    assert len(groups) == 5


def test_groups_are_a_mapping_that_names_what_is_missing() -> None:
    groups = some_groups()
    assert "heads" in groups
    assert "head" not in groups
    assert groups == some_groups()
    assert groups != Groups({})
    with pytest.raises(PermutationSpecError) as caught:
        groups["head"]
    assert str(caught.value) == "no group 'head' (did you mean 'heads'?)"


def test_a_group_within_an_unknown_one() -> None:
    with pytest.raises(PermutationSpecError) as caught:
        Groups({"a": Group("a", 2, "bb"), "b": Group("b", 2)})
    assert str(caught.value) == "no group 'bb' (did you mean 'b'?)"


def test_a_group_within_itself() -> None:
    for circle in (
        {"b": Group("b", 2, "b")},
        {"a": Group("a", 2, "b"), "b": Group("b", 2, "c"), "c": Group("c", 2, "b")},
    ):
        with pytest.raises(PermutationSpecError) as caught:
            Groups(circle)
        assert str(caught.value) == "group 'b' lies within itself"


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64", 64),
        ("g", 4),
        ("qk", 6),
        ("deep", 30),
        ("inner(qk)", 2),
        ("inner(deep)", 2),
        ("inner(2, g)", 2),
        ("inner(5, qk + g)", 2),
        ("g * 49", 196),
        ("g * heads * 2", 24),
        ("g + qk + 5", 15),
        ("g[1:]", 3),
        ("g[::-2]", 2),
        ("g[9:]", 0),
        ("(g + heads)[[6, -7, 0]]", 3),
        ("1000000000000[3:6] * 2", 6),
        ("3000000000 * 4000000000", 12 * 10**18),
    ],
)
def test_size(text: str, size: int) -> None:
    assert axes.size(parse(text), some_groups()) == size


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("_ + g", "`_` stands for a whole axis; it cannot be part of an expression"),
        ("gg", "no group 'gg' (did you mean 'g'?)"),
        ("inner(g)", "inner(g): 'g' is not nested (it has no `within`)"),
        ("inner(qkk)", "no group 'qkk' (did you mean 'qk'?)"),
        ("(g + 1)[::0]", "(g + 1)[::0]: the step of a slice cannot be 0"),
        ("interleave(2, g, 3)", "3 coordinates cannot be cut into 2 blocks"),
        ("inner(3, g)", "4 coordinates cannot be cut into 3 blocks"),
        ("g[[0, 4]]", "g[[0, 4]]: index 4 is outside 0..3"),
        ("g[[-5]]", "g[[-5]]: index -5 is outside 0..3"),
    ],
)
def test_expressions_without_a_size(text: str, message: str) -> None:
    with pytest.raises(PermutationSpecError) as caught:
        axes.size(parse(text), some_groups())
    assert str(caught.value) == message


@LAW
@given(
    st.integers(0, 9),
    st.none() | st.integers(-9, 9),
    st.none() | st.integers(-9, 9),
    st.integers(1, 3),
    st.booleans(),
)
def test_slices_choose_as_python_does(
    length: int, start: int | None, stop: int | None, step: int, back: bool
) -> None:
    step = -step if back else step
    chosen = axes.chosen(Slice(g, start, stop, step), length)
    assert chosen.tolist() == list(range(length))[start:stop:step]
    assert chosen.dtype == np.int64


@LAW
@given(st.lists(st.integers(-5, 4), min_size=1, max_size=6))
def test_picks_choose_as_indexing_does(indices: list[int]) -> None:
    chosen = axes.chosen(Pick(g, tuple(indices)), 5)
    assert chosen.tolist() == [range(5)[i] for i in indices]
    assert chosen.dtype == np.int64


@LAW
@given(st.data())
def test_the_size_of_closed_expressions_adds_up(data: st.DataObject) -> None:
    groups = data.draw(group_sets())
    first, second = (data.draw(closed_axes(groups)) for _ in range(2))
    sizes = axes.size(first, groups), axes.size(second, groups)
    assert axes.size(Product((first, second)), groups) == sizes[0] * sizes[1]
    assert axes.size(Concatenation((first, second)), groups) == sum(sizes)
    for axis in (first, second):
        assert axes.names(axis) <= set(groups)
