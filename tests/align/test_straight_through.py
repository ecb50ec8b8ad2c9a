"""Straight-through estimation: the loss of mixtures falls, the anchor and what was given stay."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from mergekit_perm import data, networks
from mergekit_perm.align import align
from mergekit_perm.align.examples import Examples
from mergekit_perm.align.solution import Solution
from mergekit_perm.align.straight_through import straight_through
from mergekit_perm.align.weight_matching import weight_matching
from mergekit_perm.data import InMemory, Split
from mergekit_perm.errors import AlignmentError
from mergekit_perm.permspec import PermutationSpec
from mergekit_perm.train import Recipe, fit

torch.set_num_threads(1)

State = dict[str, torch.Tensor]
CPU = torch.device("cpu")
ALL = 10_000  # more examples than there are: the fixed examples are the whole split, in order
MLP = {"in_features": 64, "hidden": [16, 16], "num_classes": 10}
RESNET = {"depth": 8, "width": 4, "in_chans": 1, "img_size": 8}


@pytest.fixture(scope="module")
def digits() -> Split:
    return data.load("digits", splits=["train"]).splits["train"]


@pytest.fixture(scope="module")
def mlps(digits: Split) -> dict[str, State]:
    """Three networks trained for a few epochs."""
    states = {}
    for seed, name in enumerate("abc"):
        module = networks.build("mlp", MLP, seed=seed)
        fit(module, digits, Recipe(epochs=6), seed=seed)
        states[name] = {t: v.detach().clone() for t, v in module.state_dict().items()}
    return states


def spec_of(architecture: str, options: Mapping[str, Any]) -> PermutationSpec:
    text = networks.permutation_spec_text(architecture, options)
    module = networks.build(architecture, options)
    return PermutationSpec.loads(text).bind(
        {n: tuple(t.shape) for n, t in module.state_dict().items()}
    )


SPEC = spec_of("mlp", MLP)


def examples_of(split: Split, architecture: str = "mlp", options: Any = MLP) -> Examples:
    return Examples(networks.build(architecture, options, seed=9).eval(), split, CPU)


def loss_of(state: State, split: Split) -> float:
    """The cross-entropy of an MLP over a whole split, the plain way."""
    (inputs, labels), *_ = split.batches(len(split))
    with torch.no_grad():
        logits = torch.func.functional_call(networks.build("mlp", MLP), state, (inputs,))
    return functional.cross_entropy(logits, labels).item()


def excess_of(states: Sequence[State], split: Split) -> float:
    """The highest excess of the barycentre and of all midpoints of pairs: of two or three."""
    losses = [loss_of(state, split) for state in states]
    sets = {tuple(range(len(states))), *itertools.combinations(range(len(states)), 2)}
    return max(
        loss_of({t: sum(states[i][t] for i in those) / len(those) for t in states[0]}, split)
        - sum(losses[i] for i in those) / len(those)
        for those in sets
    )


def same(one: Solution, other: Solution) -> bool:
    return one.traces == other.traces and all(
        np.array_equal(indices, other.members[name][group])
        for name, member in one.members.items()
        for group, indices in member.items()
    )


@pytest.mark.parametrize(("names", "reference"), [("ab", "b"), ("abc", "joint"), ("abc", "b")])
def test_it_lowers_the_loss_of_mixtures_below_that_of_weight_matching(
    mlps: dict[str, State], digits: Split, names: str, reference: str
) -> None:
    states = {name: mlps[name] for name in names}
    kept = {n: {t: v.clone() for t, v in state.items()} for n, state in states.items()}
    examples, anchor = examples_of(digits), "a" if reference == "joint" else reference
    module = {t: v.clone() for t, v in examples.module.state_dict().items()}
    found = straight_through(
        states, SPEC, reference=reference, examples=examples, steps=60, count=ALL
    )
    matched = weight_matching(states, SPEC, reference=anchor, restarts=1)
    before, after = (
        [SPEC.act(each.members[n], state) for n, state in states.items()]
        for each in (matched, found)
    )
    given, *trace = found.traces["joint"]
    assert given == pytest.approx(excess_of(list(states.values()), digits), abs=1e-5)
    assert len(trace) == 61 and trace[0] <= given
    assert all(later <= earlier for earlier, later in itertools.pairwise(trace))
    assert trace[0] == pytest.approx(excess_of(before, digits), abs=1e-5)
    assert trace[-1] == pytest.approx(excess_of(after, digits), abs=1e-5)
    assert trace[-1] < 0.97 * trace[0]
    assert found.saw == "labels"
    assert list(found.members) == list(names)
    for n, state in states.items():
        assert all(torch.equal(state[t], kept[n][t]) for t in state)
        assert not any(t.requires_grad for t in state.values())
    assert all((p == np.arange(len(p))).all() for p in found.members[anchor].values())
    assert not examples.module.training
    assert all(torch.equal(module[t], v) for t, v in examples.module.state_dict().items())


def test_a_family_computes_what_it_computed(mlps: dict[str, State], digits: Split) -> None:
    family = align(
        mlps, SPEC, method="straight_through", model=networks.build("mlp", MLP), data=digits,
        steps=20, reference="c",
    )  # fmt: skip
    assert family.saw == "labels"
    assert all(torch.equal(family.states["c"][t], v) for t, v in mlps["c"].items())
    for n, state in mlps.items():
        assert loss_of(family.states[n], digits) == pytest.approx(loss_of(state, digits), rel=1e-5)


def test_networks_that_lie_better_than_matching_brings_them_stay(
    mlps: dict[str, State], digits: Split
) -> None:
    examples = examples_of(digits)
    best = straight_through(mlps, SPEC, examples=examples, steps=60, count=ALL)
    aligned = {n: SPEC.act(best.members[n], state) for n, state in mlps.items()}
    for options in ({"steps": 0}, {"max_seconds": 0.0}):
        again = straight_through(aligned, SPEC, examples=examples, count=ALL, **options)
        assert again.traces["joint"][0] == pytest.approx(best.traces["joint"][-1], abs=1e-5)
        for member in again.members.values():
            assert all((p == np.arange(len(p))).all() for p in member.values())


def test_no_steps_are_weight_matching_to_the_anchor(mlps: dict[str, State], digits: Split) -> None:
    for options in ({}, {"reference": "c"}):
        found = straight_through(mlps, SPEC, examples=examples_of(digits), steps=0, **options)
        matched = weight_matching(mlps, SPEC, restarts=1, **{"reference": "a", **options})
        assert len(found.traces["joint"]) == 2
        assert same(found, Solution(matched.members, found.traces))


def test_permuted_copies_lie_together_from_the_start(mlps: dict[str, State], digits: Split) -> None:
    generator = np.random.default_rng(0)
    planted = {n: SPEC.random(generator=generator) for n in "bc"}
    states = {"a": mlps["a"], **{n: SPEC.apply(p, mlps["a"]) for n, p in planted.items()}}
    found = straight_through(states, SPEC, examples=examples_of(digits), steps=5)
    assert found.traces["joint"][1] == pytest.approx(0, abs=1e-6)
    for n, member in planted.items():
        for group, permutation in member.items():
            assert np.array_equal(found.members[n][group], permutation.inverse().indices)


def test_one_seed_gives_one_result(mlps: dict[str, State], digits: Split) -> None:
    examples = examples_of(digits)

    def found(**options: Any) -> Solution:
        return straight_through(mlps, SPEC, examples=examples, steps=9, count=300, **options)

    one = found(seed=4)
    assert same(one, found(seed=4))
    others = [found(seed=5), found(mixtures="equal", seed=4), found(learning_rate=1e-4, seed=4)]
    assert not any(same(one, other) for other in others)


def test_it_does_not_mind_how_all_networks_stand_together(
    mlps: dict[str, State], digits: Split
) -> None:
    (inputs, labels), *_ = digits.batches(300)
    wide = examples_of(Split("train", InMemory(inputs.double(), labels)))
    states = {n: {t: v.double() for t, v in state.items()} for n, state in mlps.items()}
    common = SPEC.random(generator=np.random.default_rng(5))
    moved = {n: SPEC.apply(common, state) for n, state in states.items()}
    one, other = (
        straight_through(each, SPEC, examples=wide, steps=15, count=ALL) for each in (states, moved)
    )
    assert other.traces["joint"][-1] < other.traces["joint"][0]
    # As given, they differ.
    assert other.traces["joint"][1:] == pytest.approx(one.traces["joint"][1:], rel=1e-9)


def test_a_time_limit_keeps_the_best_so_far(mlps: dict[str, State], digits: Split) -> None:
    examples = examples_of(digits)
    none = straight_through(mlps, SPEC, examples=examples, max_seconds=0.0)
    assert len(none.traces["joint"]) == 2
    some = straight_through(mlps, SPEC, examples=examples, max_seconds=0.5, steps=10**6)
    assert 1 < len(some.traces["joint"]) < 10**4
    assert some.traces["joint"][-1] <= some.traces["joint"][0]


def test_batch_norm_is_normalised_by_the_batch(digits: Split) -> None:
    spec = spec_of("resnet_cifar", RESNET)
    few = Split("train", InMemory(*next(digits.batches(320))))
    states = {}
    for seed, name in enumerate("abc"):
        module = networks.build("resnet_cifar", RESNET, seed=seed)
        fit(module, few, Recipe(epochs=1), seed=seed)
        states[name] = {t: v.detach().clone() for t, v in module.state_dict().items()}
    kept = {n: {t: v.clone() for t, v in state.items()} for n, state in states.items()}
    examples = examples_of(few, "resnet_cifar", RESNET)
    module_kept = {t: v.clone() for t, v in examples.module.state_dict().items()}
    found = straight_through(states, spec, examples=examples, steps=4, batch_size=64, count=128)
    assert found.traces["joint"][-1] <= found.traces["joint"][0] < 10
    for n, state in states.items():
        assert all(torch.equal(state[t], kept[n][t]) for t in state)
    assert all(torch.equal(module_kept[t], v) for t, v in examples.module.state_dict().items())
    assert not any(layer.training for layer in examples.module.modules())
    # Running statistics do not count, whatever they are.
    loud = {n: {t: v * 9 if "running" in t else v for t, v in s.items()} for n, s in states.items()}
    assert same(
        found,
        straight_through(loud, spec, examples=examples, steps=4, batch_size=64, count=128),
    )


class Spoilt(nn.Module):
    """A linear classifier; inputs that are not finite spoil its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.two(self.one(x))
        return output


def test_a_loss_that_is_not_finite_ends_it() -> None:
    spec = PermutationSpec.loads(
        "format: perm-merge/permspec@1\ngroups: {g: 4}\n"
        "axes: {one.weight: [g, 3], one.bias: [g], two.weight: [2, g]}\n"
    )
    states = {n: Spoilt().state_dict() for n in "ab"}
    bound = spec.bind({n: tuple(t.shape) for n, t in states["a"].items()})
    split = Split("train", InMemory(torch.full((6, 3), float("nan")), torch.tensor([0, 1] * 3)))
    found = straight_through(states, bound, examples=Examples(Spoilt(), split, CPU))
    assert found.traces["joint"] == [float("inf"), float("inf")]


def test_progress_counts_steps(mlps: dict[str, State], digits: Split) -> None:
    told: list[tuple[str, int, int]] = []
    straight_through(
        mlps, SPEC, examples=examples_of(digits), steps=3, progress=lambda *said: told.append(said)
    )
    assert told == [("straight through", done, 3) for done in range(4)]


def test_labels_are_asked_for(mlps: dict[str, State], digits: Split) -> None:
    with pytest.raises(AlignmentError) as caught:
        align(mlps, SPEC, method="straight_through")
    assert str(caught.value) == (
        "straight_through looks at data: give `data`, or a method that needs none"
    )


@pytest.mark.parametrize(
    ("option", "given", "said"),
    [
        ("mixtures", "ring", "mixtures is 'random' or 'equal', not 'ring'"),
        ("seed", -1, "seed must be at least 0, found -1"),
        ("steps", -1, "steps must be at least 0, found -1"),
        ("batch_size", 0, "batch_size must be at least 1, found 0"),
        ("count", 1, "count must be at least 2, found 1"),
        ("learning_rate", 0.0, "learning_rate must be above 0, found 0.0"),
        ("learning_rate", float("nan"), "learning_rate must be above 0, found nan"),
        ("max_seconds", -0.5, "max_seconds must be at least 0, found -0.5"),
        ("order", "forward", "straight_through has no option 'order'"),
    ],
)
def test_options_that_are_refused(
    mlps: dict[str, State], digits: Split, option: str, given: Any, said: str
) -> None:
    model = networks.build("mlp", MLP)
    with pytest.raises(AlignmentError) as caught:
        align(mlps, SPEC, method="straight_through", model=model, data=digits, **{option: given})
    assert str(caught.value) == said
