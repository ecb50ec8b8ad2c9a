"""Repetition in a permutation spec, written the way people write it: one entry for many names.

    starred    the tensors of a module that share one row: `norm1.*`
    folded     names that differ in numbers alone: `blocks.{i:0..11}.mlp`

A row is the text of an entry, cell by cell. `templates` reads what `folded` writes. Entries with
the same text around their numbers become one when the numbers of their keys are all choices from
one list per position, and each number of the rows is the same in all of them or keeps its distance
from one number of the key. Sets grow position by position: first what differs only there.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mergekit_perm.axis_text import NAME

Row = tuple[str, ...]

# Numbers that a template gives back as they were: no leading zeros, no more digits than it reads.
_NUMBER = re.compile(r"(?<![0-9])(?:0|[1-9][0-9]{0,8})(?![0-9])")
_EVERYWHERE = re.compile(r".+", re.DOTALL)
_NOWHERE = re.compile(r"(?!)")
_IN_GROUPS = re.compile(NAME)

# One for every position with several numbers; all eighteen would stand for 262,144 names.
_LETTERS = "ijklmnopqrstuvwxyz"

# Only entries that stand so close are compared, so that thousands are folded at once. VGG needs 4.
_REACH = 8


def starred(rows: Mapping[str, Row], shapes: Mapping[str, Sequence[int]]) -> dict[str, Row]:
    """Write `module.*` for the tensors of a module that all share one row of one cell.

    As in a spec, `*` skips scalars and does not stop at dots. The largest such module is taken.

    Args:
        rows: one row per tensor.
        shapes: the shape of every tensor of the network, those without a row included.
    """
    modules: dict[str, list[str]] = {}
    for name in (name for name, shape in shapes.items() if shape):
        for module in _modules_around(name):
            modules.setdefault(module, []).append(name)
    taken = rows.keys() | shapes.keys()
    sizes = {
        module: len(names)
        for module, names in modules.items()
        if "*" not in module and f"{module}.*" not in taken and _share_a_row(names, rows)
    }
    result: dict[str, Row] = {}
    for name, row in rows.items():
        around = [m for m in _modules_around(name) if m in sizes and shapes.get(name)]
        largest = max(around, key=lambda m: (sizes[m], len(m)), default=None)
        result[name if largest is None else f"{largest}.*"] = row
    return result


def _modules_around(name: str) -> Iterator[str]:
    return (name[: dot.start()] for dot in re.finditer(r"\.", name))


def _share_a_row(names: Sequence[str], rows: Mapping[str, Row]) -> bool:
    row = rows.get(names[0], ())
    return len(names) > 1 and len(row) == 1 and all(rows.get(name) == row for name in names)


def folded(rows: Mapping[str, Row], *, constant: bool = False) -> dict[str, Row]:
    """Write entries that differ in numbers alone as one, with `{i:0..11}` in the key.

    In the row, numbers inside the names of groups may follow the key's, as in `{i}` and `{i-1}`;
    all others, such as sizes, must be equal. An entry stands where its first member stood; what is
    folded does not depend on the order of the entries.

    Args:
        rows: the entries; when a key among them is a template already, all stay as they are.
        constant: all numbers of the rows must be equal: they are reasons, not groups.
    """
    alike: dict[tuple[Row, tuple[Row, ...]], list[_Template]] = {}
    in_key = _NOWHERE if any("{" in key for key in rows) else _EVERYWHERE
    in_row = _NOWHERE if constant else _IN_GROUPS
    for place, (key, row) in enumerate(rows.items()):
        text, numbers = _cut(key, in_key)
        cells = [_cut(cell, in_row) for cell in row]
        roles = tuple(_Role(None, number) for _, inside in cells for number in inside)
        template = _Template(place, tuple((number,) for number in numbers), roles)
        alike.setdefault((text, tuple(pieces for pieces, _ in cells)), []).append(template)
    written = [
        (template.first, template.text(*around))
        for around, templates in alike.items()
        for template in _fewest(templates)
    ]
    return dict(entry for _, entry in sorted(written))


def _cut(text: str, where: re.Pattern[str]) -> tuple[Row, tuple[int, ...]]:
    """Return the pieces of `text` around the numbers inside matches of `where`, and the numbers."""
    found = (match.span() for match in where.finditer(text))
    spans = [number.span() for span in found for number in _NUMBER.finditer(text, *span)]
    edges = [0, *itertools.chain(*spans), len(text)]
    pieces = tuple(text[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True))
    return pieces, tuple(int(text[a:b]) for a, b in spans)


class _Role(NamedTuple):
    """What a number of the row is: `number`, or so much more than the key's at `position`."""

    position: int | None
    number: int

    def text(self, letters: Mapping[int, str]) -> str:
        """Return the number, or the index of the key that it follows."""
        if self.position is None:
            return str(self.number)
        distance = f"{self.number:+}" if self.number else ""
        return f"{{{letters[self.position]}{distance}}}"


@dataclass(frozen=True, slots=True)
class _Template:
    """Entries that can be written as one.

    Attributes:
        first: where the first of them stood.
        lists: for each position of the key, its numbers, ascending.
        roles: for each number of the row, what it is.
    """

    first: int
    lists: tuple[tuple[int, ...], ...]
    roles: tuple[_Role, ...]

    def text(self, key: Row, cells: tuple[Row, ...]) -> tuple[str, Row]:
        """Return the entry, given the pieces around its numbers."""
        several = (place for place, numbers in enumerate(self.lists) if len(numbers) > 1)
        letters = dict(zip(several, _LETTERS, strict=False))
        declared = (
            f"{{{letters[place]}:{_ranges(numbers)}}}" if place in letters else str(numbers[0])
            for place, numbers in enumerate(self.lists)
        )
        used = (role.text(letters) for role in self.roles)
        return _filled(key, declared), tuple(_filled(pieces, used) for pieces in cells)


def _filled(pieces: Row, numbers: Iterator[str]) -> str:
    return pieces[0] + "".join(next(numbers) + piece for piece in pieces[1:])


def _ranges(numbers: Iterable[int]) -> str:
    runs: dict[int, list[int]] = {}
    for place, number in enumerate(numbers):
        runs.setdefault(number - place, []).append(number)
    return ",".join(
        f"{run[0]}..{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs.values()
    )


def _fewest(templates: list[_Template]) -> list[_Template]:
    """Join templates that are alike into as few as can be found, and the plainest of those.

    Which position comes first decides what is found, blocks of stages or stages of blocks: each is
    tried, and the others follow from the innermost outwards.
    """
    positions = range(len(templates[0].lists) - 1, -1, -1)
    varying = [p for p in positions if len({template.lists[p] for template in templates}) > 1]
    orders = [[first, *(p for p in varying if p != first)] for first in varying]
    found = [_joined(templates, order) for order in orders] or [templates]
    return min(found, key=lambda each: (len(each), sum(_distance(t.roles) for t in each)))


def _distance(roles: Iterable[_Role]) -> int:
    """Return how far a row is from using the indices of its key as they are."""
    return sum(abs(role.number) for role in roles if role.position is not None)


def _joined(templates: list[_Template], order: Iterable[int]) -> list[_Template]:
    for position in order:
        lines: dict[tuple[tuple[int, ...], ...], list[_Template]] = {}
        for template in sorted(templates, key=lambda t: t.lists[position]):
            rest = template.lists[:position] + template.lists[position + 1 :]
            lines.setdefault(rest, []).append(template)
        templates = [joined for line in lines.values() for joined in _join(line, position)]
    return templates


def _join(line: list[_Template], position: int) -> Iterator[_Template]:
    """Join templates whose keys differ only at `position`, where each has one number."""
    sets: dict[tuple[_Role, ...], set[int]] = {}
    for a, one in enumerate(line):
        for b, other in enumerate(line[a + 1 : a + 1 + _REACH], a + 1):
            roles = _common_roles(one, other, position)
            if roles is not None:
                sets.setdefault(roles, set()).update((a, b))
    left = set(range(len(line)))
    for roles in sorted(sets, key=lambda roles: (-len(sets[roles]), _distance(roles))):
        members = [line[place] for place in sorted(sets[roles] & left)]
        if len(members) > 1:
            left -= sets[roles]
            lists = list(members[0].lists)
            lists[position] = tuple(member.lists[position][0] for member in members)
            yield _Template(min(member.first for member in members), tuple(lists), roles)
    yield from (line[place] for place in sorted(left))


def _common_roles(a: _Template, b: _Template, position: int) -> tuple[_Role, ...] | None:
    """Return the roles that hold for both templates, or None."""
    start, step = a.lists[position][0], b.lists[position][0] - a.lists[position][0]
    roles: list[_Role] = []
    for one, other in zip(a.roles, b.roles, strict=True):
        if one == other:
            roles.append(one)
        elif one.position is other.position is None and other.number - one.number == step:
            roles.append(_Role(position, one.number - start))
        else:
            return None
    return tuple(roles)
