"""Axes as expressions: what is read has the coordinates, and moves as the facts say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergekit_perm import axes, axis_action
from mergekit_perm.axes import Axis, Fixed, Product, Whole
from mergekit_perm.axis_text import format_axis, parse
from mergekit_perm.derive.cells import find_cells
from mergekit_perm.derive.facts import Facts
from mergekit_perm.derive.naming import group_names
from mergekit_perm.derive.readout import Reader, expression, pieces
from mergekit_perm.derive.structure import find_structure
from mergekit_perm.groups import Group, Groups
from tests.strategies import LAW

GROUPS = Groups({"g": Group("g", 4), "h": Group("h", 3)})
BASES: list[tuple[Axis, int]] = [
    (Whole("g"), 4),
    (Whole("h"), 3),
    (Product((Whole("g"), Whole("h"))), 12),
    (Product((Whole("h"), Fixed(2))), 6),
]


def text(terms: list[Axis]) -> str:
    return " + ".join(map(format_axis, terms))


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        ([0, 1, 2, 3], "g"),
        ([0, 1, 2, 3] * 2, "g + g"),
        ([0, 1, 2, 3] * 3, "3 * g"),
        ([0, 0, 1, 1, 2, 2, 3, 3], "g * 2"),
        ([1, 2], "g[1:3]"),
        ([3], "g[3:4]"),
        ([0, 2], "g[0:3:2]"),
        ([3, 2, 1, 0], "g[3::-1]"),
        ([3, 1], "g[3:0:-2]"),
        ([2, 3, 0, 1], "g[2:4] + g[0:2]"),
        ([0, 1, 2, 3, 2, 3], "g + g[2:4]"),
        ([1, 0, 3, 2], "g[[1, 0, 3, 2]]"),
        ([2, 2], "g[[2, 2]]"),
    ],
)
def test_pieces(index: list[int], expected: str) -> None:
    assert text(pieces((Whole("g"), 4), np.array(index))) == expected


def test_pieces_of_many_coordinates_are_listed() -> None:
    index = np.arange(200).reshape(20, 10)[::-1].reshape(-1)
    (term,) = pieces((Whole("g"), 200), index)
    assert isinstance(term, axes.Pick) and list(term.indices) == index.tolist()
    assert text(pieces((Fixed(5), 5), np.arange(3))) == "3"


def read(number: list[int], code: list[int], kinds: list[int] | None = None) -> str:
    used = list(dict.fromkeys(number))
    return format_axis(
        expression(
            [BASES[base] for base in used],
            np.array([used.index(base) for base in number]),
            np.array(code),
            np.array(kinds or [0] * len(code), dtype=np.uint64),
        )
    )


@pytest.mark.parametrize(
    ("number", "code", "kinds", "expected"),
    [
        ([0, 0, 0, 0, 1, 1, 1], [0, 1, 2, 3, 0, 1, 2], None, "g + h"),
        ([2] * 12, list(range(12)), None, "g * h"),
        # q and k of two heads of two dimensions, turn by turn
        ([0] * 8, [0, 1, 0, 1, 2, 3, 2, 3], [0, 0, 1, 1] * 2, "interleave(2, g, g)"),
        ([0, 0, 3] * 2, [0, 1, 0, 2, 3, 1], None, "interleave(2, g, (h * 2)[0:2])"),
        # the second occurrence of one coordinate moves to the first one of another
        ([0] * 8, [0, 1, 2, 3, 3, 2, 1, 0], [0, 1, 0, 1, 0, 1, 0, 1],
         "(g + g)[[0, 5, 2, 7, 3, 6, 1, 4]]"),
        # blocks of equal width, but of other bases: no turns are taken
        ([0, 0, 1, 0, 0, 3], [0, 1, 0, 2, 3, 1], None,
         "g[0:2] + h[0:1] + g[2:4] + (h * 2)[1:2]"),
    ],
)  # fmt: skip
def test_expressions(
    number: list[int], code: list[int], kinds: list[int] | None, expected: str
) -> None:
    assert read(number, code, kinds) == expected
    assert format_axis(parse(expected)) == expected


@st.composite
def standing(draw: st.DrawFn) -> tuple[list[int], list[int], list[int]]:
    """Coordinates of an axis: whole bases, each in up to two kinds, in one of many orders."""
    coordinates: list[tuple[int, int, int]] = []
    chosen = draw(st.lists(st.integers(0, 3), min_size=1, max_size=3))
    for kind, number in enumerate(chosen):
        coordinates += [(number, code, kind) for code in range(BASES[number][1])]
    order = draw(st.sampled_from(["straight", "turns", "any"]))
    if order == "turns":
        coordinates.sort(key=lambda c: (c[1] * 12 // BASES[c[0]][1] // 6, c[2]))
    elif order == "any":
        coordinates = draw(st.permutations(coordinates))
    number, code, kind = zip(*coordinates, strict=True)
    return list(number), list(code), list(kind)


@LAW
@given(standing(), st.integers(0, 2**32 - 1))
def test_an_expression_moves_every_coordinate_to_one_of_its_kind(
    at: tuple[list[int], list[int], list[int]], seed: int
) -> None:
    number, code, kinds = at
    axis = parse(read(number, code, kinds))
    source = np.random.default_rng(seed)
    member = {name: source.permutation(GROUPS[name].size) for name in GROUPS}
    moved = [axis_action.source(base, GROUPS, member) for base, _ in BASES]
    stands = {place: i for i, place in enumerate(zip(number, code, kinds, strict=True))}
    expected = [stands[b, int(moved[b][c]), k] for b, c, k in zip(number, code, kinds, strict=True)]
    assert axis_action.source(axis, GROUPS, member).tolist() == expected


# ------------------------------------------------------------------------------------ solving


def reader(facts: Facts) -> Reader:
    cells = find_cells(facts)
    structure = find_structure(cells)
    return Reader(cells, structure, group_names(facts, cells, structure))


def test_fixed_coordinates_and_groups_take_turns() -> None:
    facts = Facts()
    a, still = facts.fresh((4,), "a"), facts.positions(2, "wanted")
    axis = np.concatenate([still[:1], a[:2], still[1:], a[2:]])
    assert format_axis(reader(facts).axis(axis)) == "interleave(2, 2, a)"


def test_nested_groups_within_blocks() -> None:
    facts = Facts()
    blocks = facts.fresh((2,), "b")
    children = facts.fresh((2, 3), "c")
    facts.project(children, blocks[:, None])
    found = reader(facts)
    assert format_axis(found.axis(children.reshape(-1))) == "c.qk"
    assert format_axis(found.inner_axis(children)) == "inner(c.qk)"
    assert format_axis(found.inner_axis(np.stack([children[0]] * 2))) == "c.qk[0:3]"


def test_what_stands_in_all_blocks_alike_is_no_inner_group() -> None:
    facts = Facts()
    a, still = facts.fresh((3,), "a"), facts.positions(2, "wanted")
    both = np.tile(np.concatenate([a, still]), (4, 1))
    assert format_axis(reader(facts).inner_axis(both)) == "a + 2"


def test_products_with_a_nested_factor_in_blocks() -> None:
    facts = Facts()
    blocks, dims = facts.fresh((2,), "b"), facts.fresh((3,), "d")
    heads = facts.fresh((2, 4), "h")
    all_ = facts.fresh((2, 4, 3))
    facts.project(heads, blocks[:, None])
    facts.project(all_, heads[:, :, None])
    facts.project(all_, dims)
    assert format_axis(reader(facts).inner_axis(all_.reshape(2, 12))) == "inner(h.qk) * d"
    assert format_axis(reader(facts).inner_axis(all_[0])) == "d"


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([[0, 1, 2], [3, 5, 4]], "inner(2, c.qk[0:4] + c.qk[5:6] + c.qk[4:5])"),
        ([[0, 1, 3], [2, 4, 5]], "inner(2, c.qk[[0, 1, 3, 2, 4, 5]])"),
    ],
)
def test_blocks_in_different_orders(rows: list[list[int]], text: str) -> None:
    facts = Facts()
    blocks = facts.fresh((2,), "b")
    children = facts.fresh((2, 3), "c")
    facts.project(children, blocks[:, None])
    found = reader(facts).inner_axis(children.reshape(-1)[np.array(rows)])
    assert format_axis(found) == text


def test_blocks_of_a_group_that_is_not_nested() -> None:
    facts = Facts()
    a = facts.fresh((4,), "a")
    assert format_axis(reader(facts).inner_axis(a.reshape(2, 2))) == "inner(2, a)"


def test_blocks_of_different_groups() -> None:
    facts = Facts()
    a, b = facts.fresh((2,), "a"), facts.fresh((2,), "b")
    assert format_axis(reader(facts).inner_axis(np.stack([a, b]))) == "inner(2, a + b)"


def test_positions_of_a_product_in_another_order_per_block() -> None:
    facts = Facts()
    a, b, both = facts.fresh((2,), "a"), facts.fresh((2,), "b"), facts.fresh((2, 2, 2), "c")
    facts.project(both, a[:, None, None])
    facts.project(both, b[:, None])
    rows = np.stack([both[0, 0], both[0, 1, ::-1]])
    text = "inner(2, (a * b * 2)[[0, 1, 3, 2]])"
    assert format_axis(reader(facts).inner_axis(rows)) == text
