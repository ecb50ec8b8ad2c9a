from __future__ import annotations

from typing import Any

import pytest

from mergekit_perm.errors import EvaluationError
from mergekit_perm.evaluate.pairs import select, spoke

NAMES = ("a", "b", "c", "d")


@pytest.mark.parametrize(
    ("pairs", "reference", "expected"),
    [
        ("all", None, ["ab", "ac", "ad", "bc", "bd", "cd"]),
        ("none", None, []),
        ("spokes", "b", ["ab", "bc", "bd"]),
        ("far_edges", "b", ["ac", "ad", "cd"]),
        ([["d", "a"], ("b", "c")], None, ["da", "bc"]),
        ([], None, []),
    ],
)
def test_pairs_are_chosen(pairs: Any, reference: str | None, expected: list[str]) -> None:
    assert select(pairs, NAMES, reference=reference) == tuple(tuple(pair) for pair in expected)


def test_a_spoke_contains_the_reference() -> None:
    assert spoke(("a", "b"), "b") is True
    assert spoke(("a", "c"), "b") is False
    assert spoke(("a", "c"), None) is None


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (
            "spoke",
            "no pairs 'spoke' (did you mean 'spokes'?); choose one of all, none, spokes, "
            "far_edges, or list pairs of names",
        ),
        (
            "far_edges",
            "pairs 'far_edges' need a reference among the networks; name one of a, b, c, d, "
            "or choose all",
        ),
        ([["a", "a"]], "a pair is two different networks, not ['a', 'a']"),
        ([["a", "b", "c"]], "a pair is two different networks, not ['a', 'b', 'c']"),
        ([["a", "e"]], "no network 'e'; there is a, b, c, d"),
    ],
)
def test_what_is_refused(pairs: Any, message: str) -> None:
    with pytest.raises(EvaluationError) as error:
        select(pairs, NAMES, reference=None)

    assert str(error.value) == message
