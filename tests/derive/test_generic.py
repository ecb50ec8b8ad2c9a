"""Generic networks hide no fault: channels differ, branches count, and signals do not fade."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mergekit_perm import derive
from mergekit_perm.derive.generic import make_generic

torch.set_num_threads(1)

# Layer scales, zero-initialised norms, weight standardisation, squeeze-and-excitation.
NETWORKS = [
    ("test_convnext", {}),
    ("test_resnet", {"zero_init_last": True}),
    ("test_nfnet", {}),
    ("test_efficientnet", {}),
    ("test_vit", {"init_values": 1e-6}),
    ("test_mambaout", {}),
]


def all_differ(rows: torch.Tensor) -> bool:
    return len(torch.unique(rows, dim=0)) == len(rows)


@pytest.mark.parametrize(("name", "options"), NETWORKS)
def test_no_two_channels_of_a_network_are_alike(name: str, options: dict[str, object]) -> None:
    fresh = derive.probe(name, options)
    module, inputs = fresh.module, fresh.inputs
    make_generic(module, inputs.double(), seed=0)
    statistics = {n: b for n, b in module.named_buffers() if "running" in n}
    for tensor_name, tensor in {**dict(module.named_parameters()), **statistics}.items():
        for dim in range(min(tensor.ndim, 2)):
            assert all_differ(tensor.detach().movedim(dim, 0)), (tensor_name, dim)
    assert 0.1 < module(inputs.double()).abs().max() < 100


def test_special_weights_become_ordinary_ones() -> None:
    class Special(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.identity = nn.Parameter(torch.eye(16))
            self.zero = nn.Parameter(torch.zeros(8, 16))
            self.scale = nn.Parameter(torch.full((16, 1, 1), 1e-6))
            self.gate = nn.Parameter(torch.zeros(()), requires_grad=False)
            self.table = nn.Parameter(1e-6 * torch.randn(1, 9, 16))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    module = Special()
    make_generic(module, torch.zeros(1, dtype=torch.float64), seed=0)
    order = torch.randperm(16)
    assert not module.identity[order][:, order].allclose(module.identity, atol=1e-3)
    assert 0.2 < module.zero.detach().square().mean().sqrt() < 0.3  # 16 ** -0.5
    assert 0.2 < module.table.detach().square().mean().sqrt() < 0.3
    assert 0.05 < module.scale.detach().square().mean().sqrt() < 0.2
    assert all(p.dtype == torch.float64 and p.requires_grad for p in module.parameters())


@pytest.mark.parametrize("gain", [0.0, 1e-6, -1e-6, 1.0])
def test_a_single_number_never_silences_its_branch(gain: float) -> None:
    module = nn.Identity()
    for index in range(20):
        module.register_parameter(f"gain{index}", nn.Parameter(torch.tensor(gain)))
    for seed in range(3):  # what was made generic is made so again
        make_generic(module, torch.zeros(1, dtype=torch.float64), seed=seed)
        assert min(abs(float(number.detach())) for number in module.parameters()) > 0.099


def deep(width: int, depth: int, gain: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth):
        linear = nn.Linear(width, width)
        nn.init.normal_(linear.weight, std=gain * width**-0.5)
        layers += [linear, nn.BatchNorm1d(width), nn.ReLU()]
    return nn.Sequential(*layers)


@pytest.mark.parametrize("gain", [0.2, 1.0, 5.0])
def test_the_first_of_many_layers_still_counts(gain: float) -> None:
    torch.manual_seed(0)
    module, inputs = deep(12, 40, gain), torch.randn(8, 12, dtype=torch.float64)
    make_generic(module, inputs, seed=0)
    outputs = module(inputs)
    assert 0.1 < outputs.abs().max() < 100
    (gradient,) = torch.autograd.grad(outputs.sum(), module[0].weight)
    assert gradient.abs().max() > 1e-4


def test_statistics_are_nearly_those_of_the_inputs_even_where_a_channel_is_dead() -> None:
    norm, inputs = nn.BatchNorm2d(3), torch.randn(4, 3, 5, 5, dtype=torch.float64)
    inputs *= torch.tensor([1.0, 2.0, 0.0]).view(3, 1, 1)
    inputs += torch.tensor([5.0, 0.0, 1.0]).view(3, 1, 1)
    make_generic(norm, inputs, seed=0)
    assert norm.running_mean is not None and norm.running_var is not None
    assert norm.running_mean.allclose(torch.tensor([5.0, 0.0, 1.0]).double(), atol=1)
    assert norm.running_var.min() > 0.3 and norm.running_var.max() < 5


def test_frozen_and_unused_norms_are_generic_too() -> None:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, value in {"weight": 1.0, "bias": 0.0, "running_mean": 0.0}.items():
                self.register_buffer(name, torch.full((5,), value))
            self.register_buffer("running_var", torch.ones(5))
            self.register_buffer("steps", torch.tensor(0))
            self.unused = nn.BatchNorm1d(5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    module = Frozen()
    make_generic(module, torch.randn(3, 5, dtype=torch.float64), seed=0)
    for name, buffer in module.named_buffers():
        assert not buffer.ndim or all_differ(buffer), name
    assert module.get_buffer("steps") == 0


def test_the_same_seed_gives_the_same_network() -> None:
    states = []
    for seed in (0, 0, 1):
        fresh = derive.probe("test_efficientnet", {})
        module = make_generic(fresh.module, fresh.inputs.double(), seed=seed)
        states.append(module.state_dict())
    assert all(a.equal(b) for a, b in zip(states[0].values(), states[1].values(), strict=True))
    assert not states[0]["conv_stem.weight"].equal(states[2]["conv_stem.weight"])


def test_rounding_stays_rounding_in_a_deep_network_without_shortcuts() -> None:
    torch.manual_seed(0)
    module, inputs = deep(32, 60, 1.0), torch.randn(16, 32, dtype=torch.float64)
    make_generic(module, inputs, seed=0)
    for training in (False, True):
        module.train(training)
        outputs, step = module(inputs), 1e-10 * torch.randn(16, 32, dtype=torch.float64)
        # 1.2 ** 60 would be 56,000.
        assert (module(inputs + step) - outputs).norm() < 2000 * step.norm()


def test_hardly_a_unit_is_off_for_every_example() -> None:
    fresh = derive.probe("legacy_seresnet18", {})
    module, inputs = fresh.module, fresh.inputs
    make_generic(module, inputs.double(), seed=0)
    gates = {n: p for n, p in module.named_parameters() if n.endswith("se_module.fc1.bias")}
    module(inputs.double()).square().sum().backward()
    off = [
        float((bias.grad == 0).double().mean()) for bias in gates.values() if bias.grad is not None
    ]
    assert len(off) == 8 and sum(off) / len(off) < 0.3
