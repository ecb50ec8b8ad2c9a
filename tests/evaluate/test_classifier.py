"""The layer whose scaling scales the logits, and temperatures that are taken into it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

from mergekit_perm import networks
from mergekit_perm.data import Split
from mergekit_perm.errors import EvaluationError
from mergekit_perm.evaluate import calibrate, calibrating, measure
from mergekit_perm.evaluate.classifier import find_classifier, scale_logits
from mergekit_perm.evaluate.temperature import best_scale, finite_scale


class TwoHeads(nn.Module):
    """The mean of two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.one, self.two = nn.Linear(4, 5), nn.Linear(5, 3), nn.Linear(5, 3)

    def get_classifier(self) -> tuple[nn.Module, nn.Module]:
        return self.one, self.two

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x).relu()
        return (self.one(x) + self.two(x)) / 2


class Early(nn.Module):
    """Makes something else after the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.other = nn.Linear(4, 5), nn.Linear(5, 3), nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x).relu()
        logits: torch.Tensor = self.head(x)
        return logits + 0 * self.other(x).sum()


class Bounded(nn.Sequential):
    """Logits from -1 to 1."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).tanh()


def random_inputs(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    ("module", "shape", "names"),
    [
        (nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)), (4,), ("2",)),
        (nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3, bias=False)), (4,), ("2",)),
        (nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3), nn.ReLU()), (4,), ("1",)),
        (nn.Sequential(nn.Conv2d(2, 3, 1), nn.AvgPool2d(4), nn.Flatten()), (2, 4, 4), ("0",)),
        (TwoHeads(), (4,), ("one", "two")),
        (Early(), (4,), ("head",)),
        (networks.build("test_convnext", {"num_classes": 3}, seed=0), (3, 64, 64), ("head.fc",)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_it_is_found_and_scales(
    module: nn.Module, shape: tuple[int, ...], names: tuple[str, ...]
) -> None:
    inputs = random_inputs(6, *shape)
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    plain = module.eval()(inputs)
    assert find_classifier(module, inputs) == names
    assert all(torch.equal(before[key], tensor) for key, tensor in module.state_dict().items())

    scale_logits(module, inputs, 3.7)

    torch.testing.assert_close(module(inputs), 3.7 * plain, rtol=1e-4, atol=1e-5)


def tied() -> nn.Module:
    module = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    module[2].weight = module[0].weight
    return module


@pytest.mark.parametrize("module", [Bounded(nn.Linear(4, 3)), tied()], ids=["bounded", "tied"])
def test_a_network_without_one_is_refused(module: nn.Module) -> None:
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    with pytest.raises(EvaluationError) as caught:
        scale_logits(module, random_inputs(6, 4), 2.5)
    assert str(caught.value) == (
        "the temperature cannot be taken into the weights: no layer of "
        f"{type(module).__name__} scales the logits when its weight and bias are scaled; "
        "calibrate without temperature"
    )
    assert all(torch.equal(before[key], tensor) for key, tensor in module.state_dict().items())


def held_out(module: nn.Module, count: int = 60) -> Split:
    """Return examples whose labels are drawn as `module` predicts them."""
    inputs = random_inputs(count, 4)
    drawn = module(inputs).softmax(1).multinomial(1, generator=torch.Generator().manual_seed(7))
    return Split("test", TensorDataset(inputs, drawn[:, 0]))


@pytest.mark.parametrize("name", ["temperature", "batch_norm+temperature", "repair+temperature"])
def test_a_temperature_is_saved_in_the_weights(name: str) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    with torch.no_grad():
        module[2].weight.mul_(5)
        split = held_out(module)
        module[2].weight.mul_(5)
    states = [dict(module.state_dict())] if "repair" in name else []
    train = Split("train", TensorDataset(random_inputs(40, 4), torch.arange(40) % 3))
    plain, logits = measure(module, split), module(split.tensors()[0]).detach()
    wanted = best_scale(logits.double(), split.tensors()[1])

    factor = calibrate(module, name, train, states=states, temperature_split=split)

    found = measure(module, split)
    assert factor == pytest.approx(wanted, rel=1e-3)
    assert found.loss < plain.loss and found.error == plain.error
    scaled = F.cross_entropy(logits * factor, split.tensors()[1])
    assert found.loss == pytest.approx(float(scaled), rel=1e-4)


class Scarce(nn.Sequential):
    """Runs out of memory on more than `most` examples at a time."""

    def __init__(self, *layers: nn.Module, most: int) -> None:
        super().__init__(*layers)
        self.most = most
        self.given: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.given.append(len(x))
        if len(x) > self.most:
            raise torch.OutOfMemoryError("out of memory")
        return super().forward(x)


def sure(most: int) -> tuple[Scarce, Split]:
    """Return a network that is too sure of itself, and 60 examples."""
    torch.manual_seed(0)
    module = Scarce(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3), most=60)
    with torch.no_grad():
        module[2].weight.mul_(5)
        split = held_out(module)
        module[2].weight.mul_(5)
    module.given.clear()
    module.most = most
    return module, split


def test_a_temperature_is_found_on_fewer_examples_at_a_time_where_memory_runs_out() -> None:
    plenty, split = sure(60)
    wanted = calibrate(plenty, "temperature", split)
    module, split = sure(10)

    assert calibrate(module, "temperature", split, batch_size=40) == pytest.approx(wanted, rel=1e-6)

    # Data that are kept on the device are given up first.
    assert module.given[:10] == [40, 40, 20, *[10] * 6, 10]
    assert max(module.given[3:]) == 10
    for found, expected in zip(module.parameters(), plenty.parameters(), strict=True):
        torch.testing.assert_close(found, expected)


def test_memory_without_room_for_the_temperature_is_an_error_that_says_what_to_do() -> None:
    module, split = sure(0)
    with pytest.raises(EvaluationError, match=r"^cpu has too little memory for one example at a "):
        calibrate(module, "temperature", split, batch_size=4)
    assert module.given == [4, 4, 2, 1]


def test_a_classifier_that_is_not_found_for_want_of_memory_is_such_an_error_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_args: Any) -> Any:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(calibrating, "scale_logits", fail)
    module, split = sure(60)
    with pytest.raises(EvaluationError, match="cpu has too little memory to find the layer"):
        calibrate(module, "temperature", split)


def test_where_no_temperature_is_best_the_logits_stay() -> None:
    labels = torch.arange(3)
    right = torch.eye(3, dtype=torch.float64)
    assert finite_scale(right, labels) == finite_scale(-right, labels) == 1.0
    broken = right * math.nan
    assert finite_scale(broken, labels) == 1.0
    module: Any = nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        module.weight.copy_(right)
    split = Split("test", TensorDataset(right.float(), labels))

    assert calibrate(module, "temperature", split) == 1.0
    assert torch.equal(module.weight, right.float())


def test_a_temperature_needs_a_split() -> None:
    with pytest.raises(EvaluationError, match="'temperature' needs a split; there is none"):
        calibrate(nn.Linear(4, 3), "temperature", None)
