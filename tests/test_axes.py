from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest

from mergekit_perm import axes
from mergekit_perm.axes import Fixed, Inner, Whole
from mergekit_perm.axis_text import parse
from mergekit_perm.groups import Group

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
