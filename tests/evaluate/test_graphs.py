"""Passes as CUDA graphs: what they need of the engine, and on a device the figures themselves."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from mergekit_perm import networks
from mergekit_perm.data import Split
from mergekit_perm.evaluate import Engine, edge
from mergekit_perm.evaluate.graphs import Capturable, Graphed
from mergekit_perm.evaluate.pace import ALONE, GRAPHED, Passes, Way
from tests.evaluate.engines import quicker, resnets

torch.set_num_threads(1)


class Recorded:
    """Stands for graphs on a CPU: a pass that reads where tensors were when it was captured.

    Attributes:
        moved: the tensors that are elsewhere by now.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.places: dict[str, int] = {}
        self.moved: set[str] = set()
        self.calls = 0

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        tensors = [*self.module.named_parameters(), *self.module.named_buffers()]
        places = {name: tensor.data_ptr() for name, tensor in tensors}
        self.places = self.places or places
        self.moved |= {name for name in places if self.places.get(name) != places[name]}
        self.calls += 1
        logits: torch.Tensor = self.module(inputs)
        return logits


@pytest.mark.parametrize("calibration", ["none", "batch_norm", "repair", "temperature"])
def test_tensors_of_the_module_stay_where_they_are(
    calibration: str, splits: dict[str, Split]
) -> None:
    module, states = resnets(splits)
    made: list[Recorded] = []

    def recorded(own: nn.Module) -> Recorded:
        made.append(Recorded(own))
        return made[-1]

    way = Way("as recorded", make=recorded)
    given: dict[str, Any] = {
        "train_split": splits["train"], "calibration": calibration, "device": torch.device("cpu"),
    }  # fmt: skip
    alone = list(Engine(module, states, splits, **given).each(edge(5)))
    room = quicker(way)
    assert list(Engine(module, states, splits, **given, room=room).each(edge(5))) == alone
    (graphed,) = made
    # Of either split made of another network, seen to follow, then each of five points.
    assert graphed.calls == 2 * (1 + 1 + 5)
    assert any(name.endswith("conv1.bias") for name in graphed.places)  # fused, and captured so
    assert graphed.moved == set()
    assert room.paces[calibration].next(5, ready=[way]) == way


class Stale:
    """Stands for graphs that go on with the weights they were captured with."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.kept: torch.Tensor | None = None

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.kept is None:
            self.kept = self.module(inputs)
        return self.kept


class StaleOnTheLastBatch(Stale):
    """Follows but on a batch that is smaller."""

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        if len(inputs) == 32:
            logits: torch.Tensor = self.module(inputs)
            return logits
        return super().__call__(inputs)


@pytest.mark.parametrize("stale", [Stale, StaleOnTheLastBatch])
def test_passes_that_do_not_follow_are_not_used(
    stale: Callable[[nn.Module], Passes], splits: dict[str, Split]
) -> None:
    module, states = resnets(splits)
    cpu = torch.device("cpu")
    given: dict[str, Any] = {"device": cpu, "batch_size": 32}
    alone = list(Engine(module, states, splits, **given).each(edge(5)))
    room = quicker(Way("from before", make=stale))
    assert list(Engine(module, states, splits, **given, room=room).each(edge(5))) == alone
    assert room.notes == [
        "points are not measured from before: EvaluationError, that does not follow the network"
    ]
    assert room.paces["none"].next(5) == ALONE


def test_a_network_that_gives_no_numbers_is_followed_like_another(splits: dict[str, Split]) -> None:
    module, (one, other) = resnets(splits)
    broken = {
        name: value * math.nan if name.startswith("head") else value for name, value in one.items()
    }
    way = Way("as recorded", make=Recorded)
    room = quicker(way)
    ready = Engine(module, [broken, other], splits, device=torch.device("cpu"), room=room)
    found = dict(ready.each(edge(3)))
    assert room.notes == []
    assert room.paces["none"].next(5, ready=[way]) == way
    assert math.isnan(found[1.0, 0.0]["test"].loss)
    assert math.isfinite(found[0.0, 1.0]["test"].loss)


class Waiting(nn.Module):
    """Looks at what it is given, on which a CUDA graph would have to wait."""

    def __init__(self, wait: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.wait = wait

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.wait(x)


@pytest.mark.parametrize(
    ("wait", "at"),
    [
        (lambda x: x * float(x.sum()), "_local_scalar_dense"),
        (lambda x: x if x.sum() > 0 else -x, "_local_scalar_dense"),
        (lambda x: x[x > 0], "index.Tensor"),
        (lambda x: x.nonzero(), "nonzero"),
        (lambda x: x.clone().index_put_((x > 0,), torch.ones(3)), "index_put_"),
        (lambda x: x.to("meta"), "_to_copy"),
    ],
)
def test_what_waits_for_the_device_is_not_captured(
    wait: Callable[[torch.Tensor], torch.Tensor], at: str
) -> None:
    with torch.no_grad(), pytest.raises(RuntimeError, match=at), Capturable():
        Waiting(wait)(torch.ones(3))


def test_what_can_be_captured_runs_as_it_is(splits: dict[str, Split]) -> None:
    module, _ = resnets(splits)
    inputs, _ = next(iter(splits["test"].batches(8)))
    with torch.no_grad():
        expected = module.eval()(inputs)
        with Capturable():
            found, double = module(inputs), expected * torch.tensor(2.0)
            some = expected[torch.tensor([0, 2])]
            kept = expected.clone()
            kept[kept < 0] = 0.0
        assert torch.equal(found, expected)
        assert torch.equal(double, expected + expected)
        assert torch.equal(some, expected[::2][:2])
        assert torch.equal(kept, expected.relu())


def test_a_number_that_is_copied_from_the_cpu_is_waited_for() -> None:
    there = torch.empty(3, device="meta")
    with torch.no_grad(), pytest.raises(RuntimeError, match="copy_"), Capturable():
        there.copy_(torch.tensor(1.0))


@torch.library.custom_op("perm_merge_tests::attention", mutates_args=())
def attention(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Give a number on the CPU as well: so attention does on CUDA devices, seeds of no dropout."""
    return x.clone(), torch.zeros(())


attention.register_fake(lambda x: (torch.empty_like(x), torch.zeros(())))


def test_numbers_that_an_operation_leaves_on_the_cpu_do_not_hinder() -> None:
    with torch.no_grad(), Capturable():
        result, seed = attention(torch.ones(2, device="meta"))
    assert (result.device.type, seed.device.type) == ("meta", "cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_graphs_give_the_figures_of_plain_passes(splits: dict[str, Split]) -> None:
    module, states = resnets(splits)
    cuda = torch.device("cuda")
    alone = Engine(module, states, splits, device=cuda)
    room = quicker(GRAPHED)
    graphed = Engine(module, states, splits, device=cuda, room=room)
    for point, found in graphed.each(edge(9)):
        for name, expected in alone.measure(point).items():
            assert found[name].loss == pytest.approx(expected.loss, rel=1e-5)
    assert room.paces["none"].next(9, ready=[GRAPHED]) == GRAPHED
    assert room.notes == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_attention_is_captured(name: str, precision: Any) -> None:
    cuda, generator = torch.device("cuda"), torch.Generator().manual_seed(0)
    inputs = torch.randn(6, 3, 224, 224, generator=generator)
    split = {"test": Split("test", TensorDataset(inputs, torch.arange(6)))}
    modules = [networks.build(name, {"num_classes": 10}, seed=seed) for seed in (0, 1)]
    states = [dict(module.state_dict()) for module in modules]
    alone = Engine(modules[0], states, split, device=cuda, precision=precision)
    room = quicker(GRAPHED)
    graphed = Engine(modules[0], states, split, device=cuda, precision=precision, room=room)
    for point, found in graphed.each(edge(3)):
        expected = alone.measure(point)["test"].loss
        assert found["test"].loss == pytest.approx(expected, rel=1e-3)
    assert room.notes == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_what_cannot_be_captured_leaves_the_device_as_it_was() -> None:
    module = Waiting(lambda x: x * float(x.sum()))
    inputs = torch.ones(3, device="cuda")
    before = torch.cuda.get_rng_state()
    with torch.inference_mode(), pytest.raises(RuntimeError, match="cannot be captured"):
        Graphed(module)(inputs)
    assert torch.equal(torch.cuda.get_rng_state(), before)
    assert torch.rand(3, device="cuda").sum() > 0
    assert not torch.cuda.is_current_stream_capturing()
