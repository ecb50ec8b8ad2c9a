"""From facts to cells: sets of coordinates that may be permuted, and how they lie in one another.

Elements that match are one *node*. Colours of nodes are refined until they are stable: nodes of one
colour, a *cell*, have the same kind of neighbours. Between cells, projections are functions. Cells
that a function puts in bijection are one; and where a cell lies in two others, one of which the
other determines, the function between those two is found as well. What is left is a small graph of
cells of decreasing size, from which `structure` reads the groups.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mergekit_perm.derive.facts import Facts
from mergekit_perm.permutation import Indices

Colours = npt.NDArray[np.uint64]


@dataclass(slots=True)
class Cells:
    """The cells of a network.

    Attributes:
        cell: of every element, the cell it belongs to.
        place: of every element, its place in that cell.
        sizes: of every cell. A cell of size 1 stays where it is.
        kind: of every element, a number that it shares with the elements it may take the place of
            (and with no other element of its node).
        within: for each cell, the larger blocks it lies in: (cell, the place there of every place).
        conflicts: cells whose places are mixed with one another in an order that only an
            unusual permutation would keep: they have to be frozen.
    """

    cell: Indices
    place: Indices
    sizes: list[int]
    kind: Colours
    within: dict[int, list[tuple[int, Indices]]] = field(default_factory=dict)
    conflicts: set[int] = field(default_factory=set)


def find_cells(facts: Facts) -> Cells:
    """Return the cells that `facts` leave."""
    if not facts.count:
        none: Indices = np.empty(0, dtype=np.int64)
        return Cells(none, none, [], mixed(none))
    node = components(facts.count, facts.matches)
    roles = _roles(facts, node)
    colour, edges = _stable(facts, node, roles)
    cell, place, sizes = _numbered(colour)
    kind = mixed(roles + mixed(cell[node]))
    return _Merging(cell, place, sizes, edges).result(node, kind)


def components(count: int, pairs: list[tuple[Indices, Indices]]) -> Indices:
    """Return a number for each of `count` elements, the same for those that `pairs` connect.

    Numbers are 0, 1, ... in the order in which their first elements stand.
    """
    root = np.arange(count)
    a, b, _ = _concatenated(pairs)
    while True:
        low = np.minimum(root[a], root[b])
        before = root.copy()
        for side in (root[a], root[b], a, b):
            np.minimum.at(root, side, low)
        while not np.array_equal(root, root[root]):
            root = root[root]
        if np.array_equal(before, root):
            break
    numbers: Indices = np.unique(root, return_inverse=True)[1].reshape(-1)
    return numbers


# ----------------------------------------------------------------------------------- colouring


def mixed(values: Colours | Indices) -> Colours:
    """Return well-scattered 64-bit numbers for `values` (the finaliser of splitmix64)."""
    x = values.astype(np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x ^= x >> np.uint64(shift)
        x *= np.uint64(factor)
    return x ^ (x >> np.uint64(31))


def _roles(facts: Facts, node: Indices) -> Colours:
    """Return what every element is, besides where it stands: equal for elements that may swap."""
    counts = [origin.count for origin in facts.origins]
    roles = mixed(np.repeat(np.arange(len(counts)), counts))
    for number, (part, _) in enumerate(facts.parts):
        roles[part] = mixed(roles[part] + np.uint64(2 * number + 1))
    for elements, *_ in facts.frozen:
        roles[elements] = mixed(elements) + np.uint64(1)
    return _told_apart(facts, node, roles)


def _told_apart(facts: Facts, node: Indices, roles: Colours) -> Colours:
    """Return roles that differ within every node, refined by how matches connect its elements.

    Where that leaves a choice, as for x and its reverse, one of them is chosen in every node: what
    would swap them is lost.
    """
    a, b, number = _concatenated(facts.matches)
    first = _tied(node, roles)
    if len(first):
        inside = np.isin(node[a], node[first])
        a, b, number = a[inside], b[inside], number[inside]
    while len(first):
        ties = len(np.unique(mixed(roles) + mixed(node)))
        there = mixed(roles[b] * np.uint64(3) + mixed(2 * number))
        back = mixed(roles[a] * np.uint64(3) + mixed(2 * number + 1))
        refined = mixed(roles)
        np.add.at(refined, a, there)
        np.add.at(refined, b, back)
        if len(np.unique(mixed(refined) + mixed(node))) == ties:
            refined[first] += np.uint64(1)
        roles = refined
        first = _tied(node, roles)
    return roles


def _tied(node: Indices, roles: Colours) -> Indices:
    """Return from every node with equal roles the first element of one such role."""
    order = np.lexsort((np.arange(len(node)), roles, node))
    again = (node[order][1:] == node[order][:-1]) & (roles[order][1:] == roles[order][:-1])
    leaders = order[:-1][again & ~np.concatenate([[False], again[:-1]])]
    first: Indices = leaders[np.unique(node[leaders], return_index=True)[1]]
    return first


def _stable(
    facts: Facts, node: Indices, roles: Colours
) -> tuple[Colours, tuple[Indices, Indices, Colours]]:
    """Return the coarsest stable colours of nodes, and the edges between nodes with their kinds."""
    count = int(node.max(initial=-1)) + 1
    colour = np.zeros(count, dtype=np.uint64)
    np.add.at(colour, node, mixed(roles))
    # Which elements of a node a match connects: nodes that differ in that may not swap.
    a, _, kind = _pairs(facts.matches, roles)
    np.add.at(colour, node[a], kind)
    a, b, kind = _pairs(facts.projections, roles)
    child, parent = node[a], node[b]
    down, up = _Gather(child, count), _Gather(parent, count)
    found = 0
    while True:
        known = len(np.unique(colour))
        if known == found:
            return colour, (child, parent, kind)
        found = known
        colour = (
            mixed(colour)
            + down.sums(mixed(colour[parent] * np.uint64(3) + kind))
            + up.sums(mixed(colour[child] * np.uint64(5) + kind))
        )


def _pairs(
    relations: list[tuple[Indices, Indices]], roles: Colours
) -> tuple[Indices, Indices, Colours]:
    """Return the pairs of elements in all `relations`, and the kind of each pair."""
    a, b, number = _concatenated(relations)
    return a, b, mixed(roles[a] * np.uint64(3) + roles[b] * np.uint64(7) + mixed(number))


def _concatenated(relations: list[tuple[Indices, Indices]]) -> tuple[Indices, Indices, Indices]:
    """Return the pairs of elements in all `relations`, and the number of each one's relation."""
    nothing = np.empty(0, dtype=np.int64)
    a, b = (
        np.concatenate([nothing, *(relation[side] for relation in relations)]) for side in (0, 1)
    )
    number = np.repeat(np.arange(len(relations)), [len(first) for first, _ in relations])
    return a, b, number


class _Gather:
    """Sums of values by the node they belong to, for a fixed list of nodes."""

    def __init__(self, nodes: Indices, count: int) -> None:
        self.order = np.argsort(nodes, kind="stable")
        self.at, self.starts = np.unique(nodes[self.order], return_index=True)
        self.count = count

    def sums(self, values: Colours) -> Colours:
        total = np.zeros(self.count, dtype=np.uint64)
        if len(self.at):
            total[self.at] = np.add.reduceat(values[self.order], self.starts)
        return total


def _numbered(colour: Colours) -> tuple[Indices, Indices, list[int]]:
    """Return for every node its cell and its place there, and the sizes of cells.

    Cells are numbered in the order in which their first nodes stand.
    """
    _, first, inverse = np.unique(colour, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    cell = rank[inverse.reshape(-1)]
    sizes = np.bincount(cell, minlength=len(first))
    order = np.argsort(cell, kind="stable")
    place = np.empty(len(cell), dtype=np.int64)
    place[order] = np.arange(len(cell)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return cell, place, sizes.tolist()


# ------------------------------------------------------------------------------------- merging


class _Merging:
    """Cells and the functions between them, while cells in bijection become one."""

    def __init__(
        self,
        cell: Indices,
        place: Indices,
        sizes: list[int],
        edges: tuple[Indices, Indices, Colours],
    ) -> None:
        self.cell, self.place, self.sizes = cell, place, sizes
        self.into: dict[int, tuple[int, Indices]] = {}  # a merged cell -> (cell, place there)
        self.within: dict[int, dict[int, list[Indices]]] = {}
        self.conflicts: set[int] = set()
        self.pending = list(self._functions(*edges))

    def result(self, node: Indices, kind: Colours) -> Cells:
        changed: set[int] = set()
        while self.pending:
            changed |= self._add(*self.pending.pop())
            if not self.pending:
                self.pending = [f for cell in changed for f in self._implied(cell)]
                changed = set()
        starts = np.cumsum([0, *self.sizes])
        became = [self.resolved(number) for number in range(len(self.sizes))]
        place = np.concatenate([to for _, to in became])[starts[self.cell] + self.place]
        cell = np.array([target for target, _ in became])[self.cell]
        within = {
            number: [(target, f) for target, fs in found.items() for f in fs]
            for number, found in self.within.items()
            if number not in self.into
        }
        conflicts = {self.resolved(number)[0] for number in self.conflicts}
        return Cells(cell[node], place[node], self.sizes, kind, within, conflicts)

    def _functions(
        self, child: Indices, parent: Indices, kind: Colours
    ) -> Iterator[tuple[int, int, Indices]]:
        """Yield (cell, cell it lies in, the place there of every place), each function once."""
        sizes = np.array(self.sizes)
        a, b = self.cell[child], self.cell[parent]
        moving = (sizes[a] > 1) & (sizes[b] > 1)
        child, parent, a, b = (x[moving] for x in (child, parent, a, b))
        kind = kind[moving]
        order = np.lexsort((self.place[child], kind, b, a))
        a, b, kind = a[order], b[order], kind[order]
        places, images = self.place[child][order], self.place[parent][order]
        new = (a[1:] != a[:-1]) | (b[1:] != b[:-1]) | (kind[1:] != kind[:-1])
        bounds = [0, *(np.flatnonzero(new) + 1).tolist(), len(a)]
        seen: set[tuple[int, int, bytes]] = set()
        for start, stop in itertools.pairwise(bounds if len(a) else []):
            source, target = int(a[start]), int(b[start])
            # Colours are stable and no element occurs twice, so every place has one image.
            f = np.ascontiguousarray(images[start:stop])
            assert np.array_equal(places[start:stop], np.arange(self.sizes[source]))
            key = (source, target, f.tobytes())
            if key not in seen:
                seen.add(key)
                yield source, target, f

    def resolved(self, cell: int) -> tuple[int, Indices]:
        """Return the cell that `cell` has become, and the place there of every place."""
        place = np.arange(self.sizes[cell])
        while cell in self.into:
            cell, step = self.into[cell]
            place = step[place]
        return cell, place

    def _add(self, source: int, target: int, f: Indices) -> set[int]:
        """Take in one function; return the cells that have new ones."""
        source, from_place = self.resolved(source)
        target, to_place = self.resolved(target)
        g = np.empty(self.sizes[source], dtype=np.int64)
        g[from_place] = to_place[f]
        if source == target:
            if not np.array_equal(g, np.arange(len(g))):
                self.conflicts.add(source)
            return set()
        if self.sizes[source] == self.sizes[target]:
            self._merge(source, target, g)
            return {source, target} - set(self.into)
        known = self.within.setdefault(source, {}).setdefault(target, [])
        if any(np.array_equal(g, other) for other in known):
            return set()
        known.append(g)
        return {source}

    def _merge(self, a: int, b: int, f: Indices) -> None:
        """Make cells in bijection one: the later one becomes the earlier one."""
        if a < b:
            inverse = np.empty_like(f)
            inverse[f] = np.arange(len(f))
            a, b, f = b, a, inverse
        self.into[a] = (b, f)
        moved = [(a, target, g) for target, gs in self.within.pop(a, {}).items() for g in gs]
        for source, targets in self.within.items():
            if a in targets:
                moved += [(source, a, g) for g in targets.pop(a)]
        self.pending += moved

    def _implied(self, cell: int) -> Iterator[tuple[int, int, Indices]]:
        """Yield functions that follow from those of `cell` into other cells, taken in pairs.

        Where one determines the other, there is a function between the two cells. Where neither
        does, both may determine a third: of heads that share keys, and dimensions of keys, the key.
        """
        found = [(t, f) for t, fs in self.within.get(cell, {}).items() for f in fs]
        for (s, f), (t, g) in itertools.combinations(found, 2):
            size, other = self.sizes[s], self.sizes[t]
            pairs, back = np.unique(f * other + g), np.unique(g * size + f)
            if len(pairs) == size:
                yield s, t, pairs % other
            if len(back) == other:
                yield t, s, back % size
            if len(pairs) > max(size, other):
                yield from self._third(s, f, t, g)

    def _third(self, s: int, f: Indices, t: int, g: Indices) -> Iterator[tuple[int, int, Indices]]:
        """Yield functions from `s` and `t` to the finest blocks that are blocks of both."""
        size = self.sizes[s]
        block = components(size + self.sizes[t], [(f, size + g)])
        count, via, through = int(block.max()) + 1, block[:size], block[size:]
        known = (
            target
            for target, fs in self.within.get(s, {}).items()
            for one in fs
            for two in self.within.get(t, {}).get(target, [])
            if self.sizes[target] == count and np.array_equal(one[f], two[g])
        )
        if count > 1 and next(known, None) is None:
            self.sizes.append(count)
            yield s, len(self.sizes) - 1, via
            yield t, len(self.sizes) - 1, through
