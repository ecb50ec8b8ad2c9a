"""Mixed alignment: lower barriers than its parts, the parts themselves, and what it promises."""

from __future__ import annotations

import gc
import itertools
import weakref
from typing import Any

import numpy as np
import pytest
import torch

from mergekit_perm import checkpoints, data, derive, networks, train
from mergekit_perm.align import Family, align, mixed, mixtures
from mergekit_perm.align.balance import balanced
from mergekit_perm.align.evidence import of_tensors, of_weights
from mergekit_perm.align.examples import Examples
from mergekit_perm.align.mixtures import Excess, numbers_kept
from mergekit_perm.axes import Fixed
from mergekit_perm.errors import AlignmentError
from mergekit_perm.permspec import PermutationSpec

torch.set_num_threads(1)

State = dict[str, torch.Tensor]

MLP: tuple[str, dict[str, Any]] = (
    "mlp",
    {"in_features": 64, "hidden": [16, 16], "num_classes": 10},
)
RESNET: tuple[str, dict[str, Any]] = (
    "resnet_cifar",
    {"depth": 8, "width": 4, "norm": "batch_norm", "num_classes": 10, "in_chans": 1, "img_size": 8},
)


@pytest.fixture(scope="module")
def digits() -> data.Data:
    return data.load("digits")


@pytest.fixture(scope="module")
def states(digits: data.Data) -> dict[str, State]:
    found = {}
    for seed, name in enumerate("abc"):
        module = networks.build(*MLP, seed=seed)
        train.fit(module, digits.splits["train"], train.Recipe(epochs=8, noise=0.1), seed=seed)
        found[name] = {k: v.detach().clone() for k, v in module.state_dict().items()}
    return found


def spec_of(architecture: str, options: dict[str, Any]) -> PermutationSpec:
    shapes = checkpoints.shapes(networks.build(architecture, options, seed=0))
    return derive.find(architecture, options, shapes).spec


def aligned(
    states: dict[str, State],
    digits: data.Data,
    method: str = "mixed",
    network: tuple[str, dict[str, Any]] = MLP,
    **options: Any,
) -> Family:
    return align(
        states, spec_of(*network), method=method, model=networks.build(*network, seed=0),
        data=digits, **options,
    )  # fmt: skip


def excess(family: Family, states: dict[str, State], digits: data.Data) -> float:
    module = networks.build(*MLP, seed=0).eval()
    examples = Examples(module, digits.splits["test"], torch.device("cpu"))
    return Excess(examples, list(states.values()), count=450, batch_size=256, seed=0)(
        list(family.states.values())
    )


def test_barriers_are_lower_than_by_weights_or_activations_alone(
    states: dict[str, State], digits: data.Data
) -> None:
    mixed = excess(aligned(states, digits, steps=40), states, digits)
    for method, share in {"weight_matching": 0.7, "activation_matching": 0.9}.items():
        assert mixed < share * excess(aligned(states, digits, method), states, digits)
    assert mixed < excess(aligned(states, digits, steps=0, exchanges=0), states, digits)


def test_the_excess_never_rises_and_labels_were_seen(
    states: dict[str, State], digits: data.Data
) -> None:
    family = aligned(states, digits, steps=10, restarts=2, exchanges=20)
    trace = family.traces["joint"]
    assert family.saw == "labels"
    assert all(later <= earlier for earlier, later in itertools.pairwise(trace))
    assert len(trace) == 1 + 2 * (4 + 10) + 20  # as given, candidates and steps, exchanges


def test_exchanges_lower_what_is_left(states: dict[str, State], digits: data.Data) -> None:
    without, few, more = (
        aligned(states, digits, steps=10, exchanges=exchanges).traces["joint"][-1]
        for exchanges in (0, 50, 400)
    )
    assert more < few <= without
    assert more < 0.9 * without


def test_several_networks_exchange_at_once_where_there_are_many(
    states: dict[str, State], digits: data.Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, generator = spec_of(*MLP), np.random.default_rng(0)
    copies = {
        f"{name}{n}": spec.apply(spec.random(generator=generator), state)
        for n in range(2)
        for name, state in states.items()
    }
    # From networks that lie as they were given, so that there is much to gain on any machine.
    still = {
        name: {group: np.arange(spec.groups.length(group)) for group in spec.groups}
        for name in copies
    }
    monkeypatch.setattr(mixed._Choice, "_candidates", lambda *_: iter([still]))
    family = aligned(copies, digits, steps=0, restarts=1, exchanges=30)
    trace = family.traces["joint"]
    assert len(trace) == 2 + 30  # as given, the candidate that is the same, exchanges
    assert all(later <= earlier for earlier, later in itertools.pairwise(trace))
    # What is returned has the excess that was found last: each exchange is in the members.
    module = networks.build(*MLP, seed=0).eval()
    examples = Examples(module, digits.splits["train"], torch.device("cpu"))
    given = list(copies.values())
    found = Excess(examples, given, count=2048, batch_size=256, seed=0)(
        [family.states[name] for name in copies]
    )
    assert found == pytest.approx(trace[-1], abs=1e-6) and trace[-1] < trace[0]


def test_the_highest_excess_is_found_unless_a_limit_ends_it(
    states: dict[str, State], digits: data.Data
) -> None:
    module = networks.build(*MLP, seed=0).eval()
    examples = Examples(module, digits.splits["test"], torch.device("cpu"))
    measure = Excess(examples, list(states.values()), count=450, batch_size=256, seed=0)
    highest = measure(list(states.values()))
    every = measure.last
    assert highest == max(every) and len(every) == 7
    assert measure(list(states.values()), limit=0.5 * highest) == highest  # which comes first now
    assert measure(list(states.values()), limit=2 * highest) == highest
    assert measure.last == every


def test_large_examples_run_a_batch_at_a_time(
    states: dict[str, State], digits: data.Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = networks.build(*MLP, seed=0).eval()
    examples = Examples(module, digits.splits["test"], torch.device("cpu"))
    found = []
    # What layers take in, which activations give, and what the loss keeps: logits and labels.
    kept = numbers_kept(examples, states["a"])
    assert kept == pytest.approx(64 + sum(MLP[1]["hidden"]) + 10 + 2, abs=1)
    for at_once in (kept * 450, kept * 450 - 1):
        monkeypatch.setattr(mixtures, "_AT_ONCE", at_once)
        measure = Excess(examples, [*states.values()], count=450, batch_size=100, seed=0)
        excess = measure([*states.values()])
        slopes = measure.gradients(states, ["layers.0.weight", "head.bias"])
        found.append((excess, slopes, [len(labels) for _, labels in measure.batches]))
    (one, slope, sizes), (other, other_slope, several) = found
    assert (sizes, several) == ([450], [90] * 5)
    assert other == pytest.approx(one, rel=1e-5)
    for name, tensors in slope.items():
        for tensor, value in tensors.items():
            assert torch.allclose(value, other_slope[name][tensor], rtol=1e-4, atol=1e-7)


def test_what_a_pass_keeps_is_freed(states: dict[str, State], digits: data.Data) -> None:
    module = networks.build(*MLP, seed=0).eval()
    examples = Examples(module, digits.splits["test"], torch.device("cpu"))
    alone = {name: tensor.clone() for name, tensor in states["a"].items()}
    storages = [weakref.ref(tensor.untyped_storage()) for tensor in alone.values()]
    numbers_kept(examples, alone)
    alone.clear()
    gc.collect()
    assert all(storage() is None for storage in storages)


@pytest.mark.parametrize("reference", ["joint", "b"])
def test_the_reference_stays_and_functions_do(
    states: dict[str, State], digits: data.Data, reference: str
) -> None:
    family = aligned(states, digits, steps=5, exchanges=30, reference=reference)
    anchor = "a" if reference == "joint" else reference
    assert list(family.states) == ["a", "b", "c"]
    assert all(torch.equal(family.states[anchor][t], v) for t, v in states[anchor].items())
    module, inputs = networks.build(*MLP, seed=0).eval(), next(digits.splits["test"].batches(5))[0]
    for name, state in states.items():
        before, after = (
            torch.func.functional_call(module, each, (inputs,))
            for each in (state, family.states[name])
        )
        assert torch.allclose(before, after, atol=1e-4)
    assert family.traces.keys() == ({"joint"} if reference == "joint" else {"a", "c"})


def test_one_seed_gives_one_result(states: dict[str, State], digits: data.Data) -> None:
    one, same, other = (
        aligned(states, digits, steps=6, restarts=1, exchanges=9, seed=seed) for seed in (3, 3, 4)
    )
    assert one.permutations == same.permutations
    assert one.permutations != other.permutations


def test_without_data_it_looks_at_weights_alone(states: dict[str, State]) -> None:
    family = align(states, spec_of(*MLP), method="mixed", restarts=1)
    assert family.saw == "weights"
    by_weights = align(states, spec_of(*MLP), method="weight_matching", restarts=2)
    assert family.permutations == by_weights.permutations


def test_time_that_is_over_ends_it_with_the_best_so_far(
    states: dict[str, State], digits: data.Data
) -> None:
    for reference in ("joint", "a"):
        family = aligned(states, digits, reference=reference, max_seconds=0, steps=10**6)
        assert family.seconds < 5 and family.cut_off
        assert all(len(trace) == 1 for trace in family.traces.values())  # as given
        assert family.objective == family.objective_before


def test_networks_that_lie_better_than_what_is_found_stay(
    states: dict[str, State], digits: data.Data
) -> None:
    best = aligned(states, digits, steps=30, exchanges=200)
    for options in ({"steps": 0, "exchanges": 0}, {"max_seconds": 0.05}):
        again = aligned(best.states, digits, seed=1, **options)
        trace = again.traces["joint"]
        assert trace[0] == pytest.approx(best.traces["joint"][-1], rel=1e-4)
        assert trace[-1] <= trace[0]


def test_batch_norm_is_estimated_and_nothing_given_changes(digits: data.Data) -> None:
    states = {}
    for seed, name in enumerate("ab"):
        module = networks.build(*RESNET, seed=seed)
        train.fit(module, digits.splits["train"], train.Recipe(epochs=1), seed=seed)
        states[name] = {k: v.detach().clone() for k, v in module.state_dict().items()}
    kept = {n: {k: v.clone() for k, v in state.items()} for n, state in states.items()}
    family = aligned(states, digits, network=RESNET, steps=4, restarts=1, exchanges=20, count=512)
    for name, state in states.items():
        assert all(torch.equal(value, kept[name][tensor]) for tensor, value in state.items())
        running = "norm1.running_mean"
        assert torch.equal(family.states[name][running].sort()[0], state[running].sort()[0])
    assert family.traces["joint"][-1] <= family.traces["joint"][0]


def test_options_out_of_range(states: dict[str, State], digits: data.Data) -> None:
    for option, value in {"steps": -1, "strength": -0.5, "ratio": -1.0, "count": 1}.items():
        with pytest.raises(AlignmentError, match=f"^{option} must be at least"):
            aligned(states, digits, **{option: value})


# ------------------------------------------------------------------------------------------ parts


def test_balanced_evidence_counts_as_the_ratio_says() -> None:
    spec = PermutationSpec.loads(
        "format: perm-merge/permspec@1\ngroups: {g: 6}\naxes: {w: [g, 5]}\n"
    ).bind({"w": (6, 5)})
    generator = torch.Generator().manual_seed(0)
    states = {n: {"w": torch.randn(6, 5, generator=generator)} for n in "ab"}
    weights = of_weights(states, spec)
    larger = {n: {"v": 100 * torch.randn(6, 9, generator=generator)} for n in "ab"}
    more = of_tensors(spec, {"v": (spec.axes["w"][0], Fixed(9))}, larger)
    both = balanced(weights, more, 3.0)
    sizes = {
        tensor: float((both.states["a"][tensor] @ both.states["b"][tensor].T).abs().mean())
        for tensor in ("w", "v")
    }
    assert sizes["v"] == pytest.approx(3 * sizes["w"], rel=1e-4)
    assert np.isfinite(list(sizes.values())).all()
