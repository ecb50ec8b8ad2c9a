"""Sinkhorn re-basin: its gradient is right, planted members are found, with data and without."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from mergekit_perm.align.descent import pairwise_objective
from mergekit_perm.align.examples import Examples
from mergekit_perm.align.sinkhorn import sinkhorn
from mergekit_perm.align.sinkhorn_scaling import scaled
from mergekit_perm.align.soft_members import doubly_stochastic
from mergekit_perm.data import InMemory, Split
from mergekit_perm.errors import AlignmentError
from mergekit_perm.permspec import PermutationSpec
from mergekit_perm.permutation import Permutation
from tests.align.test_frank_wolfe import SPECS, drawn, planted, same
from tests.test_invariance import CASES

torch.set_num_threads(1)

State = dict[str, torch.Tensor]


def found_at_home(states: dict[str, State], spec: PermutationSpec, members: Any) -> bool:
    """Whether every network has come to lie on the first."""
    moved = {name: spec.act(members[name], state) for name, state in states.items()}
    return all(
        torch.equal(state[name], tensor)
        for state in moved.values()
        for name, tensor in moved["a"].items()
    )


# ------------------------------------------------------------------------------------- gradient


def test_the_gradient_is_that_of_the_fixed_point() -> None:
    scores = torch.randn(
        2, 3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    weights = torch.linspace(-1, 1, 5, dtype=torch.float64).outer(torch.arange(5.0).double())

    def value(scores: torch.Tensor) -> torch.Tensor:
        matrix = scaled(scores, 200)
        return (matrix * weights).sum((-1, -2)) + matrix.square().sum((-1, -2))

    assert torch.autograd.gradcheck(value, [scores.requires_grad_()], fast_mode=True)


def test_the_gradient_is_that_of_unrolled_iterations() -> None:
    scores = torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    target = torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    gradients = []
    for scale in (scaled, doubly_stochastic):
        point = scores.clone().requires_grad_()
        (scale(point, 100) * target).sum().backward()
        gradients.append(point.grad)
    assert torch.allclose(gradients[0], gradients[1], atol=1e-8)


@pytest.mark.parametrize("hardness", [30.0, 300.0])
def test_the_gradient_stays_finite_at_permutations(hardness: float) -> None:
    point = (hardness * torch.eye(7, dtype=torch.float64)).requires_grad_()
    weights = torch.arange(49, dtype=torch.float64).cos().reshape(7, 7)
    (scaled(point, 20) * weights).sum().backward()
    assert point.grad is not None
    assert float(point.grad.abs().max()) < 1e-6


# ---------------------------------------------------------------------------------- data-free


@pytest.mark.parametrize("reference", ["joint", "b"])
@pytest.mark.parametrize("name", CASES)
def test_planted_members_are_found(name: str, reference: str) -> None:
    states = planted(name, 3, seed=1)
    found = sinkhorn(states, SPECS[name], reference=reference, steps=41)
    assert found_at_home(states, SPECS[name], found.members)
    anchor = found.members["a" if reference == "joint" else reference]
    assert all(np.array_equal(p, np.arange(len(p))) for p in anchor.values())
    assert set(found.traces) == ({"joint"} if reference == "joint" else {"a", "c"})
    assert all(trace[-1] < trace[0] and len(trace) == 42 for trace in found.traces.values())
    assert found.saw == "weights"


def test_noise_does_not_hide_planted_members() -> None:
    states = planted("mlp", 2, seed=3)
    generator = torch.Generator().manual_seed(0)
    noisy = {
        name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
        for name, tensor in states["b"].items()
    }
    exact = sinkhorn(states, SPECS["mlp"], steps=50)
    found = sinkhorn({"a": states["a"], "b": noisy}, SPECS["mlp"], steps=50)
    for group, indices in exact.members["b"].items():
        assert np.array_equal(indices, found.members["b"][group])


@pytest.mark.parametrize("name", ["mlp", "grouped convolution", "attention"])
def test_nothing_is_made_worse_and_inputs_stay(name: str) -> None:
    spec, states = SPECS[name], drawn(name, 3, first=20)
    kept = {n: {t: v.clone() for t, v in state.items()} for n, state in states.items()}
    found = sinkhorn(states, spec, steps=25, temperature=0.5)
    for n, member in found.members.items():
        spec.check_permutations({group: Permutation(p) for group, p in member.items()})
        assert all(torch.equal(states[n][t], kept[n][t]) for t in states[n])
    moved = {n: spec.act(found.members[n], state) for n, state in states.items()}
    assert pairwise_objective(moved) >= pairwise_objective(states)


def test_the_distance_is_the_mean_over_pairs_and_weights() -> None:
    """No noise to speak of at a low temperature: the soft members are the networks as they are."""
    states = drawn("mlp", 3)
    trace = sinkhorn(states, SPECS["mlp"], steps=0, temperature=0.01).traces["joint"]
    flat = [
        torch.cat([state[tensor].reshape(-1) for tensor in SPECS["mlp"].axes])
        for state in states.values()
    ]
    listed = [functional.mse_loss(flat[i], flat[j]).item() for i, j in ((0, 1), (0, 2), (1, 2))]
    assert trace == pytest.approx([sum(listed) / 3], rel=1e-9)


def test_one_seed_gives_one_result() -> None:
    states, spec = drawn("attention", 3), SPECS["attention"]
    one, again, other = (sinkhorn(states, spec, seed=seed, steps=12) for seed in (4, 4, 5))
    assert same(one, again)
    assert not same(one, other)


def test_no_time() -> None:
    states, spec = drawn("attention", 2), SPECS["attention"]
    assert same(sinkhorn(states, spec, steps=0), sinkhorn(states, spec, max_seconds=0.0))
    began = time.perf_counter()
    sinkhorn(states, spec, steps=10**6, max_seconds=0.1)
    assert time.perf_counter() - began < 2


def test_groups_of_one_element() -> None:
    spec = PermutationSpec.loads("format: perm-merge/permspec@1\ngroups: {g: 1}\naxes: {w: [g, 2]}")
    states = {name: {"w": torch.full((1, 2), float(i))} for i, name in enumerate("ab")}
    found = sinkhorn(states, spec.bind({"w": (1, 2)}), steps=2)
    assert found.traces["joint"] == pytest.approx([1.0] * 3)


# ----------------------------------------------------------------------------------- with data

NORMED = PermutationSpec.loads(
    "format: perm-merge/permspec@1\ngroups: {g: 8}\n"
    "axes: {0.*: [g, 4], 0.bias: [g], 1.*: [g], 3.weight: [3, g]}\n"
)


def classifier(seed: int) -> nn.Sequential:
    """A network with batch norm that has been trained a little: nothing in it is at its default."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    inputs, labels = INPUTS, LABELS
    optimizer = torch.optim.SGD(network.parameters(), lr=0.2, momentum=0.9)
    for _ in range(60):
        optimizer.zero_grad()
        functional.cross_entropy(network(inputs), labels).backward()
        optimizer.step()
    return network


INPUTS = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
LABELS = INPUTS[:, :3].sin().argmax(1)


def labelled(count: int) -> tuple[dict[str, State], PermutationSpec, Examples]:
    """Permuted copies of a classifier, and what it was trained on; the module is in train mode."""
    network = classifier(0)
    state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    spec = NORMED.bind({name: tuple(tensor.shape) for name, tensor in state.items()})
    generator = np.random.default_rng(0)
    copies = [spec.apply(spec.random(generator=generator), state) for _ in range(count - 1)]
    split = Split("train", InMemory(INPUTS, LABELS))
    states = dict(zip("abc", [state, *copies], strict=False))
    return states, spec, Examples(classifier(1), split, torch.device("cpu"))


@pytest.mark.parametrize("reference", ["joint", "b"])
@pytest.mark.parametrize("objective", ["midpoint", "random_point"])
def test_labels_tell_where_copies_belong(objective: Any, reference: str) -> None:
    states, spec, examples = labelled(3)
    module = {name: tensor.clone() for name, tensor in examples.module.state_dict().items()}
    kept = {n: {t: v.clone() for t, v in state.items()} for n, state in states.items()}
    found = sinkhorn(
        states, spec, reference=reference, objective=objective, examples=examples, steps=60,
        batch_size=128,
    )  # fmt: skip
    mixture = {
        name: torch.stack([spec.act(found.members[n], s)[name] for n, s in states.items()])
        .float().mean(0).to(tensor.dtype)
        for name, tensor in states["a"].items()
    }  # fmt: skip
    before = {
        name: torch.stack([s[name] for s in states.values()]).float().mean(0).to(tensor.dtype)
        for name, tensor in states["a"].items()
    }
    losses = [loss_of(each, examples) for each in (states["a"], mixture, before)]
    assert losses[1] < losses[0] + 0.2 * (losses[2] - losses[0])
    assert found.saw == "labels"
    assert examples.module.training
    assert all(torch.equal(module[t], v) for t, v in examples.module.state_dict().items())
    assert all(torch.equal(kept[n][t], v) for n, s in states.items() for t, v in s.items())


def loss_of(state: State, examples: Examples) -> float:
    network = classifier(1).eval()
    network.load_state_dict(state)
    with torch.no_grad():
        return functional.cross_entropy(network(INPUTS), LABELS).item()


def test_two_networks_are_mixed_at_any_point_of_their_segment() -> None:
    states, spec, examples = labelled(2)
    one, again, other = (
        sinkhorn(
            states, spec, objective="random_point", examples=examples, steps=3, batch_size=size,
            seed=seed,
        )
        for size, seed in ((50, 0), (50, 0), (1000, 1))
    )  # fmt: skip
    assert same(one, again)
    assert len(one.traces["joint"]) == len(other.traces["joint"]) == 4
    assert one.traces != other.traces


def test_labels_are_asked_for() -> None:
    with pytest.raises(AlignmentError) as caught:
        sinkhorn(drawn("mlp", 2), SPECS["mlp"], objective="midpoint")
    assert str(caught.value) == (
        "objective 'midpoint' looks at labelled examples: give `data`, and `model`, a network to "
        "run; objective 'distance' looks at none"
    )


@pytest.mark.parametrize(
    ("option", "given", "said"),
    [
        (
            "objective",
            "far",
            "objective is 'distance', 'midpoint' or 'random_point', not 'far'",
        ),
        ("steps", -1, "steps must be at least 0, found -1"),
        ("seed", -1, "seed must be at least 0, found -1"),
        ("iterations", 0, "iterations must be at least 1, found 0"),
        ("batch_size", 0, "batch_size must be at least 1, found 0"),
        ("max_seconds", float("nan"), "max_seconds must be at least 0, found nan"),
        ("learning_rate", 0.0, "learning_rate must be above 0, found 0.0"),
        ("temperature", -1.0, "temperature must be above 0, found -1.0"),
    ],
)
def test_options_out_of_range(option: str, given: Any, said: str) -> None:
    with pytest.raises(AlignmentError) as caught:
        sinkhorn(drawn("mlp", 2), SPECS["mlp"], **{option: given})
    assert str(caught.value) == said
