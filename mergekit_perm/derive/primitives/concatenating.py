"""Tensors one after another along an axis."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mergekit_perm.derive.facts import Facts
from mergekit_perm.derive.labels import Labels, Map, expanded, lost_in, tidied
from mergekit_perm.derive.primitives.contracting import LETTERS, aligned
from mergekit_perm.derive.primitives.joining import join
from mergekit_perm.derive.primitives.regrouping import flattened
from mergekit_perm.permutation import Indices


def concatenate(facts: Facts, parts: Sequence[Labels], axis: int, *, apart: bool = False) -> Labels:
    """Return the labels of `parts` one after another along `axis`.

    Args:
        facts: what parts have in common along the other axes comes to move alike.
        parts: labels of one or more tensors, equal in shape but for `axis`.
        axis: along which axis.
        apart: let the parts move independently along their other axes (for `stack`, whose parts
            are usually taken apart again).
    """
    axis %= len(parts[0].axes)
    parts = [part for part in parts if part.shape[axis]] or parts[:1]
    if len(parts) == 1:
        return parts[0]
    flat = [flattened(facts, part, axis) for part in parts]
    others = "".join(LETTERS[place] for place in range(len(flat[0].axes)))
    cut = others[:axis] + "{}" + others[axis + 1 :]
    spelled = [(labels, cut.format(chr(ord("A") + i))) for i, labels in enumerate(flat)]
    flat = [labels for labels, _ in aligned(facts, spelled)]
    lengths = [labels.shape[axis] for labels in flat]
    total = sum(lengths)
    rows = [
        next((labels.axes[place] for labels in flat if labels.axes[place]), ())
        for place in range(len(flat[0].axes))
    ]
    rows[axis] = (total,)
    template = Labels(tuple(rows))
    numbered = [_numbered_as(labels, template, axis) for labels in flat]
    if apart:
        return tidied(_apart(facts, numbered, template, axis, lengths))
    return tidied(_together(facts, numbered, template, axis, lengths))


def _numbered_as(labels: Labels, template: Labels, axis: int) -> Labels:
    """Return `labels` with its digits numbered as in `template`; its own axes are as they were."""
    number: dict[int, int] = {}
    for place in range(len(labels.axes)):
        number.update(zip(labels.digits(place), template.digits(place), strict=False))
    maps = []
    for digits, elements in labels.maps:
        maps.append(Map(tuple(number[d] for d in digits), elements))
    constant = frozenset(number[d] for d in labels.constant)
    missing = {
        d
        for place in range(len(labels.axes))
        if place != axis and not labels.axes[place]
        for d in template.digits(place)
    }
    return Labels(template.axes, tuple(maps), constant | frozenset(missing), labels.places)


def _together(
    facts: Facts, parts: list[Labels], template: Labels, axis: int, lengths: list[int]
) -> Labels:
    along = template.digits(axis).start
    sizes = template.sizes
    fixed: dict[int, str] = {}
    for part in parts:
        for digit in set(range(len(sizes))) - part.mapped - part.constant - {along}:
            fixed.setdefault(digit, f"meets {part.places}")
    constant = frozenset.intersection(*(part.constant for part in parts)) - {along}
    rest = [m for part in parts for m in part.maps if along not in m.digits]
    if not any(along in m.digits for part in parts for m in part.maps):
        return Labels(template.axes, join(facts, rest, fixed), constant, lost_in(parts))
    outer = sorted(
        {d for part in parts for m in part.maps if along in m.digits for d in m.digits} - {along}
    )
    digits = sorted([*outer, along])
    pieces = [
        _piece(facts, part, digits, along, length)
        for part, length in zip(parts, lengths, strict=True)
    ]
    whole = np.concatenate(_distinct(facts, pieces), axis=digits.index(along))
    joined = join(facts, [Map(tuple(digits), whole), *rest], fixed)
    return Labels(template.axes, joined, constant, lost_in(parts))


def _piece(facts: Facts, part: Labels, digits: list[int], along: int, length: int) -> Indices:
    """Return elements of one part over `digits`, `along` being the axis of concatenation."""
    shape = [length if digit == along else part.sizes[digit] for digit in digits]
    touching = [m for m in part.maps if along in m.digits]
    if len(touching) == 1 and list(touching[0].digits) == digits:
        return touching[0].elements
    if not touching and len(digits) == 1:
        if along in part.constant:
            return facts.equal(shape)
        return facts.positions(length, f"joined with {part.places}")
    whole = facts.equal(shape) if set(digits) & part.constant else facts.fresh(shape)
    for map_ in part.maps:
        if set(map_.digits) & set(digits):
            facts.project(whole, expanded(facts.blocks(map_, digits), digits))
    for digit in set(digits) - part.mapped - part.constant:
        size = length if digit == along else part.sizes[digit]
        positions = facts.positions(size, f"joined with {part.places}")
        facts.project(whole, expanded(Map((digit,), positions), digits))
    return whole


def _distinct(facts: Facts, pieces: list[Indices]) -> list[Indices]:
    """Return the pieces with copies in place of elements that occur in an earlier one."""
    seen: set[int] = set()
    result = []
    for piece in pieces:
        own = set(piece.reshape(-1).tolist())
        if own & seen or len(own) < piece.size:
            piece = facts.copies(piece)
        seen |= own
        result.append(piece)
    return result


def _apart(
    facts: Facts, parts: list[Labels], template: Labels, axis: int, lengths: list[int]
) -> Labels:
    """Concatenate parts of length 1 whose other axes move independently: a joint map."""
    along = template.digits(axis).start
    same = all(
        len(part.maps) == len(parts[0].maps)
        and all(
            a.digits == b.digits and np.array_equal(a.elements, b.elements)
            for a, b in zip(part.maps, parts[0].maps, strict=True)
        )
        for part in parts
    )
    digit_sets = {tuple(m.digits for m in part.maps) for part in parts}
    if same or set(lengths) != {1} or len(digit_sets) > 1:
        return _together(facts, parts, template, axis, lengths)
    maps = []
    for place, map_ in enumerate(parts[0].maps):
        digits = tuple(sorted((*map_.digits, along)))
        pieces = [np.expand_dims(part.maps[place].elements, digits.index(along)) for part in parts]
        maps.append(Map(digits, np.concatenate(_distinct(facts, pieces), axis=digits.index(along))))
    constant = frozenset.intersection(*(part.constant for part in parts)) - {along}
    return Labels(template.axes, join(facts, maps, {}), constant, lost_in(parts))
