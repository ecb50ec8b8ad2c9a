from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mergekit_perm import axis_size, tensor_action
from mergekit_perm.axes import Axis, Fixed, Whole
from mergekit_perm.axis_text import format_axis, parse
from mergekit_perm.errors import PermutationSpecError
from mergekit_perm.members import assemble
from tests.group_examples import HEADS, SWAPPED, groups_of
from tests.strategies import LAW, closed_axes, group_sets, members, parents, partial_axes, raw


def rows(*texts: str) -> list[Axis]:
    return [parse(text) for text in texts]


def test_carrier_is_the_axis_that_tells_every_block() -> None:
    assert tensor_action.carrier(rows("s", "qk", "inner(vo)"), HEADS, "vo") == 1
    assert tensor_action.carrier(rows("heads", "inner(vo)"), HEADS, "vo") == 0
    assert tensor_action.carrier(rows("inner(qk)", "heads * 2"), HEADS, "qk") == 1
    assert tensor_action.carrier(rows("deep", "inner(deep)"), HEADS, "deep") == 0


@pytest.mark.parametrize(
    ("texts", "group", "outer"),
    [
        (("s", "inner(vo)"), "vo", "heads"),
        (("heads + 1", "inner(vo)"), "vo", "heads"),
        (("3", "inner(vo)", "inner(qk)"), "vo", "heads"),
        (("qk", "inner(deep)"), "deep", "vo"),
        (("heads", "inner(s)"), "s", "None"),
    ],
)
def test_carrier_that_is_not_there(texts: tuple[str, ...], group: str, outer: str) -> None:
    with pytest.raises(PermutationSpecError) as caught:
        tensor_action.carrier(rows(*texts), HEADS, group)
    assert str(caught.value) == (
        f"inner({group}) needs another axis of the tensor on which every coordinate belongs to "
        f"'{outer}' or to a group within it"
    )


def test_sources_of_a_tensor_leave_out_what_stays() -> None:
    row = rows("4", "s", "heads * 2", "inner(qk)")
    still = assemble(HEADS, {})
    found = tensor_action.sources(row, HEADS, still)
    assert [(place, by) for place, by, _ in found] == [(3, 2)]
    assert found[0][2].tolist() == [[0, 1, 2]] * 4
    found = tensor_action.sources(row, HEADS, SWAPPED)
    assert [(place, by) for place, by, _ in found] == [(1, -1), (2, -1), (3, 2)]
    assert found[0][2].tolist() == [2, 0, 1]
    assert found[1][2].tolist() == [2, 3, 0, 1]
    assert found[2][2].tolist() == [[1, 0, 2], [1, 0, 2], [0, 2, 1], [0, 2, 1]]


def test_act_by_hand() -> None:
    tensor = torch.arange(6).reshape(2, 3)
    moved = tensor_action.act(tensor, rows("heads", "inner(qk)"), HEADS, SWAPPED)
    # Row 0 is old row 1 in the order 1 0 2, row 1 is old row 0 in the order 0 2 1.
    assert moved.tolist() == [[4, 3, 5], [0, 2, 1]]
    moved = tensor_action.act(tensor.T, rows("inner(qk)", "heads"), HEADS, SWAPPED)
    assert moved.T.tolist() == [[4, 3, 5], [0, 2, 1]]
    assert tensor_action.act(tensor, rows("heads", "s"), HEADS, SWAPPED).tolist() == [
        [5, 3, 4],
        [2, 0, 1],
    ]


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.complex64]
)
def test_act_keeps_dtype_and_makes_new_contiguous_memory(dtype: torch.dtype) -> None:
    tensor = torch.arange(6).reshape(3, 2).to(dtype).T
    before = tensor.clone()
    for texts in (("heads", "s"), ("heads", "inner(qk)"), ("2", "3"), ("2", "s")):
        moved = tensor_action.act(tensor, rows(*texts), HEADS, SWAPPED)
        assert moved.dtype == dtype
        assert moved.shape == (2, 3)
        assert moved.data_ptr() != tensor.data_ptr()
        assert torch.equal(tensor, before)


def test_act_on_a_scalar_copies_it() -> None:
    count = torch.tensor(3)
    moved = tensor_action.act(count, [], HEADS, SWAPPED)
    moved += 1
    assert count.item() == 3


@LAW
@given(st.data())
def test_acting_on_tensors_is_a_homomorphism(data: st.DataObject) -> None:
    groups = data.draw(group_sets())
    row: list[Axis] = [data.draw(closed_axes(groups, depth=1)) for _ in range(2)]
    for name in (
        data.draw(st.lists(st.sampled_from(parents(groups)), max_size=2)) if parents(groups) else []
    ):
        row += [Whole(groups[name].within or ""), parse(f"inner({name})")]
    row.append(Fixed(2))
    shape = [axis_size.size(axis, groups) for axis in row]
    if np.prod(shape) > 20_000:
        row, shape = row[:2], shape[:2]
    tensor = torch.arange(int(np.prod(shape))).reshape(shape)
    p, q = data.draw(members(groups)), data.draw(members(groups))
    both = {name: p[name] @ q[name] for name in groups}
    twice = tensor_action.act(tensor_action.act(tensor, row, groups, raw(p)), row, groups, raw(q))
    assert torch.equal(tensor_action.act(tensor, row, groups, raw(both)), twice)
    back = {name: p[name].inverse() for name in groups}
    moved = tensor_action.act(tensor, row, groups, raw(p))
    assert torch.equal(tensor_action.act(moved, row, groups, raw(back)), tensor)
    assert torch.equal(moved.reshape(-1).sort().values, tensor.reshape(-1))


# ----------------------------------------------------------------------------------- closure


@LAW
@given(st.data())
def test_closed_axes_pass_and_partial_ones_are_refused(data: st.DataObject) -> None:
    groups = data.draw(group_sets().filter(lambda g: any(g.length(name) > 1 for name in g)))
    tensor_action.check_closed([data.draw(closed_axes(groups)) for _ in range(3)], groups)
    axis = data.draw(partial_axes(groups))
    with pytest.raises(PermutationSpecError) as caught:
        tensor_action.check_closed([axis], groups)
    assert str(caught.value) == (
        f"axis '{format_axis(axis)}' shows only a part of a group, "
        "so permuting the group leads out of it"
    )


@pytest.mark.parametrize(
    "text",
    [
        "s[:2]",
        "s[[0, 1, 1]]",
        "s + s[:1]",
        "heads[:1]",
        "qk[:3]",
        "qk[::3]",
        "vo[1:]",
        "deep[::2]",
        "(s * 2)[1:]",
    ],
)
def test_partial_axes_by_hand(text: str) -> None:
    with pytest.raises(PermutationSpecError, match="shows only a part of a group"):
        tensor_action.check_closed([parse(text)], HEADS)


@pytest.mark.parametrize(
    "text",
    ["s[:1] + s[1:]", "s[::-1]", "(qk + s)[6:]", "(3 + s)[:3]", "(s * 2)[::2]", "vo[[1, 0, 3, 2]]"],
)
def test_closed_axes_by_hand(text: str) -> None:
    tensor_action.check_closed([parse(text)], HEADS)


def test_inner_axes_are_checked_for_closure_too() -> None:
    tensor_action.check_closed([parse("qk"), parse("inner(vo)[::-1]")], HEADS)
    with pytest.raises(PermutationSpecError) as caught:
        tensor_action.check_closed([parse("qk"), parse("inner(vo)[:1]")], HEADS)
    assert str(caught.value) == (
        "axis 'inner(vo)[:1]' shows only a part of a group, so permuting the group leads out of it"
    )


def test_inner_groups_of_two_outer_ones_cannot_share_an_axis() -> None:
    groups = groups_of(h=2, k=2, a=(2, "h"), b=(3, "k"))
    tensor_action.check_closed([parse("h * k"), parse("inner(a)"), parse("inner(b)")], groups)
    with pytest.raises(PermutationSpecError) as caught:
        tensor_action.check_closed([parse("h * k"), parse("inner(a) + inner(b)")], groups)
    assert str(caught.value) == (
        "axis 'inner(a) + inner(b)' has `inner` of groups within different ones, "
        "but one index on another axis can choose the block of only one"
    )
