"""How members of the symmetry group move the coordinates of one axis.

An expression gives every coordinate a *label* made of group elements and fixed positions. A member
of the group relabels the coordinates; the source of a target coordinate is the coordinate that
carries its new label. Where a label occurs several times (`g + g`), occurrences correspond in the
order in which they stand before parts are taken: `(g + g)[...]` moves as `g + g` does, whatever the
order it shows. This one rule covers every form of the axis language.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

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
from mergekit_perm.axis_size import chosen, interleaved, size
from mergekit_perm.axis_text import format_axis
from mergekit_perm.errors import PermutationSpecError
from mergekit_perm.groups import Groups
from mergekit_perm.members import Member
from mergekit_perm.permutation import Indices


def source(axis: Axis, groups: Groups, member: Member, *, block: int | None = None) -> Indices:
    """Return the source coordinate of every target coordinate of `axis`.

    Args:
        axis: the expression.
        groups: the groups of the spec.
        member: the member of the group; only the groups named in `axis` are looked at.
        block: for an axis with `inner(g)`, the target's index in the outer group of g.

    Raises:
        PermutationSpecError: when the permutations lead out of the axis, which shows only a part
            of a group.
    """
    if isinstance(axis, Whole):  # what the labels come to, for most axes of most networks
        return member[axis.group].copy()
    labels = _labels(axis, groups, member, block, _Fresh(groups.total))
    before: Indices
    before, after = (np.lexsort((labels[2], labels[row])) for row in (0, 1))
    if not np.array_equal(labels[0][before], labels[1][after]):
        raise PermutationSpecError(
            f"axis '{format_axis(axis)}' shows only a part of a group, "
            "so permuting the group leads out of it"
        )
    sources = np.empty_like(before)
    sources[after] = before
    return sources


def _labels(
    axis: Axis, groups: Groups, member: Member, block: int | None, fresh: _Fresh
) -> Indices:
    """Return shape (3, size): labels before and after relabelling, order before taking parts."""
    match axis:
        case Fixed():
            own = fresh.labels(size(axis, groups))
            return _ordered(own, own)
        case Whole(group):
            offset = groups.offsets[group]
            return _ordered(np.arange(groups.length(group)) + offset, member[group] + offset)
        case Inner(group):
            count, outer = groups[group].size, groups[group].within
            if block is None or outer is None:
                raise PermutationSpecError(f"inner({group}) needs an axis that carries '{outer}'")
            first = int(member[outer][block]) * count + groups.offsets[group]
            after = member[group][block * count : (block + 1) * count] + groups.offsets[group]
            return _ordered(np.arange(first, first + count), after)
        case Concatenation(terms):
            joined = _labels(terms[0], groups, member, block, fresh)
            for term in terms[1:]:
                then = _labels(term, groups, member, block, fresh)
                then[2] += joined[2].max(initial=-1) + 1
                joined = np.concatenate([joined, then], axis=1)
            return joined
        case Interleaving(blocks, terms):
            joined = _labels(Concatenation(terms), groups, member, block, fresh)
            return joined[:, interleaved(blocks, [size(term, groups) for term in terms])]
        case Slice(base) | Pick(base):
            all_labels = _labels(base, groups, member, block, fresh)
            return all_labels[:, chosen(axis, all_labels.shape[1])]
        case Block():
            raise PermutationSpecError(f"{format_axis(axis)} needs another axis of the tensor")
        case Product(factors):  # pragma: no branch - the last form
            if axis not in fresh.products:
                labels = _labels(factors[0], groups, member, block, fresh)
                for factor in factors[1:]:
                    labels = _paired(labels, _labels(factor, groups, member, block, fresh), fresh)
                fresh.products[axis] = labels
            return fresh.products[axis].copy()


@dataclass(slots=True)
class _Fresh:
    """Labels that no group has: where the next ones begin, and those of the products so far.

    A product has the same labels wherever it stands on an axis, so that several parts of it are
    parts of one thing: `(a * 4)[0:2] + (a * 4)[2:]` is `a * 4` when `a` has one element.
    """

    next: int
    products: dict[Product, Indices] = field(default_factory=dict)

    def labels(self, count: int) -> Indices:
        self.next += count
        return np.arange(self.next - count, self.next)


def _ordered(before: Indices, after: Indices) -> Indices:
    return np.stack([before, after, np.arange(len(before))])


def _paired(a: Indices, b: Indices, fresh: _Fresh) -> Indices:
    """Return one label for every pair (outer label, inner label), the same in both label rows."""
    _, a_code = np.unique(a[:2], return_inverse=True)
    _, b_code = np.unique(b[:2], return_inverse=True)
    a = np.stack([*a_code.reshape(2, -1), a[2]])[:, :, None]
    b = np.stack([*b_code.reshape(2, -1), b[2]])[:, None, :]
    pairs: Indices = (a * (b.max(axis=(1, 2), initial=0, keepdims=True) + 1) + b).reshape(3, -1)
    pairs[:2] += fresh.next
    fresh.next = int(pairs[:2].max(initial=fresh.next)) + 1
    return pairs
