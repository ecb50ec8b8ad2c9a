"""Hypothesis strategies: random groups, axis expressions and members of the symmetry group."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st

from mergekit_perm import axes, axis_action, axis_size
from mergekit_perm.axes import (
    Axis,
    Block,
    Concatenation,
    Fixed,
    Inner,
    Interleaving,
    Pick,
    Product,
    Slice,
    Whole,
)
from mergekit_perm.axis_text import parse
from mergekit_perm.groups import Group, Groups
from mergekit_perm.permspec import PermutationSpec
from mergekit_perm.permutation import Indices, Permutation

LAW = settings(max_examples=60, deadline=None)
LARGEST = 48

NAMES = ("g", "blocks.0.mlp", "_a", "inner", "0.weight", "aÜ", "a.1.b_2")


# --------------------------------------------------------------------------------- expressions

_bounds = st.none() | st.integers(-9, 9)


def _larger(inner: st.SearchStrategy[Axis]) -> st.SearchStrategy[Axis]:
    several = st.lists(inner, min_size=2, max_size=3).map(tuple)
    picked = st.lists(st.integers(-9, 9), min_size=1, max_size=4).map(tuple)
    return st.one_of(
        several.map(Product),
        several.map(Concatenation),
        st.builds(Interleaving, st.integers(1, 9), several),
        st.builds(Slice, inner, _bounds, _bounds, _bounds),
        st.builds(Pick, inner, picked),
    )


def expressions() -> st.SearchStrategy[Axis]:
    """Any expression that can be written, whether or not it means something."""
    names = st.sampled_from(NAMES)
    leaves = st.one_of(
        st.integers(0, 999).map(Fixed),
        st.just(Fixed(None)),
        names.map(Whole),
        names.map(Inner),
    )
    parts = st.recursive(leaves, _larger, max_leaves=8)
    return parts | st.builds(Block, st.integers(1, 9), parts)


# ------------------------------------------------------------------------------ groups, members


@st.composite
def group_sets(draw: st.DrawFn, *, deepest: int = 3) -> Groups:
    """One to three outermost groups, each with groups nested in it up to `deepest` levels."""
    found: list[Group] = []

    def nest(name: str, within: str | None, level: int) -> None:
        found.append(Group(name, draw(st.integers(1, 4 if within is None else 3)), within))
        children = 0 if level == deepest else draw(st.integers(0, 2 if level == 1 else 1))
        for child in range(children):
            nest(f"{name}.{child}", name, level + 1)

    for top in range(draw(st.integers(1, 3))):
        nest(f"g{top}", None, 1)
    return Groups({group.name: group for group in draw(st.permutations(found))})


def members(groups: Groups) -> st.SearchStrategy[dict[str, Permutation]]:
    """Members of the group of `groups`, uniformly random."""
    spec = PermutationSpec(groups, {})
    seeds = st.integers(0, 2**32 - 1)
    return seeds.map(lambda seed: spec.random(generator=np.random.default_rng(seed)))


def raw(member: dict[str, Permutation]) -> dict[str, Indices]:
    """A member of raw indices, as axes and tensors are moved by."""
    return {name: permutation.indices for name, permutation in member.items()}


# ------------------------------------------------------------------------------------ meaning


@st.composite
def closed_axes(draw: st.DrawFn, groups: Groups, *, depth: int = 2) -> Axis:
    """An expression that every member maps to itself, parts and reorderings included."""
    leaf: Axis = draw(
        st.sampled_from([Whole(name) for name in groups]) | st.integers(1, 3).map(Fixed)
    )
    forms = ["leaf", "product", "sum", "interleave", "reorder", "flip", "term", "column"]
    form = draw(st.sampled_from(forms))
    if depth == 0 or form == "leaf":
        return leaf
    smaller = closed_axes(groups, depth=depth - 1)
    first = draw(smaller)
    length = axis_size.size(first, groups)
    other = leaf if form in ("product", "column") else draw(smaller)
    extent = axis_size.size(other, groups)
    built: Axis = first
    match form:
        case "product":
            built = Product(tuple(draw(st.permutations([first, other]))))
        case "sum":
            built = Concatenation((first, other))
        case "interleave":
            built = Interleaving(math.gcd(length, extent), (first, other))
        case "reorder":
            built = Pick(first, tuple(draw(st.permutations(range(length)))))
        case "flip":
            built = Slice(first, None, None, -1)
        case "term":
            built = Slice(Concatenation((other, first)), extent, None, None)
        case "column":
            count = draw(st.integers(1, 3))
            built = Slice(
                Product((first, Fixed(count))), draw(st.integers(0, count - 1)), None, count
            )
    return built if axis_size.size(built, groups) <= LARGEST else leaf


@st.composite
def partial_axes(draw: st.DrawFn, groups: Groups) -> Axis:
    """An expression that shows only a part of a group; every group must have a proper part."""
    whole = [name for name in groups if groups.length(name) > 1]
    name = draw(st.sampled_from(whole))
    length = groups.length(name)
    shown = draw(st.sets(st.integers(0, length - 1), min_size=1, max_size=length - 1))
    order = draw(st.permutations(sorted(shown)))
    part: Axis = Pick(Whole(name), tuple(order))
    closed = draw(closed_axes(groups, depth=1))
    return draw(
        st.sampled_from(
            [
                part,
                Concatenation((closed, part)),
                Product((part, Fixed(2))),
                Product((closed, part)),
                Slice(part, None, None, -1),
            ]
        )
    )


def state_of(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, torch.Tensor]:
    """Random tensors of the shapes given; a scalar is a count."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator) if shape else torch.tensor(seed)
        for name, shape in shapes.items()
    }


@st.composite
def blocks_of(draw: st.DrawFn, groups: Groups) -> tuple[Axis, Axis]:
    """The axes of a grouped convolution whose blocks are not alike: some trade places, some not."""
    width, wide = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    parts: list[tuple[Axis, Axis, int]] = [(Fixed(width), Fixed(wide), 1)]
    for name, group in groups.items():
        if group.within is not None and group.size == width:
            count = groups.length(group.within)
            parts.append((Whole(name), Product((Whole(group.within), Fixed(wide))), count))
        elif group.within is None and group.size == width:
            parts.append((Whole(name), Fixed(wide), 1))
    chosen = draw(st.lists(st.sampled_from(parts), min_size=2, max_size=4))
    inputs, outputs, counts = zip(*chosen, strict=True)
    if len(set(counts)) == 1 and draw(st.booleans()):
        base: Axis = Interleaving(counts[0], inputs)
        return Interleaving(counts[0], outputs), Block(sum(counts), base)
    return Concatenation(outputs), Block(sum(counts), Concatenation(inputs))


@st.composite
def problems(draw: st.DrawFn) -> tuple[PermutationSpec, dict[str, torch.Tensor]]:
    """A random spec whose every group stands on some tensor, and a state it fits."""
    groups = draw(group_sets())
    rows: dict[str, tuple[Axis, ...]] = {name: (parse(name), Fixed(2)) for name in groups}
    for place in range(draw(st.integers(0, 2))):
        rows[f"t{place}"] = tuple(draw(closed_axes(groups, depth=1)) for _ in range(2))
    for name, group in groups.items():
        if group.within is not None and draw(st.booleans()):
            rows[f"{name}.inner"] = (parse(f"inner({name})"), parse(group.within))
    if draw(st.booleans()):
        rows["blocks"] = draw(blocks_of(groups))
    spec = PermutationSpec(groups, rows)
    shapes = {
        name: tuple(axis_size.size(axis, groups) for axis in row) for name, row in rows.items()
    }
    return spec, state_of({**shapes, "rest": (3,), "count": ()}, draw(st.integers(0, 99)))


def each_group_once(axis: Axis, groups: Groups) -> bool:
    """Tell whether no product has one outermost group in two of its factors."""
    if isinstance(axis, Product):
        tops = [{groups.chain(n)[-1].name for n in axes.names(f)} for f in axis.factors]
        return len(set().union(*tops)) == sum(map(len, tops)) and all(
            each_group_once(factor, groups) for factor in axis.factors
        )
    parts = getattr(axis, "terms", ()) or (() if not hasattr(axis, "base") else (axis.base,))
    return all(each_group_once(part, groups) for part in parts)


def parents(groups: Groups) -> list[str]:
    """The nested groups of `groups`."""
    return [name for name, group in groups.items() if group.within is not None]


def source_of(axis: Axis, groups: Groups, member: dict[str, Permutation]) -> list[int]:
    """The sources of `axis` as plain numbers."""
    return axis_action.source(axis, groups, raw(member)).tolist()
