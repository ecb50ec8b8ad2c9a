"""Networks and rooms for tests of engines, and what stands for an engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext

from torch import nn

from mergekit_perm import networks
from mergekit_perm.data import Split
from mergekit_perm.evaluate import CALIBRATIONS, Metrics, Room, calibrate
from mergekit_perm.evaluate.pace import ALONE, Pace, Way
from mergekit_perm.evaluate.points import Weights
from mergekit_perm.weighted import State

Measured = tuple[Weights, dict[str, Metrics]]

RESNET = {"depth": 8, "width": 4, "norm": "batch_norm", "num_classes": 10, "img_size": 8}


def resnets(splits: Mapping[str, Split]) -> tuple[nn.Module, list[State]]:
    """Return a module, and two networks of it with the statistics of the data."""
    states = []
    for seed in (0, 1):
        module = networks.build("resnet_cifar", RESNET, seed=seed)
        calibrate(module, "batch_norm", splits["train"])
        states.append({key: tensor.clone() for key, tensor in module.state_dict().items()})
    return networks.build("resnet_cifar", RESNET, seed=9), states


def quicker(way: Way) -> Room:
    """Return the room of a device on which `way` has been found quicker."""
    seconds = {ALONE: 1.0, way: 0.1}
    return Room(paces={name: Pace((ALONE, way), dict(seconds)) for name in CALIBRATIONS})


class OneByOne:
    """Stands for an engine, and measures points one by one."""

    multiplying = staticmethod(nullcontext)

    def each(self, points: Sequence[Weights]) -> Iterator[Measured]:
        return ((point, self.measure(point)) for point in points)

    def take(self, left: list[Weights], _devices: int) -> tuple[Way, list[Weights]]:
        return ALONE, [left.pop(0)]

    def some(self, _way: Way, group: list[Weights]) -> list[Measured]:
        return list(self.each(group))

    def measure(self, weights: Weights) -> dict[str, Metrics]:
        raise NotImplementedError
