"""Exchanges of two elements of a group, the most promising by the gradient of a loss first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mergekit_perm.align.rows import Rows
from mergekit_perm.align.views import State
from mergekit_perm.groups import Groups
from mergekit_perm.members import assemble
from mergekit_perm.permutation import Indices

RowsByGroup = Mapping[str, list[tuple[str, Rows]]]


@dataclass(frozen=True, slots=True)
class Exchange:
    """Two elements of one block of a group of one network, in each other's place.

    Attributes:
        change: how much the loss changes to first order.
        network: the name of the network.
        group: the group, of which an outermost one has a single block.
        block: which block.
        first: one element of it.
        second: another one.
    """

    change: float
    network: str
    group: str
    block: int
    first: int
    second: int

    def step(self, groups: Groups) -> dict[str, Indices]:
        """Return the member of the symmetry group that does this and nothing else."""
        group = groups[self.group]
        move = np.tile(np.arange(group.size), (_blocks(groups, self.group), 1))
        move[self.block, [self.first, self.second]] = self.second, self.first
        return assemble(groups, {self.group: move if group.within else move[0]})


def promising(
    groups: Groups,
    rows: RowsByGroup,
    states: Mapping[str, State],
    gradients: Mapping[str, State],
    *,
    most: int,
) -> list[Exchange]:
    """Return up to `most` exchanges that lower a loss to first order, the best first.

    Args:
        groups: of the permutation spec.
        rows: by group, the tensors that carry it.
        states: networks as they stand, by name.
        gradients: of the loss by their tensors.
        most: how many exchanges.
    """
    owners: list[tuple[str, str]] = []
    lowest: list[tuple[torch.Tensor, torch.Tensor]] = []
    for network, gradient in gradients.items():
        for group, parts in rows.items():
            if groups[group].size > 1 and parts:
                blocks = _blocks(groups, group)
                changes = _changes([r for _, r in parts], states[network], gradient, blocks)
                owners.append((network, group))
                lowest.append(_lowest(changes, most))
    if not owners:
        return []
    counts = torch.tensor([len(values) for values, _ in lowest])
    owner = torch.arange(len(owners)).repeat_interleave(counts)
    values, places = (torch.cat(parts) for parts in zip(*lowest, strict=True))
    values, order = values.topk(min(most, len(values)), largest=False)
    found: list[Exchange] = []
    for change, place, which in zip(
        values.tolist(), places[order].tolist(), owner[order.cpu()].tolist(), strict=True
    ):
        if change < 0:
            network, group = owners[which]
            elements = _elements(place, groups[group].size)
            found.append(Exchange(change, network, group, *elements))
    return found


def trials(found: Sequence[Exchange], together: int) -> Iterator[list[Exchange]]:
    """Yield what to try in turn: the best of several networks at once, of fewer, and each alone.

    Args:
        found: exchanges, the best first.
        together: how many at once at first, each of another network; then half as many.
    """
    best: dict[str, Exchange] = {}
    for each in found:
        best.setdefault(each.network, each)
    while together > 1:
        if len(best) > 1:
            yield list(best.values())[:together]
        together //= 2
    yield from ([each] for each in found)


def _blocks(groups: Groups, group: str) -> int:
    within = groups[group].within
    return 1 if within is None else groups.length(within)


def _changes(rows: list[Rows], state: State, gradient: State, blocks: int) -> torch.Tensor:
    """Return the first-order change of the loss for all pairs within blocks: (blocks, n, n).

    With s[i, j] the inner product of the gradient at element i with what element j carries,
    exchanging i and j changes the loss by s[i, j] + s[j, i] - s[i, i] - s[j, j].
    """
    similarity: torch.Tensor | None = None
    for each in rows:
        down, own = each(gradient), each(state)
        down, own = (part.reshape(blocks, -1, part.shape[1]) for part in (down, own))
        product = down @ own.transpose(1, 2)
        similarity = product if similarity is None else similarity.add_(product)
    assert similarity is not None
    still = similarity.diagonal(dim1=1, dim2=2)
    return similarity + similarity.transpose(1, 2) - still[:, :, None] - still[:, None, :]


def _lowest(changes: torch.Tensor, most: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the lowest of `changes` (blocks, n, n) with i < j, and their places in them.

    The others are taken as 0.
    """
    flat = changes.triu(1).flatten()
    values, places = flat.topk(min(most, len(flat)), largest=False)
    return values, places


def _elements(place: int, size: int) -> tuple[int, int, int]:
    """Return which block and which two elements of it stand at `place` of (blocks, n, n)."""
    return place // size**2, place // size % size, place % size
