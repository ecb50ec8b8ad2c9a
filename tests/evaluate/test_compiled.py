"""Compiled passes: the figures of plain ones, compiled once for all points."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from mergekit_perm.data import Split
from mergekit_perm.evaluate import Engine, edge
from mergekit_perm.evaluate.pace import ALONE, COMPILED
from tests.evaluate.engines import quicker, resnets

torch.set_num_threads(1)

CPU = torch.device("cpu")


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[torch.fx.GraphModule]]:
    """Compile to what is traced, which needs no compiler; what there is of it, in turn."""
    traced: list[torch.fx.GraphModule] = []

    def noted(graph: torch.fx.GraphModule, _inputs: object) -> Callable[..., Any]:
        traced.append(graph)
        return graph.forward

    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=noted))
    yield traced
    torch.compiler.reset()


@pytest.mark.parametrize("calibration", ["none", "batch_norm", "repair", "temperature"])
def test_compiled_passes_give_the_figures_of_plain_ones(
    calibration: str, splits: dict[str, Split], graphs: list[torch.fx.GraphModule]
) -> None:
    module, states = resnets(splits)
    given: dict[str, Any] = {
        "train_split": splits["train"], "calibration": calibration, "device": CPU, "batch_size": 24,
    }  # fmt: skip
    points = edge(5)
    alone = dict(Engine(module, states, splits, **given).each(points))
    room = quicker(COMPILED)
    compiled = dict(Engine(module, states, splits, **given, room=room).each(points))
    assert room.notes == []
    assert room.paces[calibration].next(5, ready=[COMPILED]) == COMPILED
    assert len(graphs) == 2  # of batches of 24, and of any other size; in one piece each
    for point in points:
        for name in splits:
            assert compiled[point][name].loss == pytest.approx(alone[point][name].loss, rel=1e-5)
            assert compiled[point][name].error == alone[point][name].error


class Remembering(Dataset[tuple[torch.Tensor, int]]):
    """Keeps what it has read."""

    def __init__(self, split: Split) -> None:
        self.split = split
        self.kept: dict[int, torch.Tensor] = {}

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, int]:
        inputs, label = self.split.dataset[place]
        self.kept.setdefault(place, inputs * 1.0)
        return self.kept[place], int(label)


def test_data_that_are_read_meanwhile_can_be_learned_from_afterwards(
    splits: dict[str, Split], graphs: list[torch.fx.GraphModule]
) -> None:
    module, states = resnets(splits)
    reads = Remembering(splits["test"])
    streamed = {"test": Split("test", reads)}
    room = quicker(COMPILED)
    ready = Engine(module, states, streamed, device=CPU, batch_size=64, room=room)
    list(ready.each(edge(3)))
    assert room.notes == []
    assert len(graphs) == 1
    assert len(reads.kept) == len(reads)
    assert not any(inputs.is_inference() for inputs in reads.kept.values())


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let compiling fail when all is traced."""

    def fails(_graph: torch.fx.GraphModule, _inputs: object) -> Callable[..., Any]:
        raise FileNotFoundError("there is no compiler")

    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=fails))
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("no_compiler")
def test_where_nothing_can_be_compiled_points_are_measured_one_by_one(
    splits: dict[str, Split],
) -> None:
    module, states = resnets(splits)
    alone = list(Engine(module, states, splits, device=CPU).each(edge(5)))
    room = quicker(COMPILED)
    assert list(Engine(module, states, splits, device=CPU, room=room).each(edge(5))) == alone
    (note,) = room.notes
    assert note.startswith("points are not measured compiled: BackendCompilerFailed")
    assert room.paces["none"].next(5) == ALONE


@pytest.mark.usefixtures("no_compiler")
def test_networks_are_not_held_by_what_could_not_be_compiled(splits: dict[str, Split]) -> None:
    module, states = resnets(splits)
    ready = Engine(module, states, splits, device=CPU, room=quicker(COMPILED))
    held = weakref.ref(ready.module)
    gc.disable()
    try:
        list(ready.each(edge(3)))
        del ready
        assert held() is None
    finally:
        gc.enable()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores")
@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_on_an_accelerator_compiled_passes_give_the_figures_of_plain_ones(
    precision: Any, splits: dict[str, Split]
) -> None:
    module, states = resnets(splits)
    given: dict[str, Any] = {"device": torch.device("cuda"), "precision": precision}
    alone = Engine(module, states, splits, **given)
    room = quicker(COMPILED)
    compiled = dict(Engine(module, states, splits, **given, room=room).each(edge(5)))
    assert room.notes == []
    within = {"float32": 1e-5, "tf32": 1e-3, "bfloat16": 1e-2}[precision]
    for point, metrics in compiled.items():
        for name, expected in alone.measure(point).items():
            assert metrics[name].loss == pytest.approx(expected.loss, rel=within)
