"""Several points in one pass have the figures that they have one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import nn

from mergekit_perm import networks
from mergekit_perm.data import Split
from mergekit_perm.evaluate import Engine, calibrate, edge, engine, ways
from mergekit_perm.evaluate.pace import ALONE, Way
from mergekit_perm.evaluate.points import Weights
from mergekit_perm.weighted import State
from tests.evaluate.engines import quicker

torch.set_num_threads(1)

CPU = torch.device("cpu")
FOUR = Way("4 in one pass", count=4)
KINDS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "mlp": ("mlp", {"in_features": 3 * 8 * 8, "hidden": [16, 16], "num_classes": 10}),
    "resnet": (
        "resnet_cifar",
        {"depth": 8, "width": 4, "norm": "batch_norm", "num_classes": 10, "img_size": 8},
    ),
}
Figures = list[tuple[Weights, dict[str, Any]]]


def networks_of(
    kind: str, count: int, splits: Mapping[str, Split]
) -> tuple[nn.Module, list[State]]:
    name, options = KINDS[kind]
    states = []
    for seed in range(count):
        module = networks.build(name, options, seed=seed)
        calibrate(module, "batch_norm", splits["train"])
        states.append({key: tensor.clone() for key, tensor in module.state_dict().items()})
    return networks.build(name, options, seed=9), states


def figures(ready: Engine, points: Sequence[Weights]) -> Figures:
    return list(ready.each(points))


@pytest.mark.parametrize("calibration", ["none", "batch_norm", "temperature", "repair"])
@pytest.mark.parametrize(("kind", "count"), [("mlp", 3), ("resnet", 2)])
def test_together_points_have_the_figures_that_they_have_alone(
    kind: str,
    count: int,
    calibration: str,
    splits: dict[str, Split],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module, states = networks_of(kind, count, splits)
    points = [(*point, *[0.0] * (count - 2)) for point in edge(9)]
    given: dict[str, Any] = {
        "train_split": splits["train"], "calibration": calibration, "device": CPU,
    }  # fmt: skip
    alone = figures(Engine(module, states, splits, **given), points)
    passes: list[bool] = []
    plain = engine.measure_passes

    def counted(*args: Any, **options: Any) -> Any:
        passes.append(options.get("several", False))
        return plain(*args, **options)

    monkeypatch.setattr(engine, "measure_passes", counted)
    together = figures(Engine(module, states, splits, **given, room=quicker(FOUR)), points)
    assert passes == [*[True] * 4, *[False] * 2]  # 4, 4 and 1 point, on two splits
    assert [point for point, _ in together] == points
    for (_, one), (_, other) in zip(alone, together, strict=True):
        for name in splits:
            assert other[name].loss == pytest.approx(one[name].loss, rel=1e-5)
            assert (other[name].error, other[name].n) == (one[name].error, one[name].n)


def test_what_is_measured_beside_is_so_together(splits: dict[str, Split]) -> None:
    module, states = networks_of("mlp", 2, splits)
    points = edge(4)
    alone = Engine(module, states, splits, device=CPU, both=True)
    together = Engine(module, states, splits, device=CPU, both=True, room=quicker(FOUR))
    figures(alone, points)
    figures(together, points)
    for point in points:
        one, other = alone.beside(point), together.beside(point)
        assert one is not None and other is not None
        assert other["test"].loss == pytest.approx(one["test"].loss, rel=1e-5)
        assert other["test"].loss < alone.measure(point)["test"].loss  # at the best temperature


class Deciding(nn.Module):
    """Looks at its outputs, which cannot be done for several networks at once."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.inner(x)
        return logits if float(logits.detach().sum()) > 0 else logits * 1.0


def test_networks_that_cannot_be_run_together_are_run_one_by_one(splits: dict[str, Split]) -> None:
    module, states = networks_of("mlp", 2, splits)
    within = [{f"inner.{name}": value for name, value in state.items()} for state in states]
    room = quicker(FOUR)
    alone = figures(Engine(Deciding(module), within, splits, device=CPU), edge(5))
    together = Engine(Deciding(module), within, splits, device=CPU, room=room)
    assert figures(together, edge(5)) == alone
    (note,) = room.notes
    assert note.startswith("points are not measured 4 in one pass: RuntimeError, vmap")
    assert room.paces["none"].next(9) == ALONE


def test_where_memory_runs_out_points_are_measured_one_by_one(
    splits: dict[str, Split], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, states = networks_of("mlp", 2, splits)
    plain = engine.measure_passes

    def scarce(*args: Any, several: bool = False, **options: Any) -> Any:
        if several:
            raise torch.OutOfMemoryError("out of memory")
        return plain(*args, **options)

    monkeypatch.setattr(engine, "measure_passes", scarce)
    alone = figures(Engine(module, states, splits, device=CPU), edge(5))
    room = quicker(FOUR)
    ready = Engine(module, states, splits, device=CPU, room=room)
    assert figures(ready, edge(5)) == alone
    assert room.paces["none"].next(9) == ALONE
    assert ready.batch_size == 90


def test_several_points_in_another_order_are_noticed(
    splits: dict[str, Split], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, states = networks_of("mlp", 2, splits)
    plain = ways.passing

    def backwards(own: nn.Module, several: Sequence[State]) -> Any:
        return plain(own, list(reversed(several)))

    monkeypatch.setattr(ways, "passing", backwards)
    alone = figures(Engine(module, states, splits, device=CPU), edge(5))
    room = quicker(FOUR)
    assert figures(Engine(module, states, splits, device=CPU, room=room), edge(5)) == alone
    (note,) = room.notes
    assert note.endswith("EvaluationError, that does not follow the network")


def test_without_splits_there_are_points_without_figures() -> None:
    module = networks.build(*KINDS["mlp"], seed=0)
    states: list[State] = [dict(module.state_dict())] * 2
    found = figures(Engine(module, states, {}, device=CPU, room=quicker(FOUR)), edge(5))
    assert found == [(point, {}) for point in edge(5)]
