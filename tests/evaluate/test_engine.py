"""Measuring points: the same figures however it is done, and what happens when memory runs out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from mergekit_perm import networks
from mergekit_perm.data import Split
from mergekit_perm.data.batches import Batches
from mergekit_perm.errors import EvaluationError
from mergekit_perm.evaluate import (
    Engine,
    Metrics,
    Mixer,
    Room,
    calibrate,
    edge,
    engine,
    measure,
    mix,
)
from mergekit_perm.weighted import State

torch.set_num_threads(1)

CPU = torch.device("cpu")
RESNET = {"depth": 8, "width": 4, "norm": "batch_norm", "num_classes": 10, "img_size": 8}


@pytest.fixture
def module() -> nn.Module:
    return networks.build("resnet_cifar", RESNET, seed=9)


@pytest.fixture
def states(splits: dict[str, Split]) -> list[State]:
    found = []
    for seed in (0, 1):
        network = networks.build("resnet_cifar", RESNET, seed=seed)
        calibrate(network, "batch_norm", splits["train"])
        found.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
    return found


@pytest.mark.parametrize("calibration", ["none", "batch_norm"])
@pytest.mark.parametrize("batch_size", [7, 64, None])
def test_figures_are_those_of_plain_passes_within_rounding(
    module: nn.Module,
    states: list[State],
    splits: dict[str, Split],
    calibration: str,
    batch_size: int | None,
) -> None:
    ready = Engine(
        module, states, splits, train_split=splits["train"], calibration=calibration, device=CPU,
        batch_size=batch_size,
    )  # fmt: skip
    for point in edge(5):
        found = ready.measure(point)
        module.load_state_dict(mix(states, point))
        calibrate(module, calibration, splits["train"], batch_size=batch_size or 512)
        for name, split in splits.items():
            plain = measure(module, split, batch_size=13)
            assert found[name].loss == pytest.approx(plain.loss, rel=1e-5)
            assert (found[name].error, found[name].n) == (plain.error, plain.n)


# What the docstring of Engine says: how far losses may be apart for another batch size.
SAME, ESTIMATED = 1e-5, 2e-3

PERCEPTRON = {"in_features": 192, "hidden": [24, 24], "num_classes": 10}


@pytest.mark.parametrize(
    ("calibration", "batch_sizes", "rel"),
    [
        ("none", (64, 30, 7, 1), SAME),
        ("temperature", (64, 30, 7, 1), SAME),
        ("batch_norm", (64, 45, 30), ESTIMATED),
        ("repair", (64, 45, 30), ESTIMATED),
    ],
)
@pytest.mark.parametrize(
    ("architecture", "options"), [("resnet_cifar", RESNET), ("mlp", PERCEPTRON)]
)
def test_figures_hardly_depend_on_the_batch_size(
    splits: dict[str, Split],
    calibration: str,
    batch_sizes: tuple[int, ...],
    rel: float,
    architecture: str,
    options: dict[str, Any],
) -> None:
    family = []
    for seed in (0, 1):
        network = networks.build(architecture, options, seed=seed)
        calibrate(network, "batch_norm", splits["train"])
        family.append({name: tensor.clone() for name, tensor in network.state_dict().items()})

    def run(batch_size: int | None) -> list[dict[str, Metrics]]:
        ready = Engine(
            networks.build(architecture, options, seed=9), family, splits, device=CPU,
            train_split=splits["train"], calibration=calibration, batch_size=batch_size,
        )  # fmt: skip
        return [ready.measure(point) for point in edge(5)]

    usual = run(None)
    for batch_size in batch_sizes:
        for found, wanted in zip(run(batch_size), usual, strict=True):
            for name in splits:
                assert found[name].loss == pytest.approx(wanted[name].loss, rel=rel)
                if rel == SAME:
                    assert found[name].error == wanted[name].error


def test_a_point_gives_the_same_again_whatever_came_before(
    module: nn.Module, states: list[State], splits: dict[str, Split]
) -> None:
    ready = Engine(
        module, states, splits, train_split=splits["train"], calibration="batch_norm", device=CPU
    )
    first = ready.measure((0.3, 0.7))
    ready.measure((1.0, 0.0))
    assert ready.measure((0.3, 0.7)) == first


def test_nothing_that_was_given_changes(
    module: nn.Module, states: list[State], splits: dict[str, Split]
) -> None:
    before = [{k: v.clone() for k, v in s.items()} for s in (module.state_dict(), *states)]
    Engine(module, states, splits, device=CPU).measure((0.5, 0.5))
    for state, kept in zip((module.state_dict(), *states), before, strict=True):
        assert all(torch.equal(state[name], kept[name]) for name in kept)
        assert all(state[name].is_contiguous() for name in kept)


def test_a_module_may_be_used_in_place(
    module: nn.Module, states: list[State], splits: dict[str, Split]
) -> None:
    copied = Engine(module, states, splits, device=CPU).measure((0.5, 0.5))
    weight = module.get_parameter("conv1.weight")
    assert Engine(module, states, splits, device=CPU, in_place=True).measure((0.5, 0.5)) == copied
    assert module.get_parameter("conv1.weight") is weight


def scarce(monkeypatch: pytest.MonkeyPatch, most: int, error: RuntimeError) -> list[int]:
    """Let the device have memory for `most` examples at a time; return the batches it was given."""
    given: list[int] = []
    plain = engine.measure_passes

    def measured(module: nn.Module, logits_of: Any, batches: Batches, **options: Any) -> Any:
        largest = max(len(labels) for _, labels in batches)
        given.append(largest)
        if largest > most:
            raise error
        return plain(module, logits_of, batches, **options)

    monkeypatch.setattr(engine, "measure_passes", measured)
    return given


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_fewer_examples_at_a_time_where_memory_runs_out(
    module: nn.Module,
    states: list[State],
    splits: dict[str, Split],
    monkeypatch: pytest.MonkeyPatch,
    error: RuntimeError,
) -> None:
    plenty = Engine(module, states, splits, device=CPU).measure((0.5, 0.5))
    given = scarce(monkeypatch, 20, error)
    ready = Engine(module, states, splits, device=CPU, batch_size=64)
    found = ready.measure((0.5, 0.5))
    assert ready.batch_size == 16
    assert given == [64, 32, 16, 16]
    for name in splits:
        assert found[name].loss == pytest.approx(plenty[name].loss, rel=1e-5)
        assert found[name].error == plenty[name].error
    ready.measure((0.2, 0.8))
    assert given[4:] == [16, 16]


def test_memory_that_holds_no_example_is_an_error(
    module: nn.Module,
    states: list[State],
    splits: dict[str, Split],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scarce(monkeypatch, 0, torch.OutOfMemoryError("out of memory"))
    with pytest.raises(EvaluationError, match="cpu has too little memory for one example"):
        Engine(module, states, splits, device=CPU).measure((0.5, 0.5))


def test_the_next_engine_begins_with_what_fitted(
    module: nn.Module,
    states: list[State],
    splits: dict[str, Split],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    room = Room()
    assert Engine(module, states, splits, device=CPU, room=room).batch_size == 90
    given = scarce(monkeypatch, 20, torch.OutOfMemoryError("out of memory"))
    for _ in range(2):
        ready = Engine(module, states, splits, device=CPU, batch_size=32, room=room)
        ready.measure((0.5, 0.5))
    assert (room.most, given) == (16, [32, 16, 16, 16, 16])


def test_data_on_the_device_are_given_up_before_it_takes_few_examples_at_a_time(
    module: nn.Module,
    states: list[State],
    splits: dict[str, Split],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = Engine(module, states, splits, device=CPU, batch_size=64).measure((0.5, 0.5))
    plain = engine.measure_passes
    given: list[tuple[int, bool]] = []

    def measured(module: nn.Module, logits_of: Any, batches: Batches, **options: Any) -> Any:
        given.append((batches.batch_size, batches.kept))
        if batches.kept:
            raise torch.OutOfMemoryError("out of memory")
        return plain(module, logits_of, batches, **options)

    monkeypatch.setattr(engine, "measure_passes", measured)
    ready = Engine(module, states, splits, device=CPU, batch_size=64)
    assert ready.measure((0.5, 0.5)) == expected
    assert given == [(64, True), (32, True), (16, True), (64, False), (64, False)]
    assert ready.batch_size == 64


class Greedy(nn.Module):
    """Takes all memory where it is given more than `most` examples to calibrate with."""

    def __init__(self, inner: nn.Module, most: int) -> None:
        super().__init__()
        self.inner, self.most = inner, most
        self.given: list[int] = []

    def forward(self, x: torch.Tensor) -> Any:
        if any(layer.training for layer in self.inner.modules()):
            self.given.append(len(x))
            if len(x) > self.most:
                raise torch.OutOfMemoryError("out of memory")
        return self.inner(x)


def greedy(module: nn.Module, states: list[State], most: int) -> tuple[Greedy, list[State]]:
    named = [{f"inner.{name}": tensor for name, tensor in state.items()} for state in states]
    return Greedy(module, most), named


@pytest.mark.parametrize("calibration", ["batch_norm", "repair"])
def test_memory_that_runs_out_in_calibration_takes_fewer_examples_and_says_so_once(
    module: nn.Module, states: list[State], splits: dict[str, Split], calibration: str
) -> None:
    options: dict[str, Any] = {"train_split": splits["train"], "calibration": calibration}
    small = Engine(module, states, splits, device=CPU, batch_size=32, **options)
    hungry, named = greedy(module, states, 40)
    ready = Engine(hungry, named, splits, device=CPU, batch_size=64, in_place=True, **options)

    with pytest.warns(UserWarning, match="cpu has too little memory to calibrate on 64 .* are 32"):
        found = ready.measure((0.5, 0.5))

    # Data were given up first, which did not help.
    given = [size for size in hungry.given if size > 2]  # 2 tell what suits a network
    assert given[:3] == [64, 64, 32]
    for name, metrics in small.measure((0.5, 0.5)).items():
        assert found[name].loss == pytest.approx(metrics.loss, rel=1e-5)
    ready.measure((0.2, 0.8))
    assert max(given[2:]) == max(hungry.given[-3:]) == 32


def test_the_next_engine_calibrates_with_what_fitted(
    module: nn.Module, states: list[State], splits: dict[str, Split]
) -> None:
    options: dict[str, Any] = {"train_split": splits["train"], "calibration": "batch_norm"}
    hungry, named = greedy(module, states, 10)
    options |= {"device": CPU, "in_place": True, "room": (room := Room())}
    with pytest.warns(UserWarning, match="on 64 .* are 8") as warned:
        found = Engine(hungry, named, splits, batch_size=64, **options).measure((0.5, 0.5))
    assert room.notes == [str(warning.message) for warning in warned]
    assert [size for size in hungry.given if size > 10] == [64, 64, 32, 16]

    again = Engine(hungry, named, splits, batch_size=64, **options).measure((0.5, 0.5))
    assert again == found
    small = Engine(hungry, named, splits, batch_size=4, **options)
    hungry.given.clear()
    small.measure((0.5, 0.5))
    assert max(hungry.given) == 4 and len(room.notes) == 1


def test_memory_that_holds_no_examples_to_calibrate_with_is_an_error_that_says_what_to_do(
    module: nn.Module, states: list[State], splits: dict[str, Split]
) -> None:
    hungry, named = greedy(module, states, 0)
    ready = Engine(
        hungry, named, splits, train_split=splits["train"], calibration="batch_norm", device=CPU,
        batch_size=4,
    )  # fmt: skip
    with pytest.raises(EvaluationError, match=r"cpu has .* even on 2 examples .* another `device`"):
        ready.measure((0.5, 0.5))


def test_a_network_is_calibrated_for_good_with_fewer_examples_as_well(
    module: nn.Module, states: list[State], splits: dict[str, Split]
) -> None:
    hungry, _ = greedy(module, states, 40)
    with pytest.warns(UserWarning, match="to calibrate on 64 examples"):
        calibrate(hungry, "batch_norm", splits["train"], batch_size=64)
    found = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    calibrate(module, "batch_norm", splits["train"], batch_size=32)
    for name, tensor in module.state_dict().items():
        torch.testing.assert_close(found[name], tensor)


def test_data_to_calibrate_with_that_do_not_fit_are_read_batch_by_batch(
    module: nn.Module,
    states: list[State],
    splits: dict[str, Split],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options: dict[str, Any] = {"train_split": splits["train"], "calibration": "batch_norm"}
    test = {"test": splits["test"]}
    expected = Engine(module, states, test, device=CPU, **options).measure((0.5, 0.5))
    kept = Split.tensors

    def scarce_device(split: Split) -> Any:
        if split.name == "train":
            raise torch.OutOfMemoryError("out of memory")
        return kept(split)

    monkeypatch.setattr(Split, "tensors", scarce_device)
    found = Engine(module, states, test, device=CPU, **options).measure((0.5, 0.5))
    assert found["test"].loss == pytest.approx(expected["test"].loss, rel=1e-6)


@pytest.mark.parametrize("step", ["__init__", "set", "arrange"])
def test_networks_that_do_not_fit_are_an_error_that_says_what_to_do(
    module: nn.Module,
    states: list[State],
    splits: dict[str, Split],
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    def fail(*_args: Any, **_options: Any) -> Any:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(Mixer, step, fail)
    with pytest.raises(
        EvaluationError, match=r"cpu has too little memory for 2 networks.* another"
    ):
        Engine(module, states, splits, device=CPU)


def test_a_mix_that_does_not_fit_is_an_error(
    module: nn.Module,
    states: list[State],
    splits: dict[str, Split],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ready = Engine(module, states, splits, device=CPU)

    def fail(*_args: Any) -> Any:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(Mixer, "set", fail)
    with pytest.raises(EvaluationError, match="cpu has too little memory to mix networks"):
        ready.measure((0.5, 0.5))


def test_other_errors_are_not_taken_for_that(
    module: nn.Module,
    states: list[State],
    splits: dict[str, Split],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scarce(monkeypatch, 0, RuntimeError("sizes do not match"))
    with pytest.raises(RuntimeError, match="sizes do not match"):
        Engine(module, states, splits, device=CPU).measure((0.5, 0.5))


def test_bfloat16_gives_coarser_figures_of_the_same_networks(
    module: nn.Module, states: list[State], splits: dict[str, Split]
) -> None:
    full = Engine(module, states, splits, device=CPU).measure((0.5, 0.5))
    coarse = Engine(module, states, splits, device=CPU, precision="bfloat16").measure((0.5, 0.5))
    for name in splits:
        assert coarse[name].loss != full[name].loss
        assert coarse[name].loss == pytest.approx(full[name].loss, rel=0.02)


def test_statistics_are_estimated_in_full_precision_whatever_is_measured(
    module: nn.Module, states: list[State], splits: dict[str, Split]
) -> None:
    seen: list[torch.dtype] = []

    class Listening(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> Any:
            output = self.inner(x)
            if any(layer.training for layer in self.inner.modules()):
                seen.append(output.dtype)
            return output

    states = [{f"inner.{name}": tensor for name, tensor in state.items()} for state in states]
    Engine(
        Listening(module), states, splits, train_split=splits["train"], device=CPU,
        calibration="batch_norm", precision="bfloat16",
    ).measure((0.5, 0.5))  # fmt: skip
    assert seen and set(seen) == {torch.float32}


def test_data_are_on_the_device_once_for_measuring_and_calibrating(
    module: nn.Module,
    states: list[State],
    splits: dict[str, Split],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[str] = []
    plain = Batches.__init__

    def init(batches: Batches, split: Split, **options: Any) -> None:
        made.append(split.name)
        plain(batches, split, **options)

    monkeypatch.setattr(Batches, "__init__", init)
    ready = Engine(
        module, states, splits, train_split=splits["train"], calibration="batch_norm", device=CPU
    )
    ready.measure((0.5, 0.5))
    assert made == ["train", "test"]


def test_data_that_do_not_fit_are_read_batch_by_batch(
    module: nn.Module,
    states: list[State],
    splits: dict[str, Split],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = Engine(module, states, splits, device=CPU).measure((0.5, 0.5))
    kept = Split.tensors

    def scarce_device(split: Split) -> Any:
        if split.name == "test":
            raise torch.OutOfMemoryError("out of memory")
        return kept(split)

    monkeypatch.setattr(Split, "tensors", scarce_device)
    assert Engine(module, states, splits, device=CPU).measure((0.5, 0.5)) == expected


def test_no_more_examples_at_a_time_than_there_are(
    module: nn.Module, states: list[State], splits: dict[str, Split]
) -> None:
    assert Engine(module, states, splits, device=CPU).batch_size == 90
    assert Engine(module, states, splits, device=CPU, batch_size=32).batch_size == 32


class ViewsItsWeights(nn.Module):
    """Runs on images that are channels-last, but not with such weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(10, 3, 8, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) @ self.weight.view(10, -1).T


def test_a_module_that_views_its_weights_has_the_plain_layout(splits: dict[str, Split]) -> None:
    module = ViewsItsWeights()
    states = [dict(ViewsItsWeights().state_dict()) for _ in range(2)]
    found = Engine(module, states, splits, device=CPU).measure((0.5, 0.5))
    module.load_state_dict(mix(states, (0.5, 0.5)))
    assert found["test"].loss == pytest.approx(measure(module, splits["test"]).loss, rel=1e-5)


class Silenced(nn.Module):
    """What the convolution gives is used beside the norm, in a branch with a factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 10, 3), nn.BatchNorm2d(10)
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return x.mean((1, 2, 3))[:, None] + self.factor * (self.norm(y) + y).mean((2, 3))


def test_a_branch_that_the_first_network_silences_hides_nothing(splits: dict[str, Split]) -> None:
    states = [dict(Silenced(factor).state_dict()) for factor in (0.0, 1.0)]
    for state in states:
        state["norm.running_mean"] = torch.full((10,), 0.3)
    module = Silenced(0.0)
    found = Engine(module, states, splits, device=CPU).measure((0.0, 1.0))
    module.load_state_dict(states[1])
    assert found["test"].loss == pytest.approx(measure(module, splits["test"]).loss, rel=1e-5)
