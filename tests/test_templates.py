from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergekit_perm.errors import PermutationSpecError
from mergekit_perm.templates import expansions, substitute
from tests.strategies import LAW


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("head.weight", [("head.weight", {})]),
        ("", [("", {})]),
        ("b.{i:0..2}.w", [(f"b.{i}.w", {"i": i}) for i in (0, 1, 2)]),
        ("b.{i:3}", [("b.3", {"i": 3})]),
        ("b.{i:0, 2,5..6}", [(f"b.{i}", {"i": i}) for i in (0, 2, 5, 6)]),
        (
            "b.{i:1..2}.to.{i+1}.from.{i-1}",
            [("b.1.to.2.from.0", {"i": 1}), ("b.2.to.3.from.1", {"i": 2})],
        ),
        (
            "s{i:0..1}.b{j:4..5}",
            [
                ("s0.b4", {"i": 0, "j": 4}),
                ("s0.b5", {"i": 0, "j": 5}),
                ("s1.b4", {"i": 1, "j": 4}),
                ("s1.b5", {"i": 1, "j": 5}),
            ],
        ),
    ],
)
def test_expansions(key: str, expected: list[tuple[str, dict[str, int]]]) -> None:
    assert list(expansions(key)) == expected


@pytest.mark.parametrize("text", ["a..b", "", "3..1", "1..", "-1..2", "0...2", "1;2", "9999999999"])
def test_ranges_that_cannot_be_read(text: str) -> None:
    with pytest.raises(PermutationSpecError) as caught:
        list(expansions(f"b.{{i:{text}}}.w"))
    assert str(caught.value) == (
        f"{{i:{text}}}: expected a range such as 0..11, or a list such as 0,2,5..7"
    )


def test_an_index_that_is_not_declared() -> None:
    expected = (
        "'b.{j}': index 'j' is not declared; the key of the entry declares it, as in {j:0..11}"
    )
    with pytest.raises(PermutationSpecError) as caught:
        substitute("b.{j}", {"i": 1})
    assert str(caught.value) == expected
    with pytest.raises(PermutationSpecError) as caught:
        list(expansions("b.{j}"))
    assert str(caught.value) == expected


def test_an_index_declared_twice() -> None:
    with pytest.raises(PermutationSpecError) as caught:
        list(expansions("s{i:0..1}.b{i:0..3}"))
    assert str(caught.value) == "'s{i:0..1}.b{i:0..3}': index 'i' is declared twice"


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("b{i:0..100000}", "{i:0..100000}: more than 100,000 numbers"),
        ("b{i:0..99999,1}", "{i:0..99999,1}: more than 100,000 numbers"),
        ("b{i:0..399}{j:0..399}", "'b{i:0..399}{j:0..399}' stands for more than 100,000 names"),
    ],
)
def test_a_slip_in_a_range_does_not_fill_the_memory(key: str, expected: str) -> None:
    with pytest.raises(PermutationSpecError) as caught:
        list(expansions(key))
    assert str(caught.value) == expected


def test_as_many_names_as_allowed() -> None:
    assert sum(1 for _ in expansions("b{i:1..100000}")) == 100_000


@LAW
@given(st.integers(0, 50), st.integers(0, 20), st.integers(-9, 9))
def test_offsets_are_added(first: int, count: int, offset: int) -> None:
    key = f"x{{i:{first}..{first + count}}}.{{i{offset:+d}}}"
    assert [name for name, _ in expansions(key)] == [
        f"x{i}.{i + offset}" for i in range(first, first + count + 1)
    ]


def test_text_without_indices_stays() -> None:
    assert substitute("a * b[0:2] + {", {"i": 1}) == "a * b[0:2] + {"
