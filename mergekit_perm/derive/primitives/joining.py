"""What several maps over one index space say together."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping

from mergekit_perm.derive.facts import Facts
from mergekit_perm.derive.labels import Map, expanded
from mergekit_perm.permutation import Indices


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
