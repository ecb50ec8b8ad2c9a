"""Passes as CUDA graphs: what they need of the engine, and on a device the figures themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from mergekit_perm import networks
from mergekit_perm.data import Split
from mergekit_perm.evaluate import CALIBRATIONS, Engine, Room, calibrate, edge, engine
from mergekit_perm.evaluate.graphs import Graphed
from mergekit_perm.evaluate.pace import ALONE, GRAPHED, Pace
from mergekit_perm.weighted import State

torch.set_num_threads(1)

RESNET = {"depth": 8, "width": 4, "norm": "batch_norm", "num_classes": 10, "img_size": 8}


def networks_of(splits: Mapping[str, Split]) -> tuple[nn.Module, list[State]]:
    states = []
    for seed in (0, 1):
        module = networks.build("resnet_cifar", RESNET, seed=seed)
        calibrate(module, "batch_norm", splits["train"])
        states.append({key: tensor.clone() for key, tensor in module.state_dict().items()})
    return networks.build("resnet_cifar", RESNET, seed=9), states


def graphing() -> Room:
    """Return the room of a device on which graphs have been found quicker."""
    seconds = {ALONE: 1.0, GRAPHED: 0.1}
    return Room(paces={name: Pace((ALONE, GRAPHED), dict(seconds)) for name in CALIBRATIONS})


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
    calibration: str, splits: dict[str, Split], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, states = networks_of(splits)
    made: list[Recorded] = []

    def recorded(own: nn.Module) -> Recorded:
        made.append(Recorded(own))
        return made[-1]

    monkeypatch.setattr(engine, "Graphed", recorded)
    given: dict[str, Any] = {
        "train_split": splits["train"], "calibration": calibration, "device": torch.device("cpu"),
    }  # fmt: skip
    alone = list(Engine(module, states, splits, **given).each(edge(5)))
    room = graphing()
    assert list(Engine(module, states, splits, **given, room=room).each(edge(5))) == alone
    (graphed,) = made
    assert graphed.calls == 2 + 5 * 2  # two to see that they follow, then each point on two splits
    assert any(name.endswith("conv1.bias") for name in graphed.places)  # fused, and captured so
    assert graphed.moved == set()
    assert room.paces[calibration].next() == GRAPHED


class Stale:
    """Stands for graphs that go on with the weights they were captured with."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.kept: torch.Tensor | None = None

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.kept is None:
            self.kept = self.module(inputs)
        return self.kept


def test_graphs_that_do_not_follow_are_not_used(
    splits: dict[str, Split], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, states = networks_of(splits)
    monkeypatch.setattr(engine, "Graphed", Stale)
    cpu = torch.device("cpu")
    alone = list(Engine(module, states, splits, device=cpu).each(edge(5)))
    room = graphing()
    assert list(Engine(module, states, splits, device=cpu, room=room).each(edge(5))) == alone
    (note,) = room.notes
    assert note.endswith("a CUDA graph does not follow the network")
    assert room.paces["none"].next() == ALONE


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_graphs_give_the_figures_of_plain_passes(splits: dict[str, Split]) -> None:
    module, states = networks_of(splits)
    cuda = torch.device("cuda")
    alone = Engine(module, states, splits, device=cuda)
    room = graphing()
    graphed = Engine(module, states, splits, device=cuda, room=room)
    for point, found in graphed.each(edge(9)):
        for name, expected in alone.measure(point).items():
            assert found[name].loss == pytest.approx(expected.loss, rel=1e-5)
    assert isinstance(graphed._graphed, Graphed)
    assert room.paces["none"].next() == GRAPHED
