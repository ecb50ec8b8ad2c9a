"""Exchanges: their first-order change is that of the loss, for nested groups too."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from mergekit_perm import checkpoints, derive, networks
from mergekit_perm.align.exchanges import Exchange, promising, trials
from mergekit_perm.align.rows import rows_by_group
from mergekit_perm.permspec import PermutationSpec

torch.set_num_threads(1)

NETWORKS = [
    ("mlp", {"in_features": 3, "hidden": [4, 5], "num_classes": 2}),
    ("test_vit", {"num_classes": 2, "depth": 2, "embed_dim": 32, "num_heads": 4}),
    (
        "resnext50_32x4d",
        {
            **{"num_classes": 2, "layers": [1] * 4, "channels": [16, 32, 64, 128]},
            **{"stem_width": 16, "cardinality": 8, "base_width": 32},
        },
    ),
]

State = dict[str, torch.Tensor]


def family(name: str, options: dict[str, object]) -> tuple[PermutationSpec, State, State]:
    """Return a spec, the weights of a network in float64, and a gradient by them."""
    module = networks.build(name, options, seed=0).double()
    spec = derive.find(name, options, checkpoints.shapes(module)).spec
    generator = torch.Generator().manual_seed(1)
    state = {n: p.detach().clone() for n, p in module.named_parameters() if n in spec.axes}
    gradient = {
        n: torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in state.items()
    }
    return spec, state, gradient


def change(spec: PermutationSpec, exchange: Exchange, state: State, gradient: State) -> float:
    """Return the first-order change, from the exchange itself."""
    moved = spec.act(exchange.step(spec.groups), state)
    return sum(float((gradient[n] * (moved[n] - t)).sum()) for n, t in state.items())


@pytest.mark.parametrize(("name", "options"), NETWORKS, ids=lambda value: str(value)[:9])
def test_the_change_is_that_of_the_loss_to_first_order(
    name: str, options: dict[str, object]
) -> None:
    spec, state, gradient = family(name, options)
    rows = rows_by_group(spec, list(state))
    twice = {
        group
        for group in spec.groups
        if len({tensor for tensor, _ in rows[group]}) < len(rows[group])
    }
    found = promising(spec.groups, rows, {"a": state}, {"a": gradient}, most=10**6)
    assert found == sorted(found, key=lambda each: each.change)
    generator = np.random.default_rng(0)
    kinds: dict[str, int] = {}
    for place in generator.permutation(len(found)):
        exchange = found[place]
        kinds[exchange.group] = kinds.get(exchange.group, 0) + 1
        if kinds[exchange.group] > 3 or exchange.group in twice:
            continue  # where a tensor carries a group twice, both axes move and it is not exact
        exact = change(spec, exchange, state, gradient)
        assert exchange.change < 0 and exact == pytest.approx(exchange.change, rel=1e-9)
    assert kinds.keys() >= {g.name for g in spec.groups.values() if g.size > 4}
    nested = [g.name for g in spec.groups.values() if g.within]
    assert bool(nested) == (name != "mlp")


def test_all_pairs_are_looked_at_and_the_best_come_first() -> None:
    spec, state, gradient = family(*NETWORKS[0])
    rows = rows_by_group(spec, list(state))
    exact = {
        (group.name, i, j): change(spec, Exchange(0.0, "a", group.name, 0, i, j), state, gradient)
        for group in spec.groups.values()
        for i, j in itertools.combinations(range(group.size), 2)
    }
    lower = sorted((value, place) for place, value in exact.items() if value < 0)
    found = promising(spec.groups, rows, {"a": state}, {"a": gradient}, most=100)
    assert [(e.group, e.first, e.second) for e in found] == [place for _, place in lower]
    best = promising(spec.groups, rows, {"a": state}, {"a": gradient}, most=3)
    assert best == found[:3]


def test_an_exchange_moves_two_elements_and_is_its_own_inverse() -> None:
    spec, state, _ = family(*NETWORKS[1])
    for group in spec.groups.values():
        exchange = Exchange(-1.0, "a", group.name, 0, 0, group.size - 1)
        step = exchange.step(spec.groups)
        assert (step[group.name] != np.arange(spec.groups.length(group.name))).sum() == 2
        there = spec.act(step, state)
        back = spec.act(step, there)
        assert any(not torch.equal(there[n], t) for n, t in state.items())
        assert all(torch.equal(back[n], t) for n, t in state.items())


def test_exchanges_of_several_networks_are_tried_at_once_and_then_fewer() -> None:
    found = [Exchange(rank - 9.0, network, "g", 0, rank, 9) for rank, network in enumerate("aabcb")]
    a, more_of_a, b, c, _ = found
    alone = [[each] for each in found]
    assert list(trials(found, 4)) == [[a, b, c], [a, b], *alone]
    assert list(trials(found, 1)) == alone
    assert list(trials([a, more_of_a], 4)) == [[a], [more_of_a]]  # of one network: never at once
    assert list(trials([], 4)) == []
