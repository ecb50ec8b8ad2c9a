"""Cutting tensors whose blocks are not alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mergekit_perm import axes, axis_action, axis_size, tensor_action
from mergekit_perm.axes import Block
from mergekit_perm.axis_elements import elements, occurrences
from mergekit_perm.axis_text import format_axis, parse
from mergekit_perm.errors import PermutationSpecError
from mergekit_perm.groups import Group, Groups
from mergekit_perm.members import assemble
from mergekit_perm.sections import sections
from tests.strategies import LAW, blocks_of, group_sets, members, raw

GROUPS = Groups(
    {
        group.name: group
        for group in (
            Group("a", 2),
            Group("b", 2),
            Group("out", 3),
            Group("heads", 3),
            Group("q", 2, within="heads"),
            Group("k", 2, within="heads"),
            Group("deep", 2, within="q"),
        )
    }
)


def row(*texts: str) -> tuple[axes.Axis, ...]:
    return tuple(parse(text) for text in texts)


@pytest.mark.parametrize(
    ("outputs", "inputs", "expected"),
    [
        ("out", "a", [([], "out", "a")]),
        ("out + 3", "inner(2, a + b)", [([0, 1, 2], "out", "a"), ([3, 4, 5], "3", "b")]),
        (
            "interleave(3, q, k)",
            "inner(6, interleave(3, k, q))",
            [([0, 1, 4, 5, 8, 9], "q", "inner(k)"), ([2, 3, 6, 7, 10, 11], "k", "inner(q)")],
        ),
        # Blocks are those of the first other axis longer than 1.
        (
            "heads + 1",
            "inner(4, heads * 2 + a)",
            [([0, 1, 2], "heads", "2"), ([3], "1", "a")],
        ),
        (
            "heads + 1",
            "inner(4, heads * a + b)",
            [([0, 1, 2], "heads", "a"), ([3], "1", "b")],
        ),
    ],
)
def test_sections(outputs: str, inputs: str, expected: list[tuple[list[int], str, str]]) -> None:
    found = sections(row(outputs, inputs, "1"), GROUPS)
    assert [section.coordinates.tolist() for section in found] == [at for at, *_ in expected]
    for section, (_, *texts) in zip(found, expected, strict=True):
        for axis, text in zip(section.axes, [*texts, "1"], strict=True):
            assert axis_size.size(axis, GROUPS) == axis_size.size(parse(text), GROUPS)
            assert axes.names(axis) == axes.names(parse(text))
            assert axes.has_inner(axis) == axes.has_inner(parse(text))


@LAW
@given(st.data())
def test_sections_move_as_the_tensor_does(data: st.DataObject) -> None:
    groups = data.draw(group_sets())
    axes_of = data.draw(blocks_of(groups))
    assert isinstance(axes_of[1], Block)
    member = raw(data.draw(members(groups)))
    tensor = torch.randn(*(axis_size.size(axis, groups) for axis in axes_of))
    tensor_action.check_closed(axes_of, groups)
    whole = tensor_action.act(tensor, axes_of, groups, member)
    covered = []
    for section in sections(axes_of, groups):
        assert not any(isinstance(axis, Block) for axis in section.axes)
        moved = tensor_action.act(section.of(tensor), section.axes, groups, member)
        assert torch.equal(section.of(whole), moved)
        assert torch.equal(section.of(section.replaced(tensor, moved)), moved)
        covered += section.coordinates.tolist()
    assert sorted(covered) == list(range(len(tensor)))


def test_a_grouped_convolution_is_its_dense_one() -> None:
    """The weight of blocks acts on its input as the block-diagonal matrix it stands for."""
    member = assemble(
        GROUPS,
        {
            "heads": np.array([1, 2, 0]),
            "q": np.array([[1, 0], [0, 1], [1, 0]]),
            "k": np.array([[0, 1], [1, 0], [1, 0]]),
            "a": np.array([1, 0]),
            "out": np.array([2, 0, 1]),
        },
    )
    inputs, outputs = parse("q + a + b"), parse("heads * 3 + out + 3")
    weight = torch.randn(15, 2)

    def dense(given: torch.Tensor) -> torch.Tensor:
        return torch.block_diag(*given.split(3))

    moved = tensor_action.act(weight, (outputs, Block(5, inputs)), GROUPS, member)
    assert torch.equal(
        dense(moved), tensor_action.act(dense(weight), (outputs, inputs), GROUPS, member)
    )


@pytest.mark.parametrize(
    ("axes_of", "message"),
    [
        (("3", "inner(2, a + b)"), r"needs 2 equal blocks of axis 0, '3', to choose from"),
        (("1", "inner(2, a + b)"), r"needs another axis that chooses the block"),
        (("inner(q)", "inner(2, a + b)", "heads"), r"needs 2 equal blocks of axis 0, 'inner\(q\)'"),
        (("4", "inner(2, heads + 3)"), None),
        (("3", "inner(3, q)"), r"do not move as those of '3', the axis that chooses among them"),
        (("2", "inner(2, heads * 2)"), r"do not move as those of '2'"),
        (("heads", "inner(3, q[[0, 1, 2, 3, 5, 4]])"), r"must have the elements of their groups"),
        (("heads", "inner(3, heads * a * b)"), r"and no products of groups"),
        (("heads", "inner(3, deep)"), r"one block of a group each"),
        (("q", "inner(6, deep)"), None),
        (("heads + 1", "inner(4, heads * 2 + 2)"), None),
        (("a * 2", "inner(2, a * a)"), r"one block of a group each"),
        (
            ("6", "inner(2, a + b)", "inner(2, a + b)"),
            r"a tensor can have one such axis|needs 2 eq",
        ),
        (("6", "inner(2, 0)"), r"inner\(2, 0\): there is nothing to choose from"),
    ],
)
def test_blocks_that_cannot_be(axes_of: tuple[str, ...], message: str | None) -> None:
    def check() -> None:
        tensor_action.check_closed(row(*axes_of), GROUPS)
        sections(row(*axes_of), GROUPS)

    if message is None:
        check()
        return
    with pytest.raises(PermutationSpecError, match=message):
        check()


def test_an_axis_in_blocks_alone_says_nothing() -> None:
    member = assemble(GROUPS, {})
    with pytest.raises(PermutationSpecError, match=r"inner\(2, a\) needs another axis"):
        axis_action.source(parse("inner(2, a)"), GROUPS, member)
    assert elements(parse("inner(2, a + b)"), GROUPS, "a").tolist() == [-1, -1]
    assert occurrences(parse("inner(2, a + b)"), GROUPS, "a").shape == (2, 0)
    assert format_axis(parse("inner(2, a + b)")) == "inner(2, a + b)"
