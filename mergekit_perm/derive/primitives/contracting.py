"""Products, sums and everything elementwise: what stands at one letter moves alike."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from mergekit_perm.derive.facts import Facts
from mergekit_perm.derive.labels import (
    Labels,
    Map,
    Shape,
    common_digits,
    lost_in,
    tidied,
    transposed,
)
from mergekit_perm.derive.primitives.fixing import plain
from mergekit_perm.derive.primitives.joining import join
from mergekit_perm.derive.primitives.regrouping import refined

LETTERS = "abcdefghijklmnopqrstuvwxyz"


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
    operands = aligned(facts, operands)
    _note_sums(facts, operands, out)
    space = {letter: _letter_digits(letter, operands, sizes) for letter in letters}
    starts = dict(
        zip(letters, itertools.accumulate([0, *(len(space[x]) for x in letters)]), strict=False)
    )
    maps: list[Map] = []
    fixed: dict[int, str] = {}
    constant = set(range(sum(map(len, space.values()))))
    for labels, spelled in operands:
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
        lost_in(labels for labels, _ in operands),
    )
    summed = [letters.index(letter) for letter in letters if letter not in out]
    reduced = reduce(facts, joined, summed)
    kept = [letter for letter in letters if letter in out]
    return tidied(transposed(reduced, [kept.index(letter) for letter in out]))


def aligned(facts: Facts, operands: Sequence[tuple[Labels, str]]) -> list[tuple[Labels, str]]:
    """Return the operands with the same digits wherever they have the same letter."""
    factorings: dict[str, set[Shape]] = {}
    for labels, spelled in operands:
        for axis, letter in enumerate(spelled):
            if labels.axes[axis]:
                found = factorings.setdefault(letter, set())
                found.update(() if plain(labels, axis) else [labels.axes[axis]])
    common = {letter: common_digits(found) for letter, found in factorings.items()}
    result = []
    for labels, spelled in operands:
        for axis, letter in enumerate(spelled):
            if labels.axes[axis] and letter in common:
                digits = common[letter] or (labels.shape[axis],)
                labels = refined(facts, labels, axis, digits)
        result.append((labels, spelled))
    return result


def _note_sums(facts: Facts, operands: Sequence[tuple[Labels, str]], out: str) -> None:
    """Note the elements that are summed away with nothing beside them but equal values."""
    axes = [(labels, x, axis) for labels, spelled in operands for axis, x in enumerate(spelled)]
    for letter in {letter for _, letter, _ in axes} - set(out):
        there = [(labels, labels.digits(axis)) for labels, x, axis in axes if x == letter]
        for place in range(max(len(digits) for _, digits in there)):
            varying = [
                (labels, digits[place])
                for labels, digits in there
                if digits and digits[place] not in labels.constant
            ]
            for labels, digit in varying if len(varying) == 1 else ():
                facts.alike += [m.elements.reshape(-1) for m in labels.maps if digit in m.digits]


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


def combine(facts: Facts, shape: Sequence[int], operands: Iterable[Labels]) -> Labels:
    """Return the labels of an elementwise function of operands that broadcast to `shape`."""
    letters = LETTERS[: len(shape)]
    spelled = [(labels, letters[len(shape) - len(labels.axes) :]) for labels in operands]
    return contract(facts, spelled, letters, dict(zip(letters, shape, strict=True)))


def reduce(facts: Facts, labels: Labels, axes: Iterable[int], *, keep_axes: bool = False) -> Labels:
    """Return the labels after a symmetric function (sum, mean, maximum, norm) over `axes`."""
    gone = {axis % len(labels.axes) for axis in axes}
    if not gone:
        return labels
    dropped = {digit for axis in gone for digit in labels.digits(axis)}
    left = [digit for digit in range(len(labels.sizes)) if digit not in dropped]
    facts.summed += [m.elements.reshape(-1) for m in labels.maps if dropped & set(m.digits)]
    maps = [facts.blocks(m, left) if dropped & set(m.digits) else m for m in labels.maps]
    number = {digit: place for place, digit in enumerate(left)}
    renamed = [Map(tuple(number[digit] for digit in m.digits), m.elements) for m in maps]
    shape = [
        () if axis in gone else sizes
        for axis, sizes in enumerate(labels.axes)
        if keep_axes or axis not in gone
    ]
    constant = frozenset(number[digit] for digit in labels.constant if digit in number)
    return Labels(tuple(shape), join(facts, renamed, {}), constant, labels.places)


def normalise(facts: Facts, labels: Labels, axes: Iterable[int]) -> Labels:
    """Return the labels after every coordinate came to depend on all others along `axes`."""
    return combine(facts, labels.shape, [labels, reduce(facts, labels, axes, keep_axes=True)])
