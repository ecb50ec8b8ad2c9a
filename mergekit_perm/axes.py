"""The axis language: what permutes the coordinates of one axis of one tensor.

    64               64 coordinates that stay where they are; `_` for as many as the tensor has
    g                permuted by group g; for a nested group, its whole length (outer x inner)
    a * b            row-major product, a outermost: `conv5 * 49`, `heads * dim`
    a + b            concatenation: `g + g`, `q + k + v`
    g[i:j:k]         coordinates of g in another order, or a part of them; also g[[2, 0, 1]]
    interleave(n, a, b)   n blocks of each in turn: `interleave(heads, q, k, v)` is q, k and v of
                     the first head, then of the second, and so on; n is a number
    inner(g)         the inner permutation of nested group g, chosen by the outer index that another
                     axis of the tensor carries: a grouped convolution is [out, inner(in), 3, 3]
    inner(n, a)      one of n equal blocks of a: the first for the first n-th of the coordinates on
                     the tensor's first other axis longer than 1, and so on; for groups of a
                     convolution that are not alike: [q + k, inner(2, a + b), 3, 3]

Here are the expressions and what they are made of. `axis_text` reads and writes them, `axis_size`
knows how many coordinates they have and which ones they show, `axis_elements` which elements of a
group stand where, and `axis_action` how permutations of the groups move them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mergekit_perm.groups import Groups


@dataclass(frozen=True, slots=True)
class Fixed:
    """`size` coordinates that stay where they are; None is `_`, as many as the tensor has."""

    size: int | None


@dataclass(frozen=True, slots=True)
class Whole:
    """All elements of a group, in order."""

    group: str


@dataclass(frozen=True, slots=True)
class Inner:
    """The inner permutation of a nested group, chosen by the outer index on another axis."""

    group: str


@dataclass(frozen=True, slots=True)
class Product:
    """A row-major product; the first factor is outermost."""

    factors: tuple[Axis, ...]


@dataclass(frozen=True, slots=True)
class Concatenation:
    """Terms one after another."""

    terms: tuple[Axis, ...]


@dataclass(frozen=True, slots=True)
class Interleaving:
    """`blocks` equal blocks of each term in turn: the first of every term, then the second, ..."""

    blocks: int
    terms: tuple[Axis, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """One of `count` equal blocks of `base`, chosen by the block on another axis of the tensor."""

    count: int
    base: Axis


@dataclass(frozen=True, slots=True)
class Slice:
    """Every `step`-th coordinate of `base` from `start` to before `stop`, as Python slices."""

    base: Axis
    start: int | None
    stop: int | None
    step: int | None


@dataclass(frozen=True, slots=True)
class Pick:
    """The named coordinates of `base`, in the order given."""

    base: Axis
    indices: tuple[int, ...]


Leaf = Fixed | Whole | Inner
Part = Slice | Pick
Axis = Leaf | Product | Concatenation | Interleaving | Block | Part


# --------------------------------------------------------------------------------- structure


def leaves(axis: Axis) -> Iterator[Leaf]:
    """Yield the fixed runs and group references of `axis`, left to right."""
    match axis:
        case Product(parts) | Concatenation(parts) | Interleaving(_, parts):
            for part in parts:
                yield from leaves(part)
        case Slice(base) | Pick(base) | Block(_, base):
            yield from leaves(base)
        case _:
            yield axis


def names(axis: Axis) -> set[str]:
    """Return the groups that `axis` refers to."""
    return {leaf.group for leaf in leaves(axis) if not isinstance(leaf, Fixed)}


def groups_of(axes: Sequence[Axis], groups: Groups) -> Groups:
    """Return the groups that the axes of one tensor name, and those that they lie within."""
    named = dict.fromkeys(name for axis in axes for name in sorted(names(axis)))
    return Groups({group.name: group for name in named for group in groups.chain(name)})


def inner_group(axis: Axis) -> str | None:
    """Return the group of `inner(g)` in `axis`, or None."""
    return next((leaf.group for leaf in leaves(axis) if isinstance(leaf, Inner)), None)


def has_inner(axis: Axis) -> bool:
    """Tell whether `axis` depends on a coordinate of another axis of the tensor."""
    return isinstance(axis, Block) or inner_group(axis) is not None


def has_part(axis: Axis) -> bool:
    """Tell whether `axis` takes a part of something or reorders it."""
    match axis:
        case Product(parts) | Concatenation(parts):
            return any(has_part(part) for part in parts)
        case Slice() | Pick() | Interleaving() | Block():
            return True
        case _:
            return False
