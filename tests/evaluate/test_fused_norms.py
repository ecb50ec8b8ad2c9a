"""BatchNorm layers that are taken into the layers before them, and those that are not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from mergekit_perm import networks
from mergekit_perm.evaluate.fused_norms import FusedNorms
from tests.evaluate.operations import Operations

torch.set_num_threads(1)


def trained_looking(module: nn.Module) -> nn.Module:
    """Give all BatchNorm layers statistics, scales and shifts that are not those of a new one."""
    generator = torch.Generator().manual_seed(3)
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            for tensor in (layer.running_mean, layer.bias):
                if tensor is not None:
                    tensor.data.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
            for tensor in (layer.running_var, layer.weight):
                if tensor is not None:
                    tensor.data.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return module.eval().requires_grad_(False)


def outputs(module: nn.Module, inputs: torch.Tensor) -> tuple[int, torch.Tensor, torch.Tensor]:
    """Return how many norms were fused, and what the module gives without and with that."""
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    norms = FusedNorms.of(module, inputs)
    module.load_state_dict(state)
    with torch.no_grad():
        plain = module(inputs)
        with norms.fused():
            fused = module(inputs)
    module.load_state_dict(state)  # what has no place there would be an error
    assert set(module.state_dict()) == set(state)
    with torch.no_grad():
        torch.testing.assert_close(module(inputs), plain, rtol=0, atol=0)
    return len(norms), plain, fused


def images(channels: int, edge: int) -> torch.Tensor:
    return torch.randn(3, channels, edge, edge, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("architecture", "options", "channels", "edge", "count"),
    [
        ("resnet18", {}, 3, 64, 20),
        ("mobilenetv3_small_050", {}, 3, 64, 34),  # norms that activate as well
        ("resnet_cifar", {"depth": 8, "norm": "batch_norm", "img_size": 16}, 3, 16, 9),
        ("densenet121", {}, 3, 64, 1 + 58),  # the first, and one in each layer
        ("convnext_atto", {}, 3, 64, 0),
    ],
)
def test_networks_give_the_same(
    architecture: str, options: dict[str, object], channels: int, edge: int, count: int
) -> None:
    module = trained_looking(networks.build(architecture, options, seed=0)).double()
    found, plain, fused = outputs(module, images(channels, edge).double())
    assert found == count
    torch.testing.assert_close(fused, plain, rtol=1e-9, atol=1e-9)


class Skips(nn.Module):
    """What the convolution gives is used beside the norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return (self.norm(y) + y).mean((2, 3))


class InPlace(Skips):
    """Something in place stands between the two."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x).relu_()).mean((2, 3))


class Twice(Skips):
    """The norm is used again on what it gives."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.norm(self.conv(x))).mean((2, 3))


class LooksInside(Skips):
    """A parameter of the norm has another use."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x)).mean((2, 3)) * self.norm.weight


class Keywords(Skips):
    """The norm is called with a keyword."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(input=self.conv(x)).mean((2, 3))


class Insists(Skips):
    """It will have its norm."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert isinstance(self.norm, nn.BatchNorm2d)
        return self.norm(self.conv(x)).mean((2, 3))


class Single(nn.Module):
    """Goes on in single precision."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float()


class Doubled(nn.Conv2d):
    """A convolution that does something else with its weights."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(x, self.weight / self.weight.norm(), self.bias)


def standardised() -> nn.Module:
    return nn.Sequential(Doubled(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten())


def without_statistics() -> nn.Module:
    norm = nn.BatchNorm2d(4, track_running_stats=False)
    return nn.Sequential(nn.Conv2d(2, 4, 3), norm, nn.Flatten())


@pytest.mark.parametrize(
    "build",
    [Skips, InPlace, Twice, LooksInside, Keywords, Insists, standardised, without_statistics],
)
def test_what_is_not_one_layer_after_another_is_left(build: Callable[[], nn.Module]) -> None:
    module = trained_looking(build())
    found, plain, fused = outputs(module, images(2, 6))
    assert found == 0
    assert torch.equal(plain, fused)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_linear_layers_too(bias: bool, affine: bool) -> None:
    module = trained_looking(
        nn.Sequential(nn.Linear(5, 4, bias=bias), nn.BatchNorm1d(4, affine=affine), nn.ReLU())
    )
    inputs = torch.randn(6, 5, generator=torch.Generator().manual_seed(2))
    found, plain, fused = outputs(module, inputs)
    assert found == 1
    torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-6)


def test_layers_of_all_kinds_at_once_stay_where_they_are() -> None:
    """With a bias and without, scaled and not, in double precision and single."""
    first = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6, affine=False)).double()
    last = nn.Sequential(
        nn.Linear(6, 4, bias=False), nn.BatchNorm1d(4, eps=0.1), nn.Linear(4, 3), nn.BatchNorm1d(3)
    )
    module = trained_looking(nn.Sequential(first, Single(), last))
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    inputs = torch.randn(6, 5, generator=torch.Generator().manual_seed(2)).double()

    norms = FusedNorms.of(module, inputs)

    places = []
    for _ in range(2):
        module.load_state_dict(state)
        with torch.no_grad():
            plain = module(inputs)
            with norms.fused():
                places.append([parameter.data_ptr() for parameter in module.parameters()])
                torch.testing.assert_close(module(inputs), plain, rtol=1e-5, atol=1e-6)
    assert len(norms) == 3
    assert places[0] == places[1]


def test_a_fresh_norm_that_would_change_nothing_hides_no_fault() -> None:
    module = Skips().eval().requires_grad_(False)  # mean 0, variance 1, scale 1, shift 0
    assert outputs(module, images(2, 6))[0] == 0


def test_fusing_takes_about_one_operation_for_every_norm() -> None:
    options = {"depth": 20, "norm": "batch_norm", "img_size": 8}
    module = networks.build("resnet_cifar", options, seed=0).eval().requires_grad_(False)
    norms = FusedNorms.of(module, images(3, 8))

    with Operations() as seen, norms.fused():
        pass

    assert len(norms) == 21
    assert len(norms) <= seen.times.total() <= len(norms) + 25
