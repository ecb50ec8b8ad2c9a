"""Points spread over several devices: the same figures, each measured once."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from torch.utils.data import TensorDataset

from mergekit_perm import networks
from mergekit_perm.data import Split
from mergekit_perm.evaluate import Engine, Metrics, Room, Team, edge, measure_points
from mergekit_perm.evaluate.pace import Way
from mergekit_perm.evaluate.points import Weights
from mergekit_perm.evaluate.precision import Precision, arithmetic, multiplying
from tests.evaluate.engines import OneByOne, quicker

torch.set_num_threads(1)

OPTIONS = {"in_features": 4, "hidden": [6], "num_classes": 3}


def engines(count: int, *, room: Room | None = None) -> list[Engine]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(30, 4, generator=generator)
    split = Split("train", TensorDataset(inputs, torch.arange(30) % 3))
    modules = [networks.build("mlp", OPTIONS, seed=seed) for seed in (0, 1)]
    states = [dict(module.state_dict()) for module in modules]
    return [
        Engine(modules[0], states, {"train": split}, device=torch.device("cpu"), room=room)
        for _ in range(count)
    ]


def test_a_team_gives_what_one_engine_does() -> None:
    points = edge(17)
    kept: list[Any] = []
    alone = measure_points(engines(1)[0], points)
    assert measure_points(Team(engines(3)), points, keep=lambda *each: kept.append(each)) == alone
    assert sorted(point for point, _ in kept) == sorted(points)


def test_every_device_measures_several_points_at_a_time() -> None:
    team = Team(engines(2, room=quicker(Way("3 in one pass", count=3))))
    groups: list[list[Weights]] = []
    for engine in team.engines:
        plain = engine.some

        def noted(way: Way, group: list[Weights], plain: Any = plain) -> Any:
            groups.append(list(group))
            return plain(way, group)

        engine.some = noted  # type: ignore[method-assign, assignment]
    points = edge(8)
    found = dict(team.each(points))
    assert sorted(point for group in groups for point in group) == sorted(points)
    assert sorted(map(len, groups)) == [2, 3, 3]
    for point, metrics in dict(engines(1)[0].each(points)).items():
        assert found[point]["train"].loss == pytest.approx(metrics["train"].loss, rel=1e-5)


class Slow(OneByOne):
    """Waits until another one is at work."""

    def __init__(self, barrier: threading.Barrier) -> None:
        self.barrier, self.measured = barrier, 0

    def measure(self, weights: Weights) -> dict[str, Metrics]:
        self.barrier.wait(timeout=20)
        self.measured += 1
        return {"train": Metrics(0.0, 0.0, 1)}


def test_devices_work_at_the_same_time() -> None:
    meeting = threading.Barrier(2)
    slow: list[Any] = [Slow(meeting), Slow(meeting)]
    found = dict(Team(slow).each(edge(6)))
    assert sorted(found) == sorted(edge(6))
    assert [engine.measured for engine in slow] == [3, 3]


@pytest.mark.parametrize(("precision", "allowed"), [("bfloat16", False), ("tf32", True)])
def test_no_thread_puts_back_how_cuda_multiplies_while_others_work(
    monkeypatch: pytest.MonkeyPatch, precision: Precision, allowed: bool
) -> None:
    cuda = torch.device("cuda")
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    monkeypatch.setattr(torch, "autocast", lambda *_args, **_options: nullcontext())
    before = [backend.allow_tf32 for backend in backends]
    seen: list[bool] = []
    meeting = threading.Barrier(2)

    class InTurn(OneByOne):
        """Works within settings of its own, as engines do, and sees them after the other has."""

        multiplying = staticmethod(partial(multiplying, precision, cuda))

        def measure(self, weights: Weights) -> dict[str, Metrics]:
            with arithmetic(precision, cuda):
                meeting.wait(timeout=20)
            meeting.wait(timeout=20)
            seen.extend(backend.allow_tf32 for backend in backends)
            return {}

    workers: list[Any] = [InTurn(), InTurn()]
    try:
        for backend in backends:
            backend.allow_tf32 = not allowed
        assert len(list(Team(workers).each(edge(4)))) == 4
        assert [backend.allow_tf32 for backend in backends] == [not allowed] * 2
    finally:
        for backend, was in zip(backends, before, strict=True):
            backend.allow_tf32 = was
    assert len(seen) == 8 and set(seen) == {allowed}


class Broken(OneByOne):
    """An engine whose device is lost."""

    measured = 0

    def measure(self, weights: Weights) -> dict[str, Metrics]:
        self.measured += 1
        raise RuntimeError("the device is gone")


def test_an_error_on_one_device_ends_the_work() -> None:
    broken: Any = Broken()
    with pytest.raises(RuntimeError, match="the device is gone"):
        list(Team([broken]).each(edge(200)))
    assert broken.measured == 1


class Late(OneByOne):
    """Is done after another device is lost."""

    def __init__(self, lost: threading.Event) -> None:
        self.lost = lost

    def measure(self, weights: Weights) -> dict[str, Metrics]:
        assert self.lost.wait(timeout=20)
        return {"train": Metrics(0.0, 0.0, 1)}


class Lost(Broken):
    """Tells that it is."""

    def __init__(self, lost: threading.Event) -> None:
        self.lost = lost

    def measure(self, weights: Weights) -> dict[str, Metrics]:
        self.lost.set()
        return super().measure(weights)


def test_what_other_devices_measure_meanwhile_is_not_lost() -> None:
    lost = threading.Event()
    team: list[Any] = [Lost(lost), Late(lost)]
    found: list[Weights] = []
    with pytest.raises(RuntimeError, match="the device is gone"):
        for point, _ in Team(team).each(edge(200)):
            found.append(point)
    assert 1 <= len(found) <= 2


def test_devices_share_the_points_that_are_left() -> None:
    seen: list[int] = []

    class Asked(OneByOne):
        def take(self, left: list[Weights], devices: int) -> tuple[Way, list[Weights]]:
            seen.append(devices)
            return super().take(left, devices)

        def measure(self, weights: Weights) -> dict[str, Metrics]:
            return {}

    team: list[Any] = [Asked(), Asked(), Asked()]
    assert len(list(Team(team).each(edge(7)))) == 7
    assert seen == [3] * 7
