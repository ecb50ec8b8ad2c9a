from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from mergekit_perm import networks
from mergekit_perm.data import Data, Split
from mergekit_perm.errors import EvaluationError
from mergekit_perm.evaluate import (
    Barrier,
    Engine,
    barrier,
    edge,
    evaluate_points,
    mix,
    other_temperature,
    simplex_grid,
)
from mergekit_perm.evaluate import measure as measure_one
from mergekit_perm.weighted import State

# (u, v) and (-u, -v) compute the same function; half way between them is the zero network.
CORNERS = {"a": (2.0, 2.0), "b": (-2.0, -2.0), "c": (2.5, 1.5)}


def state(u: float, v: float) -> State:
    return {name: torch.tensor(x, dtype=torch.float64) for name, x in (("u", u), ("v", v))}


STATES = {name: state(*corner) for name, corner in CORNERS.items()}


def loss(weights: tuple[float, ...], names: str = "abc") -> float:
    """Cross-entropy on the training split in closed form: softplus(1 - u v x), x = 1, 2."""
    u, v = np.asarray(weights) @ np.asarray([CORNERS[name] for name in names])
    return float(np.mean([np.log1p(np.exp(1 - u * v * x)) for x in (1.0, 2.0)]))


def error(weights: tuple[float, ...], names: str = "abc") -> float:
    """Label 0 is right where u v x - 1 >= 0 (the first of equal logits counts)."""
    u, v = np.asarray(weights) @ np.asarray([CORNERS[name] for name in names])
    return float(np.mean([u * v * x - 1 < 0 for x in (1.0, 2.0)]))


def find(found: tuple[Barrier, ...], **wanted: Any) -> Barrier:
    (one,) = [b for b in found if all(getattr(b, name) == x for name, x in wanted.items())]
    return one


def test_the_barrier_of_a_sign_flip_has_its_closed_form(product, data: Data) -> None:
    found = barrier({"a": STATES["a"], "b": STATES["b"]}, product(), data, device="cpu")

    train = find(found, split="train", metric="loss")
    ends = np.mean([np.log1p(np.exp(1 - 4 * x)) for x in (1.0, 2.0)])
    assert train.barrier == pytest.approx(np.log1p(np.e) - ends, rel=1e-12)
    assert train.argmax == (0.5, 0.5)
    assert [p.weights for p in train.points] == list(edge(25))
    assert [p.value for p in train.points] == pytest.approx(
        [loss(w, "ab") for w in edge(25)], rel=1e-12
    )
    # On the test split every logit is wrong for one of the two labels: the error never moves.
    assert find(found, split="test", metric="error").barrier == 0.0
    # 4 (1 - 2a)^2 x < 1 makes an error: for x = 1 where 1/4 < a < 3/4.
    errors = find(found, split="train", metric="error")
    assert errors.barrier == 1.0
    assert [p.value for p in errors.points] == [error(w, "ab") for w in edge(25)]


def test_a_convex_loss_has_no_barrier(data: Data) -> None:
    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros((), dtype=torch.float64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.stack([self.w * x, torch.zeros_like(x)], dim=1)

    networks = {
        n: {"w": torch.tensor(w, dtype=torch.float64)} for n, w in (("a", -1.0), ("b", 5.0))
    }
    found = find(barrier(networks, Linear(), data, device="cpu"), split="train", metric="loss")

    assert found.barrier == 0.0
    assert found.barycentre is not None and found.barycentre < -0.4


def mlp_and_states(n: int) -> tuple[nn.Module, dict[str, State]]:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        modules = [
            nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
            for _ in range(n)
        ]
    states = {
        chr(97 + i): {k: v.clone() for k, v in m.state_dict().items()}
        for i, m in enumerate(modules)
    }
    return modules[0], states


@pytest.fixture
def blobs(split: Callable[..., Any]) -> Data:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(65, 4, generator=generator)
    y = torch.randint(0, 3, (65,), generator=generator)
    splits = {"train": split(x[:40], y[:40]), "test": split(x[40:], y[40:], "test")}
    return Data("blobs", splits, 3, (4,), "")


@pytest.mark.parametrize("calibration", ["none", "batch_norm"])
def test_the_barrier_of_a_network_with_itself_is_exactly_zero(
    blobs: Data, calibration: str
) -> None:
    module, states = mlp_and_states(1)
    same = {"a": states["a"], "b": {k: v.clone() for k, v in states["a"].items()}}

    found = barrier(same, module, blobs, calibration=calibration, simplex=4, device="cpu")

    assert len(found) == 2 * 2 * 2
    assert [b.barrier for b in found] == [0.0] * 8
    assert all(set(b.excesses) == {0.0} for b in found)


def test_networks_may_change_places(blobs: Data) -> None:
    module, states = mlp_and_states(2)

    ahead, back = (
        barrier(order, module, blobs, device="cpu")
        for order in (states, {"b": states["b"], "a": states["a"]})
    )

    for one, other in zip(ahead, back, strict=True):
        assert one.barrier == pytest.approx(other.barrier, abs=1e-6)
        assert [p.value for p in one.points] == pytest.approx(
            [p.value for p in reversed(other.points)], abs=1e-6
        )


def test_a_simplex_holds_grid_edges_and_barycentre_each_evaluated_once(product, data: Data) -> None:
    steps = []
    found = barrier(
        STATES,
        product(),
        data,
        simplex=6,
        device="cpu",
        progress=lambda task, done, total, note="": steps.append((task, done, total)),
    )

    whole = find(found, kind="simplex", split="train", metric="loss")
    weights = [p.weights for p in whole.points]
    assert set(simplex_grid(3, 6)) <= set(weights)
    assert len(weights) == len(set(weights)) == 3 + 3 * 23 + 10
    assert steps == [("measuring barriers", i, 82) for i in range(1, 83)]
    assert [p.value for p in whole.points] == pytest.approx([loss(w) for w in weights], rel=1e-9)
    worst = max(
        find(found, networks=n, split="train", metric="loss").barrier
        for n in [("a", "b"), ("a", "c"), ("b", "c")]
    )
    assert whole.barrier >= worst
    heights = {
        w: loss(w) - sum(x * loss(v) for x, v in zip(w, np.eye(3), strict=True)) for w in weights
    }
    assert whole.barrier == pytest.approx(max(heights.values()), rel=1e-9)
    assert heights[whole.argmax] == pytest.approx(whole.barrier, rel=1e-9)
    assert whole.barycentre == pytest.approx(heights[(1 / 3, 1 / 3, 1 / 3)], rel=1e-9)


def test_pairs_of_many_networks_are_those_of_the_two_alone(product, data: Data) -> None:
    found = barrier(STATES, product(), data, points=5, device="cpu")

    for a, b in ("ab", "ac", "bc"):
        alone = barrier({n: STATES[n] for n in (a, b)}, product(), data, points=5, device="cpu")
        assert alone == tuple(x for x in found if x.networks == (a, b))


def test_results_come_in_a_stated_order(blobs: Data) -> None:
    module, states = mlp_and_states(3)

    found = barrier(
        states,
        module,
        blobs,
        points=3,
        simplex=1,
        splits=["test", "train"],
        calibration=["batch_norm", "none"],
        reference="b",
        alignment="aligned",
        device="cpu",
    )

    assert [(b.networks, b.spoke) for b in found[::8]] == [
        (("a", "b"), True),
        (("a", "c"), False),
        (("b", "c"), True),
        (("a", "b", "c"), None),
    ]
    assert [(b.calibration, b.split, b.metric) for b in found[:8]] == [
        (calibration, split, metric)
        for calibration in ("batch_norm", "none")
        for split in ("test", "train")
        for metric in ("loss", "error")
    ]
    assert {b.alignment for b in found} == {"aligned"}


@pytest.mark.parametrize("calibration", ["none", "batch_norm"])
def test_points_are_mixed_calibrated_and_measured(blobs: Data, calibration: str) -> None:
    from mergekit_perm.evaluate import calibrate

    module, states = mlp_and_states(2)
    weights = [(1.0, 0.0), (0.25, 0.75)]

    found = evaluate_points(
        module,
        list(states.values()),
        weights,
        blobs.splits,
        train_split=blobs.splits["train"],
        calibration=calibration,
    )

    for point, metrics in zip(weights, found, strict=True):
        module.load_state_dict(mix(list(states.values()), point))
        calibrate(module, calibration, blobs.splits["train"])
        for name in ("train", "test"):
            expected = measure_one(module, blobs.splits[name])
            assert metrics[name].loss == pytest.approx(expected.loss, rel=1e-5)
            assert (metrics[name].error, metrics[name].n) == (expected.error, expected.n)


def test_calibration_is_done_at_the_endpoints_too(blobs: Data) -> None:
    module, states = mlp_and_states(2)

    plain, reset = (
        find(
            barrier(states, module, blobs, points=2, calibration=c, device="cpu"),
            split="test",
            metric="loss",
        )
        for c in ("none", "batch_norm")
    )

    assert all(p.value != q.value for p, q in zip(plain.points, reset.points, strict=True))


def test_without_batch_norm_its_calibration_costs_nothing(product, data: Data) -> None:
    steps: list[int] = []

    found = barrier(
        STATES,
        product(),
        data,
        points=3,
        calibration=["none", "batch_norm"],
        device="cpu",
        progress=lambda _task, done, _total, _note="": steps.append(done),
    )

    assert steps == list(range(1, 7))
    plain = [b.points for b in found if b.calibration == "none"]
    assert plain == [b.points for b in found if b.calibration == "batch_norm"]


def test_inputs_are_left_as_they_are(blobs: Data) -> None:
    module, states = mlp_and_states(2)
    module.train()
    before = {n: {k: v.clone() for k, v in s.items()} for n, s in states.items()}
    own = {k: v.clone() for k, v in module.state_dict().items()}

    barrier(states, module, blobs, points=3, calibration="batch_norm", device="cpu")

    assert module.training
    assert all(torch.equal(own[k], v) for k, v in module.state_dict().items())
    assert all(torch.equal(before[n][k], v) for n, s in states.items() for k, v in s.items())


def test_a_network_that_blows_up_has_an_infinite_barrier(product, data: Data) -> None:
    broken = {"a": STATES["a"], "b": state(math.inf, 0.0)}

    found = find(
        barrier(broken, product(), data, points=3, device="cpu"), split="train", metric="loss"
    )

    assert found.barrier == math.inf


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reference": "d"}, "no reference 'd'; there is a, b, c"),
        ({"splits": ["trian"]}, "no split 'trian' (did you mean 'train'?); there is train, test"),
        (
            {"pairs": "spokes", "reference": "joint"},
            "pairs 'spokes' need a reference among the networks; name one of a, b, c, "
            "or choose all",
        ),
        ({"device": "tpus"}, "no device 'tpus'; choose auto, cpu, cuda, cuda:N or mps"),
        (
            {"calibration": ["nune"]},
            "no calibration 'nune' (did you mean 'none'?); "
            "choose one of none, batch_norm, repair, temperature, batch_norm+temperature, "
            "repair+temperature",
        ),
    ],
)
def test_what_is_refused(product, data: Data, options: dict[str, Any], message: str) -> None:
    with pytest.raises(EvaluationError) as refusal:
        barrier(STATES, product(), data, **{"device": "cpu", **options})

    assert str(refusal.value) == message


def test_one_network_is_no_family(product, data: Data) -> None:
    with pytest.raises(EvaluationError) as refusal:
        barrier({"a": STATES["a"]}, product(), data)

    assert str(refusal.value) == "a barrier needs at least 2 networks, not 1"


def test_nothing_asked_is_nothing_measured(product, data: Data) -> None:
    assert barrier(STATES, product(), data, pairs="none", device="cpu") == ()


def test_progress_says_how_high_the_loss_has_been(product, data: Data) -> None:
    notes: list[str] = []
    states = {"a": product(2.0, 1.0).state_dict(), "b": product(-2.0, -1.0).state_dict()}
    found = barrier(
        states, product(), data, points=9, device="cpu",
        progress=lambda _task, _done, _total, note="": notes.append(note),
    )  # fmt: skip
    highest = find(found, split="train", metric="loss").barrier
    assert notes[0] == notes[1] == "highest excess 0.0000"
    assert notes[2] == notes[-1] == f"highest excess {highest:.4f}"
    assert highest > 0.1


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("layers", ["none", "repair"])
@pytest.mark.parametrize("search", [0, 3])
def test_the_temperature_takes_no_passes_of_its_own(
    monkeypatch: pytest.MonkeyPatch, order: int, layers: str, search: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(40, 4, generator=generator)
    split = Split("train", TensorDataset(inputs, torch.arange(40) % 3))
    options = {"in_features": 4, "hidden": [6], "num_classes": 3}
    modules = {name: networks.build("mlp", options, seed=seed) for seed, name in enumerate("ab")}
    states = {name: module.state_dict() for name, module in modules.items()}
    both = [layers, other_temperature(layers)][::order]
    seen: list[Any] = []
    measure = Engine.measure

    def count(engine: Engine, weights: Any) -> Any:
        seen.append(weights)
        return measure(engine, weights)

    def run(calibration: Any) -> tuple[Barrier, ...]:
        return barrier(
            states, modules["a"], Data("d", {"train": split}, 3, (4,), ""), points=5, simplex=2,
            search=search, calibration=calibration, device="cpu",
        )  # fmt: skip

    apart = [found for calibration in both for found in run(calibration)]
    monkeypatch.setattr(Engine, "measure", count)
    together = run(both)
    assert sorted(map(repr, together)) == sorted(map(repr, apart))
    assert len(seen) == 5 + 2 * search
