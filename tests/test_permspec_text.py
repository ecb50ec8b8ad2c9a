from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergekit_perm import permspec_text
from mergekit_perm.axes import Fixed
from mergekit_perm.axis_text import parse
from mergekit_perm.errors import PermutationSpecError
from mergekit_perm.groups import Group, Groups
from mergekit_perm.permspec import PermutationSpec
from tests.strategies import LAW, NAMES, closed_axes, group_sets

HEAD = "format: perm-merge/permspec@1\n"

VIT = """\
format: perm-merge/permspec@1
architecture: vit_tiny_patch16_224
options: {}
groups:
  stream: 192
  blocks.{i:0..11}.heads: 3
  blocks.{i:0..11}.qk: {size: 64, within: "blocks.{i}.heads"}
  blocks.{i:0..11}.vo: {size: 64, within: "blocks.{i}.heads"}
  blocks.{i:0..11}.mlp: 768
axes:
  pos_embed: [1, 197, stream]
  patch_embed.proj.weight: [stream, 3, 16, 16]
  blocks.{i:0..11}.norm1.*: [stream]
  blocks.{i:0..11}.attn.qkv.weight: ["blocks.{i}.qk + blocks.{i}.qk + blocks.{i}.vo", stream]
  blocks.{i:0..11}.attn.proj.weight: [stream, "blocks.{i}.vo"]
  blocks.{i:0..11}.mlp.fc1.weight: ["blocks.{i}.mlp", stream]
  head.weight: [_, stream]
fixed:
  head.weight: "axis 0: class outputs"
"""


def test_the_example_of_the_design() -> None:
    spec = PermutationSpec.loads(VIT)
    assert spec.architecture == "vit_tiny_patch16_224"
    assert spec.options == {}
    assert spec.fixed == {"head.weight": "axis 0: class outputs"}
    assert spec.shapes is None
    assert len(spec.groups) == 1 + 4 * 12
    assert spec.groups["blocks.11.qk"] == Group("blocks.11.qk", 64, "blocks.11.heads")
    assert spec.groups.length("blocks.3.vo") == 192
    assert spec.axes["pos_embed"] == (Fixed(1), Fixed(197), parse("stream"))
    assert spec.axes["blocks.7.norm1.*"] == (parse("stream"),)
    assert spec.axes["blocks.2.attn.qkv.weight"] == (
        parse("blocks.2.qk + blocks.2.qk + blocks.2.vo"),
        parse("stream"),
    )
    assert spec.axes["head.weight"] == (Fixed(None), parse("stream"))


def test_an_entry_may_follow_on_its_neighbours() -> None:
    spec = PermutationSpec.loads(
        HEAD
        + dedent("""\
            groups: {"c{i:0..3}": 8}
            axes:
              conv{i:1..3}.weight: ["c{i}", "c{i-1}", 3, 3]
              all: ["c0 + c1 + c2 + c3"]
            """)
    )
    assert spec.axes["conv2.weight"] == (parse("c2"), parse("c1"), Fixed(3), Fixed(3))
    assert list(spec.axes) == ["conv1.weight", "conv2.weight", "conv3.weight", "all"]


def test_dumps_is_plain_one_line_per_entry_that_stands_alone() -> None:
    spec = PermutationSpec(
        Groups({"h": Group("h", 2), "d": Group("d", 3, "h")}),
        {
            "conv.weight": (parse("d"), parse("inner(d)"), Fixed(3), Fixed(None)),
            "shuffle": (parse("(h + 2)[[2, 0, 1, 3]]"),),
            "scale": (),
        },
        architecture="net",
        options={"width": 0.5, "stem": None, "deep": {"norm": "on"}},
        fixed={"head.weight": "axis 0: outputs", "x": [{"axis": 0, "why": "1e3"}]},
    )
    text = spec.dumps()
    assert text == dedent("""\
        format: perm-merge/permspec@1
        architecture: net
        options: {width: 0.5, stem: null, deep: {norm: 'on'}}
        groups:
          h: 2
          d: {size: 3, within: h}
        axes:
          conv.weight: [d, inner(d), 3, _]
          shuffle: ['(h + 2)[[2, 0, 1, 3]]']
          scale: []
        fixed:
          head.weight: 'axis 0: outputs'
          x: [{axis: 0, why: '1e3'}]
        """)
    assert PermutationSpec.loads(text) == spec


def test_dumps_of_nothing_can_be_read() -> None:
    spec = PermutationSpec(Groups({}), {})
    assert spec.dumps() == ("format: perm-merge/permspec@1\noptions: {}\ngroups: {}\naxes: {}\n")
    assert PermutationSpec.loads(spec.dumps()) == spec


TRAPS = ["1e3", "1.0e3", "0o7", "on", "yes", "~", "null", "2024-01-01", "1_000", " a", "a ", "#b"]
TRAPS += ["a: b", "'", '"', "é", "λ", "a\nb", "\u2028", "\x85", "[", "{i}", "*", "&x", "- y", "?"]
words = st.sampled_from(TRAPS) | st.text(
    st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=6
)
json = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(-9, 9) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner),
    max_leaves=6,
)


@st.composite
def specs(draw: st.DrawFn) -> PermutationSpec:
    groups = draw(group_sets())
    renamed = dict(zip(list(groups)[: len(NAMES)], draw(st.permutations(NAMES)), strict=False))
    if draw(st.booleans()) and len(groups) <= len(NAMES):
        groups = Groups(
            {
                renamed[g.name]: Group(renamed[g.name], g.size, renamed.get(g.within or ""))
                for g in groups.values()
            }
        )
    tensors = draw(st.lists(st.sampled_from([*NAMES, "a.*.b", "1e3", "on", "5"]), unique=True))
    cells = closed_axes(groups) | st.just(Fixed(None))
    return PermutationSpec(
        groups,
        {name: tuple(draw(st.lists(cells, max_size=3))) for name in tensors},
        architecture=draw(st.none() | words),
        options=draw(st.dictionaries(st.sampled_from(["width", "1e3", "on"]), json)),
        fixed=draw(st.dictionaries(st.sampled_from(NAMES), json)),
    )


@LAW
@given(specs())
def test_loads_undoes_dumps(spec: PermutationSpec) -> None:
    again = PermutationSpec.loads(spec.dumps())
    assert again == spec
    assert again.dumps() == spec.dumps()
    # Folding may bring groups and tensors into another order; that of the text then stays.
    once_more = PermutationSpec.loads(again.dumps())
    assert list(once_more.groups) == list(again.groups)
    assert list(once_more.axes) == list(again.axes)
    assert once_more.sha256 == again.sha256


def test_a_text_with_templates_is_written_as_it_was_read() -> None:
    spec = PermutationSpec.loads(VIT)
    text = spec.dumps()
    assert text.replace("'", '"') == VIT
    assert list(PermutationSpec.loads(text).groups) == list(spec.groups)


def test_a_bound_spec_is_written_in_the_order_of_the_network() -> None:
    spec = PermutationSpec.loads(
        HEAD
        + dedent("""\
            groups: {a: 2}
            axes: {w: [_, a], "l0.w": [3, a], n.*: [a], "l1.w": [3, a]}
            fixed: {w: outputs, l0.w: inputs, l1.w: inputs, m.w: {"0": why}, m.b: {"0": why}}
            """)
    )
    shapes = {
        **{"l0.w": (3, 2), "l1.w": (3, 2)},
        **{"n.w": (2,), "n.b": (2,), "n.count": ()},
        **{"m.w": (2, 1), "m.b": (2,), "w": (5, 2)},
    }
    bound = spec.bind(shapes)
    text = bound.dumps()
    assert text == HEAD + dedent("""\
        options: {}
        groups:
          a: 2
        axes:
          l{i:0..1}.w: [3, a]
          n.*: [a]
          w: [5, a]
        fixed:
          w: outputs
          l{i:0..1}.w: inputs
          m.*: {'0': why}
        """)
    again = PermutationSpec.loads(text).bind(shapes)
    assert (again.groups, again.axes, again.shapes) == (bound.groups, bound.axes, bound.shapes)
    assert again.fixed == {"w": "outputs", "l{i:0..1}.w": "inputs", "m.*": {"0": "why"}}
    assert again.dumps() == text


def test_tensors_that_the_network_lacks_are_written_last() -> None:
    spec = PermutationSpec(
        Groups({"a": Group("a", 2)}),
        {"x": (parse("a"),), "w": (parse("a"),)},
        shapes={"w": (2,)},
    )
    assert spec.dumps().endswith("axes:\n  w: [a]\n  x: [a]\n")


@pytest.mark.parametrize(
    "name", ["layer." + "x" * 1200, "one two " * 40, "on", "1e3", "- x", "a: b", "é.*", "#", "{i}"]
)
def test_any_name_can_be_written(name: str) -> None:
    spec = PermutationSpec(Groups({}), {}, fixed={name: "why", "b": "why not"})
    assert PermutationSpec.loads(spec.dumps()).fixed == spec.fixed


def test_a_list_with_many_gaps_can_be_read() -> None:
    rows = {f"layers.{2 * i}.weight": (parse("a"),) for i in range(400)}
    spec = PermutationSpec(Groups({"a": Group("a", 2)}), rows)
    text = spec.dumps()
    assert text.count("\n") == 7
    assert "\n  ? layers.{i:0,2,4,6,8,10," in text
    assert PermutationSpec.loads(text) == spec


# ---------------------------------------------------------------------------------- problems


def refused(text: str) -> str:
    with pytest.raises(PermutationSpecError) as caught:
        PermutationSpec.loads(dedent(text), file="net.yaml")
    return str(caught.value)


def test_all_problems_at_once_sorted_by_place() -> None:
    assert refused("""\
        format: perm-merge/permspec@2
        archtecture: resnet18
        architecture: 18
        options: []
        groups:
          a: 0
          b: true
          c: {size: 3, witin: a}
          d: {size: 3, within: 4}
          e-1: 3
          f{i:0..x}: 3
          g: 2
          g{i:0}: 3
          g{j:0}: 3
        axes:
          w: [a, "g +"]
          v: a
          u: [true, 3]
          t: [[a]]
          x{i:0..1}: ["g{j}"]
        fixed: 3
        """) == dedent("""\
        net.yaml:1:9: format: expected 'perm-merge/permspec@1', found 'perm-merge/permspec@2'
            format: perm-merge/permspec@2
                    ^

        net.yaml:2:1: archtecture: unknown key 'archtecture' (did you mean 'architecture'?)
            archtecture: resnet18
            ^

        net.yaml:3:15: architecture: expected a name, found 18
            architecture: 18
                          ^

        net.yaml:4:10: options: expected a mapping, found []
            options: []
                     ^

        net.yaml:6:6: groups.a: expected a size of at least 1, found 0
              a: 0
                 ^

        net.yaml:7:6: groups.b: expected a size of at least 1, found True
              b: true
                 ^

        net.yaml:8:16: groups.c.witin: unknown key 'witin' (did you mean 'within'?)
              c: {size: 3, witin: a}
                           ^

        net.yaml:9:24: groups.d.within: expected the name of a group, found 4
              d: {size: 3, within: 4}
                                   ^

        net.yaml:10:3: groups.e-1: 'e-1' is no name for a group: names have letters, digits, '_' and '.' only
              e-1: 3
              ^

        net.yaml:11:3: groups.f{i:0..x}: {i:0..x}: expected a range such as 0..11, or a list such as 0,2,5..7
              f{i:0..x}: 3
              ^

        net.yaml:14:3: groups.g{j:0}: group 'g0' is defined twice
              g{j:0}: 3
              ^

        net.yaml:16:6: axes.w: axis 'g +', column 4: expected a number, a group name or '('
              w: [a, "g +"]
                 ^

        net.yaml:17:6: axes.v: expected a list with one expression per axis, found 'a'
              v: a
                 ^

        net.yaml:18:6: axes.u: expected a list with one expression per axis, found [True, 3]
              u: [true, 3]
                 ^

        net.yaml:19:6: axes.t: expected a list with one expression per axis, found [['a']]
              t: [[a]]
                 ^

        net.yaml:20:14: axes.x{i:0..1}: 'g{j}': index 'j' is not declared; the key of the entry declares it, as in {j:0..11}
              x{i:0..1}: ["g{j}"]
                         ^

        net.yaml:21:8: fixed: expected a mapping, found 3
            fixed: 3
                   ^

        17 problems in net.yaml""")  # noqa: E501


def test_groups_that_expressions_name_are_checked() -> None:
    assert refused("""\
        format: perm-merge/permspec@1
        groups:
          stream: 4
          heads: 2
        axes:
          "b{i:0..2}.w": [strem, "2 * (_ + 1)"]
          v: [_, "inner(stream)", "xyz + heads"]
          u: ["heads[[2]]"]
        """) == dedent("""\
        net.yaml:6:19: axes.b{i:0..2}.w[0]: no group 'strem' (did you mean 'stream'?)
              "b{i:0..2}.w": [strem, "2 * (_ + 1)"]
                              ^

        net.yaml:6:26: axes.b{i:0..2}.w[1]: `_` stands for a whole axis; it cannot be part of an expression
              "b{i:0..2}.w": [strem, "2 * (_ + 1)"]
                                     ^

        net.yaml:7:10: axes.v[1]: inner(stream): 'stream' is not nested (it has no `within`)
              v: [_, "inner(stream)", "xyz + heads"]
                     ^

        net.yaml:7:27: axes.v[2]: no group 'xyz'
              v: [_, "inner(stream)", "xyz + heads"]
                                      ^

        net.yaml:8:7: axes.u[0]: heads[[2]]: index 2 is outside 0..1
              u: ["heads[[2]]"]
                  ^

        5 problems in net.yaml""")  # noqa: E501


def test_every_within_that_leads_nowhere_is_named() -> None:
    assert refused("""\
        format: perm-merge/permspec@1
        groups:
          heads: 2
          "a{i:0..1}": {size: 2, within: "head{i}"}
          b: {size: 2, within: xyz}
        axes: {}
        """) == dedent("""\
        net.yaml:4:34: groups.a{i:0..1}.within: no group 'head0' (did you mean 'heads'?)
              "a{i:0..1}": {size: 2, within: "head{i}"}
                                             ^

        net.yaml:4:34: groups.a{i:0..1}.within: no group 'head1' (did you mean 'heads'?)
              "a{i:0..1}": {size: 2, within: "head{i}"}
                                             ^

        net.yaml:5:24: groups.b.within: no group 'xyz'
              b: {size: 2, within: xyz}
                                   ^

        3 problems in net.yaml""")


def test_a_group_within_itself() -> None:
    assert refused("""\
        format: perm-merge/permspec@1
        groups: {a: {size: 2, within: b}, b: {size: 2, within: a}}
        axes: {w: [a]}
        """) == dedent("""\
        net.yaml:2:1: groups: group 'a' lies within itself
            groups: {a: {size: 2, within: b}, b: {size: 2, within: a}}
            ^

        1 problem in net.yaml""")


def test_a_tensor_described_twice() -> None:
    assert refused("""\
        format: perm-merge/permspec@1
        groups: {a: 2}
        axes:
          b{i:0..1}.w: [a]
          b1.w: [a]
        """) == dedent("""\
        net.yaml:5:3: axes.b1.w: tensor 'b1.w' is described twice
              b1.w: [a]
              ^

        1 problem in net.yaml""")


@pytest.mark.parametrize("text", ["", "[]", "3"])
def test_a_file_that_is_no_mapping(text: str) -> None:
    message = refused(text)
    assert message.startswith(
        "net.yaml:1:1: expected a mapping with the keys format, groups and axes\n"
    )
    assert message.endswith("1 problem in net.yaml")


def test_missing_sections() -> None:
    assert refused("format: perm-merge/permspec@1\n") == dedent("""\
        net.yaml:1:1: groups: expected a mapping, found nothing
            format: perm-merge/permspec@1
            ^

        net.yaml:1:1: axes: expected a mapping, found nothing
            format: perm-merge/permspec@1
            ^

        2 problems in net.yaml""")


def test_a_file_of_another_format() -> None:
    message = refused("groups: {a: 1}\naxes: {}\n")
    assert message.splitlines()[0] == (
        "net.yaml:1:1: format: expected 'perm-merge/permspec@1', found None"
    )


def test_yaml_problems_are_permutation_spec_errors(tmp_path: Path) -> None:
    message = refused("groups:\n  a: 1\n  a: 2\n")
    assert message.splitlines()[0] == (
        "net.yaml:3:3: groups.a: the key 'a' is given twice; first at line 2, column 3"
    )
    path = tmp_path / "net.yaml"
    path.write_text("groups: [\n")
    with pytest.raises(PermutationSpecError, match="1 problem in "):
        PermutationSpec.load(path)
    path.write_text(HEAD + "groups: {a: 0}\naxes: {}\n")
    with pytest.raises(PermutationSpecError) as caught:
        PermutationSpec.load(path)
    assert str(caught.value).startswith(
        f"{path}:2:13: groups.a: expected a size of at least 1, found 0\n"
    )


def test_a_missing_file_is_a_permutation_spec_error(tmp_path: Path) -> None:
    with pytest.raises(PermutationSpecError) as caught:
        PermutationSpec.load(tmp_path / "none.yaml")
    assert str(caught.value) == f"{tmp_path}/none.yaml: cannot be read: no such file or directory"


# ------------------------------------------------------------------------------------- proofs

PROVEN = """\
# A comment.
format: perm-merge/permspec@1
groups: {g: 2}
axes: {w: [g]}
"""


def test_a_proof_is_added_and_replaced_and_nothing_else_changes() -> None:
    once = permspec_text.with_proof(PROVEN, {"date": "2026-01-01", "coverage": 0.5})
    assert once == PROVEN + "proof: {date: '2026-01-01', coverage: 0.5}\n"
    assert PermutationSpec.loads(once).proof == {"date": "2026-01-01", "coverage": 0.5}
    assert permspec_text.with_proof(once, {"coverage": 1}) == PROVEN + "proof: {coverage: 1}\n"
    spread = PROVEN.replace("groups:", "proof:\n  date: x\n  coverage: 1\ngroups:")
    assert permspec_text.with_proof(spread, {"coverage": 1}) == PROVEN + "proof: {coverage: 1}\n"


def test_a_proof_is_written_with_the_spec_and_is_no_part_of_what_it_permutes() -> None:
    spec = PermutationSpec.loads(PROVEN)
    proven = PermutationSpec.loads(permspec_text.with_proof(PROVEN, {"coverage": 1}))
    assert proven.dumps() == permspec_text.with_proof(spec.dumps(), {"coverage": 1})
    assert proven.sha256 == spec.sha256
