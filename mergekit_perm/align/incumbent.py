"""The best members so far by the loss of mixtures, and networks as members permute them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from mergekit_perm.align.descent import Members, then
from mergekit_perm.align.examples import Examples
from mergekit_perm.align.exchanges import Exchange
from mergekit_perm.align.mixtures import Excess
from mergekit_perm.align.views import State
from mergekit_perm.members import Member
from mergekit_perm.permspec import PermutationSpec


class Incumbent:
    """The best members so far by the excess of mixtures, and how it fell."""

    def __init__(
        self,
        spec: PermutationSpec,
        examples: Examples,
        states: Mapping[str, State],
        placed: Mapping[str, State],
        *,
        count: int,
        batch_size: int,
        seed: int,
    ) -> None:
        """Measure the networks as they are; it knows of no members yet.

        Args:
            spec: a bound permutation spec.
            examples: what mixtures are measured on.
            states: the networks, by name.
            placed: the same tensors of some names, on the device of `examples`; those of the
                networks' own dtype are used instead of further copies.
            count: examples at most; for this and what follows see `Excess`.
            batch_size: examples at a time, where not all can be.
            seed: which examples.
        """
        self.spec = spec
        self.states = {
            name: {
                tensor: value.to(examples.device)
                for tensor, value in {**state, **_alike(placed[name], state)}.items()
            }
            for name, state in states.items()
        }
        self.excess = Excess(
            examples, list(self.states.values()), count=count, batch_size=batch_size, seed=seed
        )
        # By group, the tensors that an exchange of its elements moves.
        self._moving = {group: list(spec.carriers(group)) for group in spec.groups}
        self.lowest = float("inf")
        self.members: Members = {}
        self.trace: list[float] = []

    def fresh(self) -> Incumbent:
        """Return one that measures as this one does, and knows of no members yet."""
        other = object.__new__(Incumbent)
        other.spec, other.states, other.excess = self.spec, self.states, self.excess
        other._moving = self._moving
        other.lowest, other.members, other.trace = float("inf"), {}, []
        return other

    def permuted(
        self, members: Members, known: Mapping[str, State] | None = None
    ) -> dict[str, dict[str, torch.Tensor]]:
        """Return the networks as `members` permute them.

        Args:
            members: of all networks.
            known: by network, tensors that are permuted already; those of the networks' own dtype
                are taken as they are.
        """
        return {
            name: self._permuted(members[name], state, (known or {}).get(name, {}))
            for name, state in self.states.items()
        }

    def _permuted(self, member: Member, state: State, known: State) -> dict[str, torch.Tensor]:
        there = _alike(known, state)
        others = self.spec.act(member, {t: own for t, own in state.items() if t not in there})
        return {t: there[t] if t in there else others[t] for t in state}

    def exchange(
        self, exchanges: Sequence[Exchange], permuted: dict[str, dict[str, torch.Tensor]]
    ) -> dict[str, dict[str, torch.Tensor]] | None:
        """Exchange elements, of one network each, if mixtures are better for it.

        Args:
            exchanges: of elements of the incumbent.
            permuted: the networks as the incumbent permutes them.

        Returns:
            The networks after that, or None.
        """
        before, members, moved = self.lowest, dict(self.members), dict(permuted)
        for each in exchanges:
            name, step = each.network, each.step(self.spec.groups)
            moving = {tensor: permuted[name][tensor] for tensor in self._moving[each.group]}
            members[name] = then(members[name], step)
            moved[name] = {**permuted[name], **self.spec.act(step, moving)}
        self.consider(members, moved)
        return moved if self.lowest < before else None

    def consider(self, members: Members, permuted: Mapping[str, State]) -> None:
        """Keep `members`, which permute the networks to `permuted`, if mixtures are better."""
        excess = self.excess(list(permuted.values()), limit=self.lowest)
        if not self.members or excess < self.lowest:
            self.lowest = excess
            self.members = {name: dict(member) for name, member in members.items()}
        self.trace.append(self.lowest)

    def take(self, other: Incumbent) -> None:
        """Keep what another start has found if it is better."""
        if not self.members or other.lowest < self.lowest:
            self.lowest, self.members = other.lowest, other.members
        least = self.trace[-1] if self.trace else float("inf")
        self.trace += [min(value, least) for value in other.trace]


def _alike(tensors: State, state: State) -> State:
    """Return those of `tensors` that have the name and the dtype of one of `state`."""
    return {
        name: tensor
        for name, tensor in tensors.items()
        if name in state and tensor.dtype == state[name].dtype
    }
