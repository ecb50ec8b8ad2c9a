from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergekit_perm import axes, axis_size
from mergekit_perm.axes import Concatenation, Pick, Product, Slice, Whole
from mergekit_perm.axis_text import parse
from mergekit_perm.errors import PermutationSpecError
from tests.group_examples import some_groups
from tests.strategies import LAW, closed_axes, group_sets


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
    assert axis_size.size(parse(text), some_groups()) == size


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
        axis_size.size(parse(text), some_groups())
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
    chosen = axis_size.chosen(Slice(Whole("g"), start, stop, step), length)
    assert chosen.tolist() == list(range(length))[start:stop:step]
    assert chosen.dtype == np.int64


@LAW
@given(st.lists(st.integers(-5, 4), min_size=1, max_size=6))
def test_picks_choose_as_indexing_does(indices: list[int]) -> None:
    chosen = axis_size.chosen(Pick(Whole("g"), tuple(indices)), 5)
    assert chosen.tolist() == [range(5)[i] for i in indices]
    assert chosen.dtype == np.int64


@LAW
@given(st.data())
def test_the_size_of_closed_expressions_adds_up(data: st.DataObject) -> None:
    groups = data.draw(group_sets())
    first, second = (data.draw(closed_axes(groups)) for _ in range(2))
    sizes = axis_size.size(first, groups), axis_size.size(second, groups)
    assert axis_size.size(Product((first, second)), groups) == sizes[0] * sizes[1]
    assert axis_size.size(Concatenation((first, second)), groups) == sum(sizes)
    for axis in (first, second):
        assert axes.names(axis) <= set(groups)
