"""The entry point: what it accepts, what it refuses and in which words, what it reports."""

from __future__ import annotations

import inspect
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import mergekit_perm.align
from mergekit_perm.align import JOINT, METHODS, align, align_sequences, moved_along
from mergekit_perm.data import Data, Split
from mergekit_perm.errors import AlignmentError, EvaluationError, PermutationSpecError
from mergekit_perm.permspec import PermutationSpec
from tests.strategies import state_of

SPEC = PermutationSpec.loads(
    "format: perm-merge/permspec@1\narchitecture: net\n"
    "groups: {g: 4}\naxes: {w: [g, 3], v: [2, g]}\n"
)
SHAPES: dict[str, tuple[int, ...]] = {"w": (4, 3), "v": (2, 4), "b": (2,), "count": ()}


def networks(names: str = "abc") -> dict[str, dict[str, torch.Tensor]]:
    return {name: state_of(SHAPES, seed) for seed, name in enumerate(names)}


def refused(states: dict[str, Any], **options: Any) -> str:
    with pytest.raises(AlignmentError) as caught:
        align(states, SPEC, **options)
    return str(caught.value)


def test_the_tables_are_what_they_are() -> None:
    assert JOINT == "joint"
    assert list(METHODS) == [
        "weight_matching",
        "merge_many",
        "activation_matching",
        "mixed",
        "frank_wolfe",
        "sinkhorn",
        "straight_through",
    ]
    assert callable(mergekit_perm.align)


def test_a_family_reports_what_was_done() -> None:
    family = align(networks(), SPEC, reference="b")
    assert (family.reference, family.method) == ("b", "weight_matching")
    assert list(family.permutations) == list(family.states) == ["a", "b", "c"]
    assert list(family.permutations["a"]) == ["g"]
    assert list(family.traces) == ["a", "c"]
    assert family.seconds > 0
    assert torch.equal(family.states["a"]["count"], torch.tensor(0))
    assert family.states["a"]["count"].dtype == torch.int64


def test_two_networks_are_joint_with_either_as_reference() -> None:
    states = networks("ab")
    joint = align(states, SPEC)
    assert joint.reference == "joint"
    assert joint.permutations == align(states, SPEC, reference="a").permutations


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_networks(count: int) -> None:
    states = dict(list(networks().items())[:count])
    assert refused(states) == f"alignment needs at least two networks, found {count}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"reference": "aa"},
            "reference 'aa' is no network of this run (did you mean 'a'?); "
            "known: a, b, c, or joint",
        ),
        (
            {"method": "weight-matching"},
            "unknown alignment method 'weight-matching' (did you mean 'weight_matching'?); "
            "known: weight_matching, merge_many, activation_matching, mixed, frank_wolfe, "
            "sinkhorn, straight_through",
        ),
        ({"sed": 1}, "weight_matching has no option 'sed' (did you mean 'seed'?)"),
        ({"kernel": "cosine"}, "weight_matching has no option 'kernel'"),
        ({"restarts": 0}, "restarts must be at least 1, found 0"),
        ({"max_sweeps": -1}, "max_sweeps must be at least 0, found -1"),
        ({"seed": -1}, "seed must be at least 0, found -1"),
        ({"order": "forwards"}, "order is 'random' or 'forward', not 'forwards'"),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], message: str) -> None:
    assert refused(networks(), **options) == message


def test_networks_of_different_shapes() -> None:
    states = networks()
    states["c"]["w"] = torch.zeros(4, 5)
    assert refused(states) == ("networks 'a' and 'c' have different shapes of w: [4, 3] and [4, 5]")


def test_networks_of_different_tensors() -> None:
    states = networks()
    states["b"]["extra"] = states["b"].pop("w")
    assert refused(states) == "networks 'a' and 'b' have different tensors: ['extra', 'w']"
    states["b"] |= {f"t{i}": torch.zeros(1) for i in range(9)}
    assert refused(states) == (
        "networks 'a' and 'b' have different tensors: ['extra', 't0', 't1', 't2', 't3']"
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(value: float) -> None:
    states = networks()
    states["b"]["b"][1] = value
    assert refused(states) == (
        "network 'b': 1 of 2 values of b are not finite; such a network cannot be aligned"
    )


def test_a_network_called_joint() -> None:
    states = networks("ab")
    states["joint"] = states.pop("b")
    assert refused(states) == "a network cannot be called 'joint': that names the reference"


def test_a_spec_of_another_network() -> None:
    states = networks("ab")
    for state in states.values():
        state["x"] = state.pop("w")
    with pytest.raises(PermutationSpecError) as caught:
        align(states, SPEC)
    assert str(caught.value) == (
        "the permutation spec of net does not fit the network:\n  w: no such tensor"
    )


def test_no_sweeps_still_settle() -> None:
    family = align(networks("ab"), SPEC, max_sweeps=0, restarts=1)
    assert len(family.traces["joint"]) == 2
    assert family.objective == pytest.approx(family.traces["joint"][-1])
    # Both tensors have one group and fixed axes, so that settling is exact.
    assert align(networks("ab"), SPEC).objective == pytest.approx(family.objective)


def test_the_order_of_visits_is_random_only_if_asked() -> None:
    states = networks("abcd")
    first, second = (align(states, SPEC, order="forward", seed=s, cooling=0) for s in (0, 1))
    assert first.permutations == second.permutations
    assert first.traces == second.traces


def test_networks_that_lie_together_stay() -> None:
    states = networks("a")
    noise = state_of(SHAPES, 9)
    states["b"] = {t: v + 0.01 * noise[t] if t != "count" else v for t, v in states["a"].items()}
    family = align(states, SPEC)
    assert family.permutations["b"]["g"].moved == 0
    assert family.objective == family.objective_before


def test_dead_units_and_zero_networks_are_no_trouble() -> None:
    states = networks("ab")
    for state in states.values():
        state["w"].zero_()
        state["v"].zero_()
    family = align(states, SPEC)
    assert family.objective == family.objective_before == 0.0
    assert family.permutations["b"]["g"].moved == 0


def test_progress_counts_sweeps_start_by_start() -> None:
    told: list[tuple[str, int, int]] = []
    listener = lambda *event: told.append(event)  # noqa: E731
    align(networks("ab"), SPEC, restarts=1, max_sweeps=9, progress=listener)
    assert {(task, total) for task, _, total in told} == {("aligning b to a", 9)}
    counts = [done for _, done, _ in told]
    assert counts[0] == 0 and counts[-1] == 9
    told.clear()
    align(networks("abc"), SPEC, restarts=2, max_sweeps=9, progress=listener)
    starts = list(dict.fromkeys(task for task, _, _ in told))
    joint = [task for task in starts if "jointly" in task]
    assert joint == ["aligning jointly, start 1", "aligning jointly, start 2"]
    assert "aligning c to a" in starts
    for task in starts:
        counts = [done for each, done, total in told if each == task and total == 9]
        assert counts[0] == 0
        assert counts[-1] == 9


def test_a_family_is_frozen() -> None:
    family = align(networks("ab"), SPEC)
    with pytest.raises(FrozenInstanceError):
        family.objective = 0.0  # type: ignore[misc]
    assert not hasattr(family, "__dict__")


def small() -> tuple[PermutationSpec, dict[str, dict[str, torch.Tensor]], nn.Module, Split]:
    """Three networks of a module that can be run, and labelled examples."""
    spec = PermutationSpec.loads(
        "format: perm-merge/permspec@1\ngroups: {g: 4}\n"
        "axes: {0.weight: [g, 3], 0.bias: [g], 2.weight: [2, g]}\n"
    )
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    states = {name: state_of(shapes, seed) for seed, name in enumerate("abc")}
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(16, 3, generator=generator)
    return spec, states, module, Split("train", TensorDataset(inputs, torch.arange(16) % 2))


def test_a_method_left_out_is_the_best_that_what_is_given_allows() -> None:
    spec, states, module, split = small()
    quick: dict[str, Any] = {"restarts": 1, "steps": 1}
    guided = align(states, spec, model=module, data=split, **quick)
    assert (guided.method, guided.saw) == ("mixed", "labels")
    bare = align(states, spec)
    assert (bare.method, bare.saw) == ("weight_matching", "weights")
    to_one = align(states, spec, reference="a", model=module, data=split)
    assert (to_one.method, to_one.saw) == ("weight_matching", "weights")


def test_the_model_that_networks_are_run_in_stays_as_it_is() -> None:
    spec, states, module, split = small()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    module.train()
    family = align(states, spec, method="activation_matching", model=module, data=split)
    assert family.saw == "inputs"
    assert module.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_data_that_cannot_be_looked_at() -> None:
    spec, states, module, split = small()
    data = Data("mine", {"test": split}, 2, (3,), "")
    cases = {
        "mixed looks at data, so it needs `model`, a network to run": {"data": split},
        "mixed looks at training data; mine has no split 'train'": {"data": data, "model": module},
        "activation_matching looks at data: give `data`, or a method that needs none": {
            "method": "activation_matching"
        },
    }
    for message, options in cases.items():
        with pytest.raises(AlignmentError) as caught:
            align(states, spec, **options)  # type: ignore[arg-type]
        assert str(caught.value) == message


def test_what_align_itself_gives_is_no_option() -> None:
    spec, states, module, split = small()
    with pytest.raises(AlignmentError, match="mixed has no option 'examples'"):
        align(states, spec, model=module, data=split, examples=None)


def test_a_device_is_for_every_method() -> None:
    spec, states, _, _ = small()
    for method, function in METHODS.items():
        # With examples it is theirs.
        assert {"device", "examples"} & inspect.signature(function).parameters.keys(), method
    for method in ("weight_matching", "frank_wolfe", "sinkhorn"):
        for device in ("cpu", torch.device("cpu"), torch.device("cpu", 0)):
            assert align(states, spec, method=method, device=device).method == method
        with pytest.raises(EvaluationError, match="no device 'cpus'"):
            align(states, spec, method=method, device="cpus")


def test_other_checkpoints_move_along() -> None:
    early, late = networks(), {name: state_of(SHAPES, 9 + ord(name)) for name in "abc"}
    found = align(early, SPEC, reference="b")
    family = moved_along(found, late, SPEC)
    assert (family.reference, family.permutations) == ("b", found.permutations)
    assert family.traces == found.traces
    for name, state in late.items():
        moved = SPEC.bind(SHAPES).apply(found.permutations[name], state)
        assert all(torch.equal(family.states[name][tensor], moved[tensor]) for tensor in state)
    assert family.objective_before == align(late, SPEC, max_sweeps=0).objective_before
    assert family.groups["g"].moved == found.groups["g"].moved
    # The same networks again: the same family.
    again = moved_along(found, early, SPEC)
    assert (again.objective, again.groups) == (found.objective, found.groups)


def test_stacked_permutations_move_along() -> None:
    early, late = networks("ab"), {name: state_of(SHAPES, 9 + ord(name)) for name in "ab"}
    found = align_sequences({name: [early[name], late[name]] for name in "ab"}, SPEC)
    family = moved_along(found, late, SPEC)
    assert (family.method, family.saw, family.cut_off) == ("weight_matching", "weights", False)
    for name in "ab":
        for tensor, value in family.states[name].items():
            assert torch.equal(value, found.states[name][1][tensor])


def test_networks_that_nothing_was_found_for_do_not_move_along() -> None:
    found = align(networks(), SPEC)
    with pytest.raises(AlignmentError, match="permutations were found for a, b, c, not for a, b"):
        moved_along(found, networks("ab"), SPEC)
