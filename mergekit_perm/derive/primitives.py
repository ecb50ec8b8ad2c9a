"""The operations that all of a network is made of, on labels: what each states about elements.

`contract` covers everything elementwise, every matrix product, convolution and attention: it lines
axes up by letters, lets what stands at the same letter move alike, and sums some letters away. The
others regroup, choose or join coordinates. Each function takes the facts of the network, which it
adds to, and returns the labels of the result.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from mergekit_perm.derive.facts import Facts
from mergekit_perm.derive.labels import (
    Labels,
    Map,
    Shape,
    common_digits,
    expanded,
    parts_of,
    split,
    tidied,
    transposed,
    unlabelled,
)
from mergekit_perm.permutation import Indices

# An axis with more coordinates than this is not taken apart; what it carries is fixed instead.
_MOST_ELEMENTS = 3_000_000


# ------------------------------------------------------------------------ joining what is known


def join(facts: Facts, maps: Iterable[Map], fixed: Mapping[int, str]) -> tuple[Map, ...]:
    """Return maps that say all that `maps`, which speak of one index space, say together.

    Args:
        facts: stated here: maps of the same digits match; a map of some digits of another one's
            gives blocks of it; maps that share some digits agree on blocks of those.
        maps: of the same digits, in any number.
        fixed: digits whose coordinates some operand fixes, with what that operand's places are.
    """
    known: dict[tuple[int, ...], Indices] = {}
    for digits, elements in maps:
        if digits in known:
            facts.match(known[digits], elements)
        elif digits:
            known[digits] = elements
    for digits, elements in list(known.items()):
        for digit in set(digits) & set(fixed):
            facts.pin(Map(digits, elements), digit, fixed[digit])
        if set(digits) <= set(fixed):
            del known[digits]
    for digits in sorted(known, key=len, reverse=True):
        if digits in known:
            _nest(facts, known, digits, set(fixed))
    _agree(facts, known)
    return tuple(Map(*item) for item in known.items())


def _nest(
    facts: Facts, known: dict[tuple[int, ...], Indices], outer: tuple[int, ...], fixed: set[int]
) -> None:
    """Let the maps of some of the digits `outer` be blocks of its map; keep the finest ones."""
    inside = [digits for digits in known if set(digits) < set(outer)]
    for digits in inside:
        facts.project(known[outer], expanded(Map(digits, known[digits]), outer))
    covered = {digit for digits in inside for digit in digits} | (fixed & set(outer))
    for digits in [outer] if covered >= set(outer) else inside:
        del known[digits]


def _agree(facts: Facts, known: dict[tuple[int, ...], Indices]) -> None:
    for a, b in itertools.combinations(list(known), 2):
        shared = set(a) & set(b)
        if shared:
            one, other = (
                facts.blocks(Map(digits, known[digits]), tuple(shared)) for digits in (a, b)
            )
            facts.match(one.elements, other.elements)


# ------------------------------------------------------------------------------------ contract


def contract(
    facts: Facts, operands: Sequence[tuple[Labels, str]], out: str, sizes: Mapping[str, int] = {}
) -> Labels:
    """Return the labels of an einsum-like product: letters that `out` lacks are summed away.

    Args:
        facts: coordinates of operands at the same letter come to move alike.
        operands: labels, and one letter per axis. An axis of length 1 broadcasts.
        out: the letters of the result's axes.
        sizes: lengths of letters in `out` that no operand has (they are constant there).
    """
    letters = list(dict.fromkeys("".join(spelled for _, spelled in operands) + out))
    aligned = _aligned(facts, operands)
    space = {letter: _letter_digits(letter, aligned, sizes) for letter in letters}
    starts = dict(
        zip(letters, itertools.accumulate([0, *(len(space[x]) for x in letters)]), strict=False)
    )
    maps: list[Map] = []
    fixed: dict[int, str] = {}
    constant = set(range(sum(map(len, space.values()))))
    for labels, spelled in aligned:
        number: dict[int, int] = {}
        for axis, letter in enumerate(spelled):
            number.update(zip(labels.digits(axis), itertools.count(starts[letter]), strict=False))
        for digits, elements in labels.maps:
            renamed = [number[digit] for digit in digits]
            maps.append(Map(tuple(sorted(renamed)), elements.transpose(np.argsort(renamed))))
        for digit in set(number) - labels.constant:
            constant.discard(number[digit])
            if digit not in labels.mapped:
                fixed.setdefault(number[digit], f"meets {labels.places}")
    joined = Labels(
        tuple(space[letter] for letter in letters),
        join(facts, maps, fixed),
        frozenset(constant),
    )
    summed = [letters.index(letter) for letter in letters if letter not in out]
    reduced = reduce(facts, joined, summed)
    kept = [letter for letter in letters if letter in out]
    return tidied(transposed(reduced, [kept.index(letter) for letter in out]))


def _aligned(facts: Facts, operands: Sequence[tuple[Labels, str]]) -> list[tuple[Labels, str]]:
    """Return the operands with the same digits wherever they have the same letter."""
    factorings: dict[str, set[Shape]] = {}
    for labels, spelled in operands:
        for axis, letter in enumerate(spelled):
            if labels.axes[axis]:
                found = factorings.setdefault(letter, set())
                found.update(() if _plain(labels, axis) else [labels.axes[axis]])
    common = {letter: common_digits(found) for letter, found in factorings.items()}
    result = []
    for labels, spelled in operands:
        for axis, letter in enumerate(spelled):
            if labels.axes[axis] and letter in common:
                digits = common[letter] or (labels.shape[axis],)
                labels = refined(facts, labels, axis, digits)
        result.append((labels, spelled))
    return result


def _letter_digits(
    letter: str, operands: Sequence[tuple[Labels, str]], sizes: Mapping[str, int]
) -> Shape:
    found = [
        labels.axes[axis]
        for labels, spelled in operands
        for axis, at in enumerate(spelled)
        if at == letter and labels.axes[axis]
    ]
    if found:
        return found[0]
    return (sizes[letter],) if sizes.get(letter, 1) > 1 else ()


def _plain(labels: Labels, axis: int) -> bool:
    """Tell whether the digits of `axis` can be regrouped freely: all fixed, or all constant."""
    digits = set(labels.digits(axis))
    return not digits & labels.mapped and (
        digits <= labels.constant or not digits & labels.constant
    )


def combine(facts: Facts, shape: Sequence[int], operands: Iterable[Labels]) -> Labels:
    """Return the labels of an elementwise function of operands that broadcast to `shape`."""
    letters = _LETTERS[: len(shape)]
    spelled = [(labels, letters[len(shape) - len(labels.axes) :]) for labels in operands]
    return contract(facts, spelled, letters, dict(zip(letters, shape, strict=True)))


_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def reduce(facts: Facts, labels: Labels, axes: Iterable[int], *, keep_axes: bool = False) -> Labels:
    """Return the labels after a symmetric function (sum, mean, maximum, norm) over `axes`."""
    gone = {axis % len(labels.axes) for axis in axes}
    if not gone:
        return labels
    dropped = {digit for axis in gone for digit in labels.digits(axis)}
    left = [digit for digit in range(len(labels.sizes)) if digit not in dropped]
    maps = [facts.blocks(m, left) if dropped & set(m.digits) else m for m in labels.maps]
    number = {digit: place for place, digit in enumerate(left)}
    renamed = [Map(tuple(number[digit] for digit in m.digits), m.elements) for m in maps]
    shape = [
        () if axis in gone else sizes
        for axis, sizes in enumerate(labels.axes)
        if keep_axes or axis not in gone
    ]
    constant = frozenset(number[digit] for digit in labels.constant if digit in number)
    return Labels(tuple(shape), join(facts, renamed, {}), constant)


def normalise(facts: Facts, labels: Labels, axes: Iterable[int]) -> Labels:
    """Return the labels after every coordinate came to depend on all others along `axes`."""
    return combine(facts, labels.shape, [labels, reduce(facts, labels, axes, keep_axes=True)])


# ------------------------------------------------------------------------------------- regroup


def refined(facts: Facts, labels: Labels, axis: int, digits: Shape) -> Labels:
    """Return `labels` with `axis` made of `digits`, whose product is its length."""
    if labels.axes[axis] == digits:
        return labels
    if _plain(labels, axis):
        return _replaced(labels, axis, digits)
    if common_digits([labels.axes[axis], digits]) != digits:
        labels = flattened(facts, labels, axis)
    parts: list[Shape] = [(size,) for size in labels.sizes]
    own = labels.digits(axis)
    parts[own.start : own.stop] = parts_of(labels.axes[axis], digits)
    return split(labels, parts)


def _replaced(labels: Labels, axis: int, digits: Shape) -> Labels:
    """Return `labels` with other digits for `axis`, all fixed or all constant."""
    own = labels.digits(axis)
    shift = len(digits) - len(own)
    moved = [
        Map(tuple(d if d < own.start else d + shift for d in m.digits), m.elements)
        for m in labels.maps
    ]
    constant = {d if d < own.start else d + shift for d in labels.constant - set(own)}
    if own and set(own) <= labels.constant:
        constant |= set(range(own.start, own.start + len(digits)))
    axes = (*labels.axes[:axis], digits, *labels.axes[axis + 1 :])
    return Labels(axes, tuple(moved), frozenset(constant), labels.places)


def flattened(facts: Facts, labels: Labels, axis: int) -> Labels:
    """Return `labels` with a single digit for `axis`, whose elements the old ones determine."""
    own = list(labels.digits(axis))
    if len(own) <= 1:
        return labels
    length = math.prod(labels.axes[axis])
    touching = [m for m in labels.maps if set(m.digits) & set(own)]
    others = [m for m in labels.maps if not set(m.digits) & set(own)]
    if not touching:
        return _replaced(labels, axis, (length,))
    union = sorted({digit for m in touching for digit in m.digits} | set(own))
    if math.prod(labels.sizes[digit] for digit in union) > _MOST_ELEMENTS:
        for m in touching:
            facts.freeze(m.elements, "is too large to follow")
        touching = []
    whole = _whole(facts, labels, touching, union)
    first, gone = own[0], len(own) - 1
    number = {d: d if d < first else max(first, d - gone) for d in range(len(labels.sizes))}
    axes = (*labels.axes[:axis], (length,), *labels.axes[axis + 1 :])
    maps = [Map(tuple(number[d] for d in m.digits), m.elements) for m in others]
    if touching:
        digits = tuple(dict.fromkeys(number[digit] for digit in union))
        shape = [
            length if d == first else labels.sizes[u]
            for d, u in {number[u]: u for u in union}.items()
        ]
        maps.append(Map(digits, whole.reshape(shape)))
    constant = frozenset(number[d] for d in labels.constant if d not in own)
    return Labels(axes, tuple(maps), constant, labels.places)


def _whole(facts: Facts, labels: Labels, touching: Sequence[Map], union: Sequence[int]) -> Indices:
    """Return elements for all coordinates of the digits `union` jointly."""
    if not touching:
        return np.empty(0, dtype=np.int64)
    if len(touching) == 1 and list(touching[0].digits) == list(union):
        return touching[0].elements
    whole = facts.fresh([labels.sizes[digit] for digit in union])
    for map_ in touching:
        facts.project(whole, expanded(map_, union))
    for digit in set(union) - labels.mapped - labels.constant:
        positions = facts.positions(labels.sizes[digit], "is one of several at each place")
        facts.project(whole, expanded(Map((digit,), positions), union))
    return whole


def reshape(facts: Facts, labels: Labels, shape: Sequence[int]) -> Labels:
    """Return the labels of a row-major view of the same coordinates as `shape`."""
    if labels.shape == tuple(shape):
        return labels
    for old, new in reversed(_blocks(labels.shape, shape)):
        if common_digits([_sizes(labels, old), _lengths(shape, new)]) is None:
            labels = _one_axis(pinned(facts, labels, old, "is cut at other places"), old)
    lengths = tuple(length for length in shape if length > 1)
    digits = common_digits([labels.sizes, lengths])
    assert digits is not None
    labels = split(labels, parts_of(labels.sizes, digits))
    axes: list[Shape] = []
    parts = iter(parts_of(lengths, digits))
    for length in shape:
        axes.append(next(parts) if length > 1 else ())
    return tidied(Labels(tuple(axes), labels.maps, labels.constant, labels.places))


def _sizes(labels: Labels, axes: Sequence[int]) -> Shape:
    return tuple(size for axis in axes for size in labels.axes[axis])


def _lengths(shape: Sequence[int], axes: Sequence[int]) -> Shape:
    return tuple(shape[axis] for axis in axes)


def _blocks(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Return the shortest runs of old and new axes that have equal products, in order.

    Axes of length 1 are left out.
    """
    blocks: list[tuple[list[int], list[int]]] = []
    rest = iter(axis for axis, length in enumerate(new) if length > 1)
    p = q = 1
    for axis, length in enumerate(old):
        if length == 1:
            continue
        if p == q:
            blocks.append(([], []))
        blocks[-1][0].append(axis)
        p *= length
        while q < p:
            blocks[-1][1].append(next(rest))
            q *= new[blocks[-1][1][-1]]
    return blocks


def _one_axis(labels: Labels, axes: Sequence[int]) -> Labels:
    """Return `labels` with neighbouring `axes`, whose coordinates are fixed, made one."""
    first, last = axes[0], axes[-1] + 1
    joined = (*labels.axes[:first], _sizes(labels, axes), *labels.axes[last:])
    whole = replace(labels, axes=joined)
    return _replaced(whole, first, (whole.shape[first],))


# -------------------------------------------------------------------------------------- choose


def select(
    facts: Facts, labels: Labels, axis: int, index: Indices, *, drop: bool = False
) -> Labels:
    """Return the labels of the coordinates `index` of `axis`, in that order.

    Args:
        facts: the chosen elements form a part; chosen twice, they get copies.
        labels: of the whole tensor.
        axis: which axis.
        index: coordinates, shape (count,).
        drop: leave the axis out, which then has one coordinate.
    """
    axis %= len(labels.axes)
    length = labels.shape[axis]
    if len(index) == 0:
        return unlabelled([0 if place == axis else n for place, n in enumerate(labels.shape)])
    if len(index) == length and np.array_equal(index, np.arange(length)):
        chosen = labels
    else:
        labels, digit, index = _selected_digit(facts, labels, axis, index)
        chosen = _taken(facts, labels, axis, digit, index)
    if not drop:
        return tidied(chosen)
    axes = (*chosen.axes[:axis], *chosen.axes[axis + 1 :])
    return tidied(Labels(axes, chosen.maps, chosen.constant, chosen.places))


def _selected_digit(
    facts: Facts, labels: Labels, axis: int, index: Indices
) -> tuple[Labels, int, Indices]:
    """Return labels, a digit of `axis` and coordinates of it that choose what `index` chooses."""
    sizes, own = labels.axes[axis], labels.digits(axis)
    if len(own) > 1:
        inner = math.prod(sizes[1:])
        outer_index = index[::inner] // inner
        if np.array_equal((outer_index[:, None] * inner + np.arange(inner)).reshape(-1), index):
            return labels, own.start, outer_index
        outer = math.prod(sizes[:-1])
        last = index[: len(index) // outer]
        steps = np.arange(outer)[:, None] * sizes[-1]
        if np.array_equal((steps + last).reshape(-1), index) and (last < sizes[-1]).all():
            return labels, own.stop - 1, last
        labels = flattened(facts, labels, axis)
    return labels, own.start, index


def _taken(facts: Facts, labels: Labels, axis: int, digit: int, index: Indices) -> Labels:
    size, count = labels.sizes[digit], len(index)
    partial, repeated = len(set(index.tolist())) < size, len(set(index.tolist())) < count
    maps = []
    for digits, elements in labels.maps:
        if digit in digits:
            elements = elements.take(index, axis=digits.index(digit))
            if partial:
                facts.part(np.unique(elements))
            if repeated:
                elements = facts.copies(elements)
        maps.append(Map(digits, elements))
    place = digit - labels.digits(axis).start
    row = list(labels.axes[axis])
    row[place] = count
    axes = (*labels.axes[:axis], tuple(row), *labels.axes[axis + 1 :])
    result = Labels(axes, tuple(maps), labels.constant, labels.places)
    return result if count > 1 else _without_digit(result, axis, digit)


def _without_digit(labels: Labels, axis: int, digit: int) -> Labels:
    """Return `labels` without a digit that has at most one coordinate."""

    def number(d: int) -> int:
        return d if d < digit else d - 1

    maps = []
    for digits, elements in labels.maps:
        if digit in digits and elements.size:
            elements = elements.take(0, axis=digits.index(digit))
        left = tuple(number(d) for d in digits if d != digit)
        if left and elements.size:
            maps.append(Map(left, elements))
    place = digit - labels.digits(axis).start
    row = (*labels.axes[axis][:place], *labels.axes[axis][place + 1 :])
    axes = (*labels.axes[:axis], row, *labels.axes[axis + 1 :])
    constant = frozenset(number(d) for d in labels.constant if d != digit)
    return Labels(axes, tuple(maps), constant, labels.places)


# ---------------------------------------------------------------------------------------- cat


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
    others = "".join(_LETTERS[place] for place in range(len(flat[0].axes)))
    cut = others[:axis] + "{}" + others[axis + 1 :]
    spelled = [(labels, cut.format(chr(ord("A") + i))) for i, labels in enumerate(flat)]
    flat = [labels for labels, _ in _aligned(facts, spelled)]
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
        return Labels(template.axes, join(facts, rest, fixed), constant)
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
    return Labels(template.axes, joined, constant)


def _piece(facts: Facts, part: Labels, digits: list[int], along: int, length: int) -> Indices:
    """Return elements of one part over `digits`, `along` being the axis of concatenation."""
    shape = [length if digit == along else part.sizes[digit] for digit in digits]
    touching = [m for m in part.maps if along in m.digits]
    if len(touching) == 1 and list(touching[0].digits) == digits:
        return touching[0].elements
    if not touching and len(digits) == 1:
        if along in part.constant:
            return facts.fresh(shape)
        return facts.positions(length, f"stands beside others as one of {part.places}")
    whole = facts.fresh(shape)
    for map_ in part.maps:
        if set(map_.digits) <= set(digits):
            facts.project(whole, expanded(map_, digits))
    inside = {d for m in part.maps if set(m.digits) <= set(digits) for d in m.digits}
    for digit in set(digits) - inside - part.constant:
        size = length if digit == along else part.sizes[digit]
        positions = facts.positions(size, f"stands beside others as one of {part.places}")
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
    return Labels(template.axes, join(facts, maps, {}), constant)


# -------------------------------------------------------------------------------------- others


def pinned(facts: Facts, labels: Labels, axes: Iterable[int], reason: str) -> Labels:
    """Return `labels` whose coordinates along `axes` stay where they are, with one digit each."""
    wanted = sorted({axis % len(labels.axes) for axis in axes})
    facts.pin_digits(labels, [d for axis in wanted for d in labels.digits(axis)], reason)
    for axis in wanted:
        own = list(labels.digits(axis))
        left = [d for d in range(len(labels.sizes)) if d not in own]
        maps = [facts.blocks(m, left) for m in labels.maps if set(m.digits) & set(left)]
        plain = Labels(labels.axes, tuple(maps), labels.constant - set(own), labels.places)
        labels = _replaced(plain, axis, (plain.shape[axis],) if own else ())
    return labels


def resized(labels: Labels, shape: Sequence[int]) -> Labels:
    """Return `labels` of a tensor of another `shape` along axes that carry no map."""
    for axis, length in enumerate(shape):
        if labels.shape[axis] != length:
            labels = _replaced(labels, axis, (length,) if length > 1 else ())
    return labels


def opened(labels: Labels, axis: int) -> Labels:
    """Return `labels` with a new axis of length 1 in front of `axis`."""
    axes = (*labels.axes[:axis], (), *labels.axes[axis:])
    return Labels(axes, labels.maps, labels.constant, labels.places)


def broadcast(labels: Labels, shape: Sequence[int]) -> Labels:
    """Return the labels of a view that repeats axes of length 1, and new leading axes."""
    for _ in range(len(shape) - len(labels.axes)):
        labels = opened(labels, 0)
    for axis, length in enumerate(shape):
        if labels.shape[axis] == 1 and length > 1:
            labels = _replaced(labels, axis, (length,))
            labels = Labels(
                labels.axes,
                labels.maps,
                labels.constant | set(labels.digits(axis)),
                labels.places,
            )
    return labels


def frozen(facts: Facts, labels: Labels, reason: str) -> None:
    """State that nothing in `labels` may move."""
    for map_ in labels.maps:
        facts.freeze(map_.elements, reason)


def constant(shape: Sequence[int]) -> Labels:
    """Return the labels of a tensor that has one value everywhere."""
    return unlabelled(shape, constant=True)
