"""Points spread over several devices: the same figures, each measured once."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch.utils.data import TensorDataset

from mergekit_perm import networks
from mergekit_perm.data import Split
from mergekit_perm.evaluate import Engine, Metrics, Team, edge, measure_points
from mergekit_perm.evaluate.precision import Precision, arithmetic, multiplying

torch.set_num_threads(1)

OPTIONS = {"in_features": 4, "hidden": [6], "num_classes": 3}


def engines(count: int) -> list[Engine]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(30, 4, generator=generator)
    split = Split("train", TensorDataset(inputs, torch.arange(30) % 3))
    modules = [networks.build("mlp", OPTIONS, seed=seed) for seed in (0, 1)]
    states = [dict(module.state_dict()) for module in modules]
    return [
        Engine(modules[0], states, {"train": split}, device=torch.device("cpu"))
        for _ in range(count)
    ]


def test_a_team_gives_what_one_engine_does() -> None:
    points = edge(17)
    kept: list[Any] = []
    alone = measure_points(engines(1)[0], points)
    assert measure_points(Team(engines(3)), points, keep=lambda *each: kept.append(each)) == alone
    assert sorted(point for point, _ in kept) == sorted(points)


class Slow:
    """Stands for an engine on a device, and waits until another one is at work."""

    multiplying = staticmethod(nullcontext)

    def __init__(self, barrier: threading.Barrier) -> None:
        self.barrier, self.measured = barrier, 0

    def measure(self, _weights: Any) -> dict[str, Metrics]:
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

    class InTurn:
        """Works within settings of its own, as engines do, and sees them after the other has."""

        def multiplying(self) -> AbstractContextManager[None]:
            return multiplying(precision, cuda)

        def measure(self, _weights: Any) -> dict[str, Metrics]:
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


class Broken:
    """An engine whose device is lost."""

    multiplying = staticmethod(nullcontext)
    measured = 0

    def measure(self, _weights: Any) -> dict[str, Metrics]:
        self.measured += 1
        raise RuntimeError("the device is gone")


def test_an_error_on_one_device_ends_the_work() -> None:
    broken: Any = Broken()
    with pytest.raises(RuntimeError, match="the device is gone"):
        list(Team([broken]).each(edge(200)))
    assert broken.measured < 200
