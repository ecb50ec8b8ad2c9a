"""The greedy soup: a mean that a network joins only if that lowers the loss on other examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mergekit_perm.errors import MergeError
from mergekit_perm.merge.given import checked
from mergekit_perm.weighted import State, weighted_sum


@dataclass(frozen=True, slots=True)
class Soup:
    """A greedy soup.

    Attributes:
        state: the mean of the networks in it.
        networks: their names, in the order in which they joined.
        losses: by every network the loss that was measured when it was tried: alone the first.
    """

    state: State
    networks: tuple[str, ...]
    losses: Mapping[str, float]


def greedy_soup(states: Mapping[str, State], *, loss: Callable[[State], float]) -> Soup:
    """Return the mean of those networks that lower the held-out loss (arXiv 2203.05482).

    Networks are tried from the lowest loss of their own up; each joins the mean of those before if
    the loss of the mean becomes lower. Of networks with the same loss the first goes first.

    Args:
        states: state dicts by network name, with the same tensors.
        loss: of a network on examples that none of them was trained on; called about twice for
            every network.

    Raises:
        MergeError: no networks, networks that differ, or no network with a finite loss.
    """
    checked("greedy_soup", states, None, positive=True)
    alone = {name: loss(state) for name, state in states.items()}
    ordered = sorted(states, key=lambda name: (alone[name] != alone[name], alone[name]))
    first = ordered[0]
    if not alone[first] < float("inf"):
        raise MergeError("greedy_soup: no network has a finite loss, so that there is no best one")
    soup, chosen, lowest = states[first], [first], alone[first]
    tried = {first: lowest}
    for name in ordered[1:]:
        mixed = _joined(soup, states[name], len(chosen))
        tried[name] = loss(mixed)
        if tried[name] < lowest:
            soup, lowest = mixed, tried[name]
            chosen.append(name)
    mean = {
        tensor: weighted_sum(
            [states[name][tensor] for name in chosen], [1 / len(chosen)] * len(chosen)
        )
        for tensor in soup
    }
    return Soup(mean, tuple(chosen), tried)


def _joined(soup: State, state: State, count: int) -> State:
    """Return the mean of `count` networks, whose mean is `soup`, and one more."""
    shares = [count / (count + 1), 1 / (count + 1)]
    return {tensor: weighted_sum([soup[tensor], state[tensor]], shares) for tensor in soup}
