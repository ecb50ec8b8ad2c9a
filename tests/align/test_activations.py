"""Activations: found where permuted copies show them, comparable, and enough to align by."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from mergekit_perm import axes, checkpoints, derive, networks
from mergekit_perm.align import align
from mergekit_perm.align.activations import (
    _Positions,
    of_activations,
    of_covariances,
    standardise,
)
from mergekit_perm.align.deadline import Deadline
from mergekit_perm.align.examples import Examples
from mergekit_perm.align.sites import Site, find_sites
from mergekit_perm.axis_text import format_axis
from mergekit_perm.data import Split
from mergekit_perm.errors import AlignmentError
from mergekit_perm.permspec import PermutationSpec
from tests.derive.odd_modules import Attention

torch.set_num_threads(1)

State = dict[str, torch.Tensor]


class Attends(Attention):
    """A network whose heads no module takes in."""

    input_shape = (5, 6)


MLP = ("mlp", {"in_features": 5, "hidden": [7, 6], "num_classes": 3})
RESNET = (
    "resnet_cifar",
    {"depth": 8, "width": 4, "norm": "batch_norm", "num_classes": 3, "in_chans": 1, "img_size": 8},
)


def network(architecture: str, options: dict[str, Any], seed: int = 0) -> State:
    module = networks.build(architecture, options, seed=seed)
    return {name: value.clone() for name, value in module.state_dict().items()}


def spec_of(architecture: str, options: dict[str, Any]) -> PermutationSpec:
    shapes = checkpoints.shapes(networks.build(architecture, options, seed=0))
    return derive.find(architecture, options, shapes).spec


def examples(architecture: str, options: dict[str, Any], count: int = 12) -> Examples:
    module = networks.build(architecture, options, seed=0).eval()
    shape = networks.input_shape(module, options)
    inputs = torch.randn(count, *shape, generator=torch.Generator().manual_seed(5))
    labels = torch.arange(count) % 3
    return Examples(module, Split("train", TensorDataset(inputs, labels)), torch.device("cpu"))


def shown(spec: PermutationSpec, sites: Any) -> set[str]:
    named = {name for site in sites for name in axes.names(site.axis)}
    return {outer.name for name in named for outer in spec.groups.chain(name)}


def shown_by(
    architecture: str, options: dict[str, Any]
) -> tuple[PermutationSpec, Examples, tuple[Site, ...]]:
    spec, data = spec_of(architecture, options), examples(architecture, options)
    return spec, data, find_sites(spec, data, network(architecture, options))


def test_sites_of_an_mlp_are_what_layers_take_in() -> None:
    spec = spec_of(*MLP)
    sites = find_sites(spec, examples(*MLP), network(*MLP))
    assert [(site.name, site.dim, format_axis(site.axis)) for site in sites] == [
        ("layers.1:in", 1, "layers.0"),
        ("head:in", 1, "layers.1"),
    ]


@pytest.mark.parametrize(
    "architecture",
    [
        "test_vit",
        "test_resnet",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("densenet121", "levit_128s")),
    ],
)
def test_every_group_of_a_timm_network_shows(architecture: str) -> None:
    spec = spec_of(architecture, {})
    sites = find_sites(spec, examples(architecture, {}, 3), network(architecture, {}))
    assert shown(spec, sites) == set(spec.groups)
    assert len({(site.key, site.dim) for site in sites}) == len(sites)


@pytest.mark.parametrize("hidden", [[2], [2, 2], [2, 3, 2, 16], [3, 3, 3]])
def test_groups_of_few_elements_show_where_they_are(hidden: list[int]) -> None:
    """A random member often moves none of them, or two of them alike."""
    mlp = ("mlp", {"in_features": 5, "hidden": hidden, "num_classes": 3})
    sites = find_sites(spec_of(*mlp), examples(*mlp), network(*mlp))
    layers = [f"layers.{number}" for number in range(len(hidden))]
    taken = [f"{name}:in" for name in (*layers[1:], "head")]
    # Where all of few units are dead, a layer takes in zeros, and they show before the ReLU.
    places = {format_axis(site.axis): site.name for site in sites}
    assert places.keys() == set(layers)
    for layer, at in zip(layers, taken, strict=True):
        assert places[layer] in (at, f"{layer}:out")


@pytest.mark.parametrize("kernel", ["correlation", "covariance", "inner_product"])
def test_sums_over_a_stream_are_the_kernel_of_all_rows(kernel: Any) -> None:
    architecture, options = RESNET
    states = {name: network(architecture, options, seed) for seed, name in enumerate("abc")}
    spec, data, sites = shown_by(architecture, options)
    how: Any = {"kernel": kernel, "count": 12, "seed": 0, "deadline": Deadline()}
    rows = of_activations(states, spec, data, sites, batch_size=12, rows=12 * 64, **how)
    for name in "ac":
        pair = {each: states[each] for each in (name, "b")}
        stream = of_covariances(pair, spec, data, sites, reference="b", batch_size=5, **how)
        assert list(stream.states) == list(pair)
        assert stream.states[name].keys() == rows.states[name].keys()
        for site, covariances in stream.states[name].items():
            expected = rows.states["b"][site] @ rows.states[name][site].T
            assert torch.allclose(covariances.T, expected, atol=1e-5)
            assert torch.equal(stream.states["b"][site], torch.eye(len(covariances)))


def test_few_positions_are_others_in_every_example() -> None:
    architecture, options = RESNET
    states = {"a": network(architecture, options)}
    spec, data, sites = shown_by(architecture, options)
    how: Any = {
        "kernel": "inner_product",
        "count": 12,
        "batch_size": 5,
        "seed": 0,
        "deadline": Deadline(),
    }
    one, every = (of_activations(states, spec, data, sites, rows=r, **how) for r in (12, 12 * 64))
    places = {}
    for site, few in one.states["a"].items():
        found, whole = few * 12**0.5, every.states["a"][site]
        whole = (whole * whole.shape[1] ** 0.5).unflatten(1, (12, -1))
        same = (whole - found[:, :, None]).abs().amax(0) < 1e-5
        assert bool(same.any(1).all())  # each is a position of its own example
        if whole.shape[2] == 64:
            places[site] = same.float().argmax(1).tolist()
    assert places
    assert all(len(set(found)) > 6 for found in places.values())


def test_a_table_that_is_no_examples_own_shows_positions_too() -> None:
    site = Site(("table", "in", 0, 0), 3, axes.Whole("units"), 19)
    table = torch.arange(75.0).reshape(1, 5, 5, 3)
    few = _Positions(2, 12, 0)
    rows = few.chosen(site, table, range(4, 8))
    assert rows.shape == (2, 3)
    assert all(row in table.reshape(-1, 3).tolist() for row in rows.tolist())
    assert rows.equal(few.chosen(site, table, range(8, 12)))  # the same of all networks


def test_the_batch_size_decides_no_row() -> None:
    architecture, options = RESNET
    states = {"a": network(architecture, options)}
    spec, data, sites = shown_by(architecture, options)
    one, other = (
        of_activations(
            states,
            spec,
            data,
            sites,
            count=9,
            batch_size=size,
            rows=30,
            seed=1,
            deadline=Deadline(),
        ).states["a"]
        for size in (2, 9)
    )
    assert all(value.shape[1] in (27, 9) for value in one.values())
    assert all(torch.allclose(value, other[site], atol=1e-5) for site, value in one.items())


def test_after_the_deadline_no_further_examples_are_taken() -> None:
    architecture, options = RESNET
    states = {name: network(architecture, options, seed) for seed, name in enumerate("ab")}
    spec, data, sites = shown_by(architecture, options)
    how: Any = {"count": 12, "batch_size": 5, "rows": 12, "seed": 0}
    shown = of_activations(states, spec, data, sites, deadline=Deadline(0.0), **how)
    assert {t.shape[1] for state in shown.states.values() for t in state.values()} == {5}


def test_a_unit_that_never_changes_says_nothing() -> None:
    rows = torch.stack([torch.arange(6.0), torch.full((6,), 3.0)], dim=1)
    unit = standardise(rows, "correlation")
    kernel = unit.T @ unit
    assert torch.allclose(kernel, torch.tensor([[1.0, 0.0], [0.0, 0.0]]), atol=1e-6)


@pytest.mark.parametrize("reference", ["a", "joint"])
@pytest.mark.parametrize(("architecture", "options"), [MLP, RESNET, ("test_vit", {"depth": 2})])
def test_planted_permutations_come_back(
    architecture: str, options: dict[str, Any], reference: str
) -> None:
    spec, state = spec_of(architecture, options), network(architecture, options)
    planted = {n: spec.random(generator=np.random.default_rng(i)) for i, n in enumerate("bc")}
    copies = {name: spec.apply(member, state) for name, member in planted.items()}
    data = examples(architecture, options, 60 if architecture == "test_vit" else 200)
    family = align(
        {"a": state, **copies}, spec, reference=reference, method="activation_matching",
        model=data.module, data=data.split,
    )  # fmt: skip
    assert family.saw == "inputs"
    inputs = next(data.batches(4, 4))[0]
    for name, member in planted.items():
        alive = {
            group: p
            for group, p in member.items()
            if p.inverse() != family.permutations[name][group]
        }
        # Units that never fire cannot be told apart; anything else is found.
        assert sum(len(p) for p in alive.values()) <= 0.2 * sum(len(p) for p in member.values())
        here, there = (data.run(s, inputs) for s in (state, family.states[name]))
        assert torch.allclose(here, there, atol=1e-4)


@pytest.mark.parametrize("reference", ["a", "joint"])
def test_groups_that_show_nowhere_are_matched_by_weights(reference: str) -> None:
    attention = ("tests.align.test_activations:Attends", {})
    module, spec = networks.build(*attention, seed=0).eval(), spec_of(*attention)
    inputs = torch.randn(40, 5, 6, generator=torch.Generator().manual_seed(5))
    split = Split("train", TensorDataset(inputs, torch.arange(40) % 3))
    data = Examples(module, split, torch.device("cpu"))
    state = network(*attention)
    hidden = set(spec.groups) - shown(spec, find_sites(spec, data, state))
    assert hidden
    planted = {n: spec.random(generator=np.random.default_rng(i)) for i, n in enumerate("bc")}
    copies = {name: spec.apply(member, state) for name, member in planted.items()}
    told: list[tuple[Any, ...]] = []
    family = align(
        {"a": state, **copies}, spec, reference=reference, method="activation_matching",
        model=module, data=split, progress=lambda *event: told.append(event),
    )  # fmt: skip
    for name, member in planted.items():
        for group in spec.groups:
            assert member[group].inverse() == family.permutations[name][group], group
    passes = (
        ["running the networks"] if reference == "joint" else [f"running a and {n}" for n in "bc"]
    )
    assert [event[0] for event in told if event[1:] == (40, 40)] == passes


def test_only_joint_descents_cool() -> None:
    states = {name: network(*RESNET, seed=seed) for seed, name in enumerate("abcdef")}
    spec, data = spec_of(*RESNET), examples(*RESNET, 200)

    def found(reference: str, cooling: int) -> tuple[float, Any]:
        family = align(
            states, spec, reference=reference, method="activation_matching", cooling=cooling,
            max_sweeps=0, model=data.module, data=data.split,
        )  # fmt: skip
        return family.objective, family.permutations

    assert found("a", 10) == found("a", 0)
    # Without a sweep after it, what there is above the start is what the cooled sweeps have found.
    assert found("joint", 10)[0] > found("joint", 0)[0]
    assert found("joint", 10) == found("joint", 10)


def test_data_is_needed() -> None:
    states = {name: network(*MLP, seed=seed) for seed, name in enumerate("ab")}
    with pytest.raises(AlignmentError, match="activation_matching looks at data: give `data`"):
        align(states, spec_of(*MLP), method="activation_matching")
    with pytest.raises(AlignmentError, match="kernel is 'correlation', 'covariance' or 'inner_pro"):
        align(
            states, spec_of(*MLP), method="activation_matching", kernel="cosine",
            model=networks.build(*MLP, seed=0), data=examples(*MLP).split,
        )  # fmt: skip


def test_to_a_reference_every_network_has_an_equal_part_of_the_time() -> None:
    begun = Deadline(12.0, began=time.perf_counter() - 4.5)
    share = begun.share(2)
    assert share.seconds == pytest.approx(3.75, abs=0.2)
    assert not share.passed()
    over = Deadline(1.0, began=time.perf_counter() - 2.0).share(3)
    assert over.seconds == 0.0 and over.passed()
    assert Deadline().share(2).seconds is None
