from __future__ import annotations

import torch

from mergekit_perm.align.views import element_rows, views
from mergekit_perm.permspec import PermutationSpec

TEXT = """\
format: perm-merge/permspec@1
groups:
  s: 4
  h: 2
  qk: {size: 3, within: h}
  deep: {size: 2, within: qk}
  lonely: 5
axes:
  embed: [s, 3]
  square: [s, s]
  qkv: [qk + qk + h, s]
  mix: [5, qk, inner(qk)]
  deep: [deep]
  stays: [lonely, 7]
"""
SHAPES = {
    "embed": (4, 3), "square": (4, 4), "qkv": (14, 4), "mix": (5, 6, 3), "deep": (12,),
    "stays": (5, 7),
}  # fmt: skip


def bound() -> PermutationSpec:
    return PermutationSpec.loads(TEXT).bind(SHAPES)


def test_every_group_that_no_other_view_moves_has_a_view() -> None:
    found = {view.group: view for view in views(bound(), SHAPES)}
    assert list(found) == ["s", "h", "qk", "lonely"]
    assert {name: (view.size, view.children, view.stays) for name, view in found.items()} == {
        "s": (4, (), False),
        "h": (2, ("qk",), False),
        "qk": (6, ("deep",), True),
        "lonely": (5, (), False),
    }
    assert found["s"].tensors == ("embed", "square", "qkv")
    assert [(c.tensor, c.dim) for c in found["s"].carriers] == [
        ("embed", 0), ("square", 0), ("square", 1), ("qkv", 1)
    ]  # fmt: skip
    assert found["h"].tensors == ("qkv", "mix", "deep")
    assert found["qk"].tensors == ("qkv", "mix", "deep")


def test_views_look_at_the_tensors_asked_for() -> None:
    found = {view.group: view for view in views(bound(), ["embed", "deep"])}
    assert found["s"].tensors == ("embed",)
    assert found["h"].tensors == ("deep",)
    assert found["lonely"].carriers == ()
    assert found["lonely"].weight == 0


def test_carriers_know_their_columns_and_inner_axes() -> None:
    qkv, mix, deep = next(view for view in views(bound(), SHAPES) if view.group == "h").carriers
    assert qkv.table.tolist() == [[0, 1, 2, 6, 7, 8, 12], [3, 4, 5, 9, 10, 11, 13]]
    assert [(n.group, n.dim, n.table.tolist()) for n in qkv.nested] == [
        ("qk", -1, [[0, 3], [1, 4], [2, 5]])
    ]
    assert qkv.columns == qkv.nested
    assert qkv.inner_axes == ()
    assert [(n.group, n.dim, n.table.tolist()) for n in mix.nested] == [
        ("qk", -1, [[0], [1], [2]]),
        ("qk", 2, [[0], [1], [2]]),
    ]
    assert mix.inner_axes == mix.nested[1:]
    assert deep.table.tolist() == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]
    assert deep.nested[0].table.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert (qkv.weight, mix.weight, deep.weight) == (28, 45, 6)
    assert (qkv.others, mix.others, deep.others) == ({"s"}, set(), set())


def test_a_view_of_what_is_settled_leaves_out_the_rest() -> None:
    heads = next(view for view in views(bound(), SHAPES) if view.group == "h")
    assert heads.seen_from([]).tensors == ("mix", "deep")
    assert heads.seen_from([]).weight == 51
    assert heads.seen_from(["lonely"]).tensors == ("mix", "deep")
    assert heads.seen_from(["s", "lonely"]) == heads
    assert heads.weight == 79


def test_blocks_bring_the_carrying_axis_to_the_front() -> None:
    qkv, mix, _ = next(view for view in views(bound(), SHAPES) if view.group == "h").carriers
    tensor = torch.arange(14 * 4).reshape(14, 4)
    blocks = qkv.blocks(tensor)
    assert blocks.shape == (2, 7, 4)
    assert torch.equal(blocks[1], tensor[[3, 4, 5, 9, 10, 11, 13]])
    rows = element_rows(blocks, 1, qkv.columns[0].table)
    assert rows.shape == (2, 3, 8)
    assert torch.equal(rows[1, 2], torch.cat([tensor[5], tensor[11]]))
    cube = torch.arange(5 * 6 * 3).reshape(5, 6, 3)
    blocks = mix.blocks(cube)
    assert blocks.shape == (2, 3, 5, 3)
    assert mix.place(mix.inner_axes[0]) == 3
    rows = element_rows(blocks, 3, mix.inner_axes[0].table)
    assert torch.equal(rows[1, 2], cube[:, 3:, 2].T.reshape(-1))


def test_an_inner_axis_in_front_of_its_carrier() -> None:
    text = "format: perm-merge/permspec@1\ngroups: {h: 2, d: {size: 3, within: h}}\n"
    spec = PermutationSpec.loads(text + "axes: {w: [inner(d), 4, h], v: [d]}\n")
    carrier = views(spec.bind({"w": (3, 4, 2), "v": (6,)}), ["w"])[0].carriers[0]
    assert carrier.dim == 2
    assert carrier.place(carrier.inner_axes[0]) == 2
    tensor = torch.arange(24).reshape(3, 4, 2)
    rows = element_rows(carrier.blocks(tensor), 2, carrier.inner_axes[0].table)
    assert torch.equal(rows, tensor.permute(2, 0, 1))


def test_inner_axes_belong_to_the_carrier_that_chooses_their_block() -> None:
    text = "format: perm-merge/permspec@1\ngroups: {h: 2, d: {size: 3, within: h}}\n"
    spec = PermutationSpec.loads(text + "axes: {w: [h, d, inner(d)]}\n").bind({"w": (2, 6, 3)})
    first, second = views(spec, ["w"])[0].carriers
    assert [(n.group, n.dim) for n in first.nested] == [("d", 2)]
    assert [(n.group, n.dim) for n in second.nested] == [("d", -1)]
