from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergekit_perm import networks, shipped
from mergekit_perm.axes import Axis, Concatenation, Fixed, Inner, Product, Slice, Whole
from mergekit_perm.axis_size import size
from mergekit_perm.folding import Row, folded, starred
from mergekit_perm.groups import Group, Groups
from mergekit_perm.permspec import PermutationSpec, Shape
from mergekit_perm.templates import expansions, substitute
from tests.strategies import LAW


def written_out(rows: Mapping[str, Row]) -> dict[str, Row]:
    """What a reader makes of folded entries; every name is described once."""
    found = [
        (name, tuple(substitute(cell, indices) for cell in row))
        for key, row in rows.items()
        for name, indices in expansions(key)
    ]
    assert len(dict(found)) == len(found)
    return dict(found)


def numbered(*choices: range, name: str, row: str = "") -> dict[str, Row]:
    """Entries for all choices of numbers; `{0}`, `{1}` in name and row are the numbers."""
    rows: dict[str, Row] = {}
    for numbers in cartesian(choices):
        rows[name.format(*numbers)] = tuple(row.format(*numbers).split(", "))
    return rows


def cartesian(choices: tuple[range, ...]) -> list[tuple[int, ...]]:
    if not choices:
        return [()]
    return [(first, *rest) for first in choices[0] for rest in cartesian(choices[1:])]


# ---------------------------------------------------------------------------------- templates


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ({}, {}),
        ({"": ("a",)}, {"": ("a",)}),
        ({"head.weight": ("_", "layer4")}, {"head.weight": ("_", "layer4")}),
        ({"layer4.1": ("layer4",), "head": ("layer4",)},) * 2,
        (numbered(range(12), name="b.{0}.mlp", row="768"), {"b.{i:0..11}.mlp": ("768",)}),
        (
            numbered(range(1, 5), range(2), name="layer{0}.{1}.bn1.*", row="layer{0}.{1}.conv1"),
            {"layer{i:1..4}.{j:0..1}.bn1.*": ("layer{i}.{j}.conv1",)},
        ),
        (
            numbered(range(2), range(3, 5), range(5, 7), name="a{0}.b{1}.{2}", row="g{2} + h{0}"),
            {"a{i:0..1}.b{j:3..4}.{k:5..6}": ("g{k} + h{i}",)},
        ),
        (
            {f"f.{f}.bias": (f"f.{f}",) for f in (9, 3, 0, 7, 8)},
            {"f.{i:0,3,7..9}.bias": ("f.{i}",)},
        ),
        (
            {"c1.w": ("c1", "c0"), "c2.w": ("c2", "c1"), "c3.w": ("c3", "c2")},
            {"c{i:1..3}.w": ("c{i}", "c{i-1}")},
        ),
        (
            {"0.w": ("1.out * 49", "5"), "1.w": ("2.out * 49", "5")},
            {"{i:0..1}.w": ("{i+1}.out * 49", "5")},
        ),
    ],
)
def test_folding(rows: dict[str, Row], expected: dict[str, Row]) -> None:
    assert folded(rows) == expected
    assert written_out(expected) == rows


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("64", "128"),
        ("1", "2"),
        ("g[1:64]", "g[2:64]"),
        ("g[[1, 0]]", "g[[2, 0]]"),
        ("g * 1", "g * 2"),
        ("interleave(1, g)", "interleave(2, g)"),
        ("g + 1", "g + 2"),
        ("g1 + h", "h + g2"),
        ("g1", "g1 + g1"),
        ("g3", "g5"),
        ("g01", "g02"),
    ],
)
def test_rows_that_differ_otherwise_stay_apart(first: str, second: str) -> None:
    rows = {"b.1.w": (first,), "b.2.w": (second,)}
    assert folded(rows) == rows


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a.01", "a.02"),
        ("a.0000000001", "a.0000000002"),
        ("a.1000000000", "a.1000000001"),
        ("a.b", "a.c"),
        ("a.1", "a.1.2"),
        ("a.1.2", "a.3.4"),
    ],
)
def test_names_that_no_template_gives_back_stay_apart(first: str, second: str) -> None:
    rows = {first: ("g",), second: ("g",)}
    assert folded(rows) == rows


def test_numbers_of_nine_digits_are_the_longest_that_fold() -> None:
    rows = {"a.999999998": ("g999999999",), "a.999999999": ("g1000000000",)}
    assert folded(rows) == rows
    rows = {"a.999999998": ("g0",), "a.999999999": ("g1",)}
    assert folded(rows) == {"a.{i:999999998..999999999}": ("g{i-999999998}",)}
    assert written_out(folded(rows)) == rows


def test_a_row_which_follows_two_distances_is_two_entries() -> None:
    # VGG: the convolution before is three modules back, or four where pooling lies between.
    before = {3: 0, 7: 3, 10: 7, 14: 10, 17: 14, 20: 17, 24: 20}
    rows = {f"f.{f}.w": (f"f.{f}", f"f.{b}") for f, b in before.items()}
    assert list(folded(rows).items()) == [
        ("f.{i:3,10,17,20}.w", ("f.{i}", "f.{i-3}")),
        ("f.{i:7,14,24}.w", ("f.{i}", "f.{i-4}")),
    ]


def test_stages_of_blocks_or_blocks_of_stages_whichever_is_shorter() -> None:
    # ResNet: only the first block of a stage reads the stage before. Block by block within a stage
    # would be four entries: layer2.{j:0..1} reads layer{j+1}, layer3.{j:0..1} layer{j+2}, ...
    rows = numbered(range(2, 5), range(1, 2), name="l{0}.{1}.w", row="l{0}.{1}.c, l{0}")
    rows |= {f"l{s}.0.w": (f"l{s}.0.c", f"l{s - 1}") for s in (2, 3, 4)}
    assert folded(rows) == {
        "l{i:2..4}.1.w": ("l{i}.1.c", "l{i}"),
        "l{i:2..4}.0.w": ("l{i}.0.c", "l{i-1}"),
    }
    # The same with the numbers the other way round.
    rows = numbered(range(1, 2), range(2, 5), name="l{0}.{1}.w", row="l{1}.{0}.c, l{1}")
    rows |= {f"l0.{b}.w": (f"l{b}.0.c", f"l{b - 1}") for b in (2, 3, 4)}
    assert folded(rows) == {
        "l1.{i:2..4}.w": ("l{i}.1.c", "l{i}"),
        "l0.{i:2..4}.w": ("l{i}.0.c", "l{i-1}"),
    }


def test_of_equally_many_entries_the_plainer_are_taken() -> None:
    # b.{i:0..1} could read layer{i+3} and leave b.2 alone.
    rows = {"b.0.w": ("layer3",), "b.1.w": ("layer4",), "b.2.w": ("layer4",)}
    assert folded(rows) == {"b.0.w": ("layer3",), "b.{i:1..2}.w": ("layer4",)}
    # Few come before plain: a{i:0..1}.1, which reads h3, would leave two entries alone.
    rows = {"a0.1": ("h3",), "a0.2": ("h4",), "a1.0": ("h3",), "a1.1": ("h3",)}
    assert folded(rows) == {"a0.{i:1..2}": ("h{i+2}",), "a1.{i:0..1}": ("h3",)}


def test_an_entry_stands_where_its_first_member_stood() -> None:
    rows: dict[str, Row] = {"x": ("g",)}
    for i in range(3):
        rows |= {f"b.{i}.qk": ("64", f"b.{i}.heads"), f"b.{i}.heads": ("3",), f"b.{i}.mlp": ("7",)}
    assert list(folded({**rows, "y": ("g",)}).items()) == [
        ("x", ("g",)),
        ("b.{i:0..2}.qk", ("64", "b.{i}.heads")),
        ("b.{i:0..2}.heads", ("3",)),
        ("b.{i:0..2}.mlp", ("7",)),
        ("y", ("g",)),
    ]


def test_numbers_in_reasons_are_constant() -> None:
    rows = {"b.0.w": ("with b.0",), "b.1.w": ("with b.1",), "b.2.w": ("with b.1",)}
    assert folded(rows, constant=True) == {
        "b.0.w": ("with b.0",),
        "b.{i:1..2}.w": ("with b.1",),
    }


def test_what_is_folded_is_not_folded_again() -> None:
    rows = {"b.{i:0..1}.w": ("g",), "b.{i:0..2}.v": ("g",), "c0": ("g",), "c1": ("g",)}
    assert folded(rows) == rows


# --------------------------------------------------------------------------- templates as laws

SKELETONS = ("a{}", "a{}.w", "layer{}.{}.conv{}.w", "b.{}.w{}")
CELLS = ("64", "g{}", "layer{}.{}.conv{}", "g{} + g{}", "inner(h.{}) * 49", "g{}[0:2]", "{}.x")


@st.composite
def numbered_rows(draw: st.DrawFn) -> dict[str, Row]:
    """Entries of a few kinds, whose numbers are small and so often stand in some relation."""
    number = st.integers(0, 4)

    def filled(text: str) -> str:
        return text.format(*(draw(number) for _ in range(text.count("{}"))))

    kinds = draw(st.lists(st.tuples(st.sampled_from(SKELETONS), st.sampled_from(CELLS))))
    rows: dict[str, Row] = {}
    for name, cell in kinds:
        for _ in range(draw(st.integers(1, 9))):
            rows[filled(name)] = (filled(cell), "3")
    return rows


@LAW
@given(numbered_rows(), st.booleans())
def test_reading_undoes_folding(rows: dict[str, Row], constant: bool) -> None:
    assert written_out(folded(rows, constant=constant)) == rows


@LAW
@given(numbered_rows())
def test_entries_are_no_more_than_before_and_declare_only_what_they_need(
    rows: dict[str, Row],
) -> None:
    for key, row in folded(rows).items():
        declared = re.findall(r"\{(\w+):([^{}]*)\}", key)
        members = [name for name, _ in expansions(key)]
        assert (not declared) == (len(members) == 1) == (key in rows)
        assert [letter for letter, _ in declared] == list("ijk")[: len(declared)]
        assert all(".." in numbers or "," in numbers for _, numbers in declared)
        assert key not in rows or rows[key] == row


@LAW
@given(st.data(), numbered_rows())
def test_the_order_of_entries_decides_only_the_order_of_the_result(
    data: st.DataObject, rows: dict[str, Row]
) -> None:
    mixed = {name: rows[name] for name in data.draw(st.permutations(list(rows)))}
    result = folded(mixed)
    assert result == folded(rows)
    places = {name: place for place, name in enumerate(mixed)}
    firsts = [min(places[name] for name, _ in expansions(key)) for key in result]
    assert firsts == sorted(firsts)


@st.composite
def templates(draw: st.DrawFn) -> tuple[str, Row]:
    """One template: a key with one to three indices, and a row of which some numbers follow."""
    letters = "ijk"[: draw(st.integers(1, 3))]
    key, usable = "net", [""]
    for letter in letters:
        numbers = draw(st.lists(st.integers(3, 12), min_size=2, max_size=5, unique=True))
        key += f".x{{{letter}:{','.join(map(str, sorted(numbers)))}}}"
        usable += [f"{{{letter}}}", f"{{{letter}-3}}", f"{{{letter}+10}}"]
    used = st.sampled_from(usable) | st.integers(0, 12).map(str)
    return key, tuple(f"g{draw(used)}.{draw(used)}a" for _ in range(draw(st.integers(0, 3))))


@LAW
@given(templates())
def test_a_template_is_found_again(template: tuple[str, Row]) -> None:
    key, row = template
    rows = written_out({key: row})
    result = folded(rows)
    assert len(result) == 1
    assert list(result.values()) == [row]
    assert written_out(result) == rows


# ----------------------------------------------------------------------------------- modules

NORM = {"n.weight": (4,), "n.bias": (4,), "n.mean": (4,), "n.count": ()}
ALIKE: dict[str, Row] = {"n.weight": ("g",), "n.bias": ("g",), "n.mean": ("g",)}


def test_the_tensors_of_a_module_are_one_entry() -> None:
    shapes = {"stem": (4,), **NORM, "head": (4,)}
    rows = {"stem": ("g",), **ALIKE, "head": ("g",)}
    assert list(starred(rows, shapes).items()) == [
        ("stem", ("g",)),
        ("n.*", ("g",)),
        ("head", ("g",)),
    ]
    assert starred(rows, {}) == rows


@pytest.mark.parametrize(
    ("rows", "shapes"),
    [
        ({"n.weight": ("g",), "n.bias": ("g",)}, NORM),
        (ALIKE | {"n.mean": ("h",)}, NORM),
        (ALIKE, NORM | {"n.proj.weight": (4, 4)}),
        (ALIKE | {"n.proj.weight": ("g", "g")}, NORM | {"n.proj.weight": (4, 4)}),
        ({"n.weight": ("g", "g"), "n.bias": ("g", "g")}, {"n.weight": (4, 4), "n.bias": (4, 4)}),
        ({"n.weight": ("g",), "n.count": ("g",)}, {"n.weight": (4,), "n.count": ()}),
        (ALIKE, NORM | {"n.*": ()}),
        (ALIKE | {"n.*": ("h",)}, NORM),
        ({"*.n.a": ("g",), "*.n.b": ("g",)}, {"*.n.a": (4,), "*.n.b": (4,), "x.n.a": (4,)}),
        ({"a": ("g",), "b": ("g",)}, {"a": (4,), "b": (4,)}),
        ({}, NORM),
    ],
)
def test_modules_that_no_star_stands_for(rows: dict[str, Row], shapes: dict[str, Shape]) -> None:
    assert starred(rows, shapes) == rows


def test_scalars_keep_their_entries() -> None:
    rows: dict[str, Row] = {**ALIKE, "n.count": ()}
    assert starred(rows, NORM) == {"n.*": ("g",), "n.count": ()}


def test_the_largest_module_and_of_equals_the_innermost() -> None:
    shapes = {"a.b.n.weight": (4,), "a.b.n.bias": (4,), "a.b.m.weight": (4,), "c.weight": (4,)}
    rows: dict[str, Row] = dict.fromkeys(shapes, ("g",))
    assert list(starred(rows, shapes)) == ["a.b.*", "c.weight"]
    del shapes["a.b.m.weight"], rows["a.b.m.weight"]
    assert list(starred(rows, shapes)) == ["a.b.n.*", "c.weight"]


# ------------------------------------------------------------------------------------ specs


@st.composite
def networks_with_specs(draw: st.DrawFn) -> PermutationSpec:
    """A bound spec of a network of numbered blocks with norms, some tensors of which are fixed."""
    number = st.integers(0, 3)
    outer = [f"b{i}.heads" for i in draw(st.sets(number, min_size=1))]
    groups = [Group(name, draw(st.integers(1, 2))) for name in outer]
    for name in draw(st.lists(st.builds("b{}.l{}".format, number, number), unique=True)):
        within = draw(st.none() | st.sampled_from(outer))
        groups.append(Group(name, draw(st.integers(1, 2)), within))
    known = Groups({group.name: group for group in draw(st.permutations(groups))})
    whole = [Whole(name) for name in known]
    rows: dict[str, tuple[Axis, ...]] = {
        f"out.{group.name}": (Fixed(2), Whole(group.name)) for group in groups
    }
    for group in groups:
        if group.within is not None and draw(st.booleans()):
            rows[f"conv.{group.name}"] = (Whole(group.within), Inner(group.name))
    shapes: dict[str, Shape] = {}
    for module in draw(st.sets(st.builds("b{}.n{}".format, number, number), max_size=9)):
        leaf = draw(st.sampled_from(whole))
        own = draw(
            st.sampled_from([leaf, leaf, Product((leaf, Fixed(2))), Concatenation((leaf,) * 2)])
        )
        for kind in ("weight", "bias", "mean"):
            flipped = draw(st.integers(0, 7)) == 0
            rows[f"{module}.{kind}"] = (Slice(own, None, None, -1) if flipped else own,)
        shapes[f"{module}.count"] = ()
    shapes |= {name: tuple(size(axis, known) for axis in row) for name, row in rows.items()}
    listed = [name for name in rows if not name.startswith("b") or draw(st.integers(0, 9))]
    reasons = st.sampled_from(["kernel", {"0": "of 1 block"}])
    fixed = {name: draw(reasons) for name in shapes if shapes[name] and draw(st.booleans())}
    spec = PermutationSpec(known, {name: rows[name] for name in listed}, fixed=fixed)
    return spec.bind({name: shapes[name] for name in draw(st.permutations(list(shapes)))})


@LAW
@given(networks_with_specs())
def test_the_text_of_a_bound_spec_binds_to_the_same_rows(spec: PermutationSpec) -> None:
    assert spec.shapes is not None
    text = spec.dumps()
    again = PermutationSpec.loads(text).bind(spec.shapes)
    assert (again.groups, again.axes) == (spec.groups, spec.axes)
    assert again.dumps() == text


@LAW
@given(networks_with_specs())
def test_folded_reasons_stand_for_the_same_tensors(spec: PermutationSpec) -> None:
    assert spec.shapes is not None
    found = {}
    for key, reason in PermutationSpec.loads(spec.dumps()).fixed.items():
        for pattern, _ in expansions(key):
            expression = re.compile(re.escape(pattern).replace(r"\*", ".*"))
            for name in (n for n, shape in spec.shapes.items() if shape):
                if expression.fullmatch(name):
                    assert name not in found
                    found[name] = reason
    assert found == spec.fixed


# Specs that people wrote: of the built-in architectures, and those that derivation is tested with.
BY_HAND = {
    **{name: shipped.architecture_specs()[name] for name in networks.BUILTINS},
    **{path.stem: path for path in (Path(__file__).parent / "derive/handwritten").glob("*.yaml")},
}


@cache
def spec_by_hand(name: str) -> PermutationSpec:
    state = networks.skeleton(name).state_dict()
    spec = PermutationSpec.load(BY_HAND[name])
    return spec.bind({tensor: tuple(value.shape) for tensor, value in state.items()})


@pytest.mark.parametrize("name", sorted(BY_HAND))
def test_specs_that_people_wrote(name: str) -> None:
    spec = spec_by_hand(name)
    assert spec.shapes is not None
    text = spec.dumps()
    again = PermutationSpec.loads(text).bind(spec.shapes)
    assert again == spec
    assert again.dumps() == text
    by_hand = BY_HAND[name].read_text(encoding="utf-8").splitlines()
    # ConvNeXt's by hand has patterns through a name, `stages.{s:0..3}.blocks.*.gamma`.
    more = {"convnext_atto": 5}.get(name, 0)
    assert len(text.splitlines()) <= sum(not line.startswith("#") for line in by_hand) + more


def test_the_text_of_one_of_them() -> None:
    assert spec_by_hand("resnet18").dumps() == (
        """\
format: perm-merge/permspec@1
architecture: resnet18
options: {}
groups:
  layer1: 64
  layer2: 128
  layer3: 256
  layer4: 512
  layer1.{i:0..1}.conv1: 64
  layer2.{i:0..1}.conv1: 128
  layer3.{i:0..1}.conv1: 256
  layer4.{i:0..1}.conv1: 512
axes:
  conv1.weight: [layer1, 3, 7, 7]
  bn1.*: [layer1]
  layer1.0.conv1.weight: [layer1.0.conv1, layer1, 3, 3]
  layer{i:1..4}.{j:0..1}.bn1.*: ['layer{i}.{j}.conv1']
  layer{i:1..4}.{j:0..1}.conv2.weight: ['layer{i}', 'layer{i}.{j}.conv1', 3, 3]
  layer{i:1..4}.{j:0..1}.bn2.*: ['layer{i}']
  layer{i:1..4}.1.conv1.weight: ['layer{i}.1.conv1', 'layer{i}', 3, 3]
  layer{i:2..4}.0.conv1.weight: ['layer{i}.0.conv1', 'layer{i-1}', 3, 3]
  layer{i:2..4}.0.downsample.0.weight: ['layer{i}', 'layer{i-1}', 1, 1]
  layer{i:2..4}.0.downsample.1.*: ['layer{i}']
  fc.weight: [1000, layer4]
"""
    )
