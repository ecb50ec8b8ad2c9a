"""Mixtures get the statistics of the networks they are mixed from, in weights and biases alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from mergekit_perm import data, networks, train
from mergekit_perm.data import Split
from mergekit_perm.errors import EvaluationError
from mergekit_perm.evaluate import Engine, calibrate, edge, measure, mix
from mergekit_perm.evaluate.sites import find_sites
from mergekit_perm.networks.layers import LayerNorm2d
from mergekit_perm.weighted import State

torch.set_num_threads(1)
CPU = torch.device("cpu")

VGG = {"depth": 11, "width": 2, "in_chans": 1, "img_size": 8}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any], int]] = {
    "mlp": ("mlp", {"in_features": 64, "hidden": [16, 12]}, 1),
    "vgg": ("vgg", {**VGG, "norm": "none", "init": "he_normal"}, 1),
    "vgg, LayerNorm": ("vgg", {**VGG, "norm": "layer_norm"}, 1),
    "resnet, LayerNorm": ("resnet_cifar", {"depth": 8, "width": 2, "norm": "layer_norm"}, 3),
}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def examples(channels: int, count: int = 200, edge_length: int = 8) -> Split:
    inputs = torch.randn(count, channels, edge_length, edge_length, generator=seeded(3))
    # So that neither batches nor positions are alike.
    inputs = inputs * torch.linspace(0.5, 2, count).reshape(-1, 1, 1, 1) + 0.3
    labels = torch.randint(10, (count,), generator=seeded(4))
    return Split("train", TensorDataset(inputs, labels))


def state_of(module: nn.Module, seed: int) -> State:
    """Return random weights, norm parameters and biases among them: fresh ones hide faults."""
    found = {}
    for name, tensor in module.state_dict().items():
        noise = torch.randn(tensor.shape, generator=seeded(seed + tensor.numel()))
        found[name] = (
            tensor + 0.3 * noise if tensor.ndim < 2 else tensor + 0.5 * tensor.std() * noise
        )
    return found


def statistics(module: nn.Module, split: Split) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return mean and deviation of what each site gives, over the split in one pass."""
    inputs = torch.stack([split.dataset[index][0] for index in range(len(split))])
    found = {}
    hooks = []
    for site in find_sites(module, inputs[:2]):

        def take(_: Any, __: Any, out: torch.Tensor, site: Any = site) -> None:
            rows = out.double().movedim(-1 if site.last else 1, 0).flatten(1).clone()
            found[site.layer] = rows.mean(dim=1), rows.std(dim=1, correction=0)

        hooks.append(module.get_submodule(site.tap).register_forward_hook(take))
    with torch.no_grad():
        module.eval()(inputs)
    for hook in hooks:
        hook.remove()
    return found


def family(name: str) -> tuple[nn.Module, list[State], Split]:
    architecture, options, channels = ARCHITECTURES[name]
    module = networks.build(architecture, options, seed=0)
    states = [state_of(networks.build(architecture, options, seed=seed), seed) for seed in (1, 2)]
    return module, states, examples(channels)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_channels_have_the_weighted_mean_and_deviation_of_the_networks(name: str) -> None:
    module, states, split = family(name)
    ends = []
    for state in states:
        module.load_state_dict(state)
        ends.append(statistics(module, split))
    shares = (0.3, 0.7)
    module.load_state_dict(mix(states, shares))
    before = statistics(module, split)

    calibrate(module, "repair", split, states=states, weights=shares, batch_size=1000)

    after = statistics(module, split)
    assert len(after) > 1 and after.keys() == ends[0].keys()
    far = 0.0
    for site, (mean, deviation) in after.items():
        wanted = [
            sum(w * end[site][part] for w, end in zip(shares, ends, strict=True)) for part in (0, 1)
        ]
        # All examples are one batch: only rounding is left, which each layer passes on.
        size = float(wanted[1].mean())
        if module.get_submodule(site).bias is not None:
            assert float((mean - wanted[0]).abs().max()) < 2e-3 * size, site
        assert float((deviation - wanted[1]).abs().max()) < 2e-3 * size, site
        far = max(far, float((before[site][1] - wanted[1]).abs().max()) / size)
    assert far > 0.1, "the mixture had them already"


@pytest.mark.parametrize("name", ["mlp", "vgg"])
def test_the_first_layer_is_corrected_as_the_closed_form_says(name: str) -> None:
    """Its inputs are the same for all, so that what it gives mixes as weights do."""
    module, states, split = family(name)
    inputs = torch.stack([split.dataset[index][0] for index in range(len(split))])
    first = next(n for n, part in module.named_modules() if isinstance(part, nn.Linear | nn.Conv2d))
    layer, rows = module.get_submodule(first), []
    given = inputs.flatten(1) if isinstance(layer, nn.Linear) else inputs
    for state in states:
        module.load_state_dict(state)
        with torch.no_grad():
            rows.append(layer(given).double().movedim(1, 0).flatten(1))
    shares = torch.tensor([0.3, 0.7], dtype=torch.float64)
    numbers = torch.stack(rows)  # networks, channels, examples and positions
    centred = numbers - numbers.mean(dim=2, keepdim=True)
    covariances = torch.einsum("icn,jcn->ijc", centred, centred) / numbers.shape[2]
    variance = torch.einsum("i,j,ijc->c", shares, shares, covariances)
    aim = torch.einsum("i,ic->c", shares, centred.square().mean(dim=2).sqrt())
    mixture = mix(states, (0.3, 0.7))
    module.load_state_dict(mixture)

    calibrate(module, "repair", split, states=states, weights=(0.3, 0.7), batch_size=1000)

    scale = (aim / variance.sqrt()).float().reshape(-1, *[1] * (layer.weight.ndim - 1))
    torch.testing.assert_close(layer.weight, scale * mixture[f"{first}.weight"], rtol=1e-3, atol=0)


@pytest.mark.parametrize("batch_size", [64, 1000])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_network_alone_stays_as_it_is(name: str, batch_size: int) -> None:
    module, states, split = family(name)
    module.load_state_dict(states[1])
    plain = measure(module, split)

    calibrate(module, "repair", split, states=states, weights=(0, 1), batch_size=batch_size)

    found = measure(module, split)
    # Batches that differ from the split shift what layers behind them see a little.
    assert found.loss == pytest.approx(plain.loss, rel=1e-4 if batch_size == 1000 else 0.05)
    if batch_size == 1000:
        for key, tensor in module.state_dict().items():
            torch.testing.assert_close(tensor, states[1][key], rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_nothing_but_numbers_changes_and_the_classifier_not_at_all(name: str) -> None:
    module, states, split = family(name)
    mixture = mix(states, (0.5, 0.5))
    module.load_state_dict(mixture)
    module.train()
    built = repr(module)

    calibrate(module, "repair", split, states=states)

    found = module.state_dict()
    assert list(found) == list(mixture) and repr(module) == built and module.training
    assert all(found[key].shape == mixture[key].shape for key in mixture)
    changed = {key for key in mixture if not torch.equal(found[key], mixture[key])}
    assert changed == {key for key in mixture if not key.startswith("head.")}
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert not any(part._forward_hooks for part in module.modules())


def test_the_engine_repairs_at_every_point_with_its_own_weights() -> None:
    module, states, split = family("resnet, LayerNorm")
    ready = Engine(
        module, states, {"train": split}, train_split=split, calibration="repair", device=CPU
    )
    for point in (*edge(3), (0.25, 0.75)):
        found = ready.measure(point)["train"]
        own = copy.deepcopy(module)
        own.load_state_dict(mix(states, point))
        calibrate(own, "repair", split, states=states, weights=point)
        assert found.loss == pytest.approx(measure(own, split).loss, rel=1e-4)


def test_networks_are_looked_at_once() -> None:
    module, states, split = family("mlp")
    ready = Engine(
        module, states, {"train": split}, train_split=split, calibration="repair", device=CPU
    )
    passes: list[int] = []
    ready._mixer.module.register_forward_hook(lambda _, x, __: passes.append(len(x[0])))

    ready.measure((0.5, 0.5))
    first = passes.count(200)
    ready.measure((0.25, 0.75))

    # Two networks, the mixture to correct, and the mixture to measure; later the last two.
    assert (first, passes.count(200) - first) == (4, 2)


def test_batch_norm_is_estimated_again_and_layers_before_it_are_left() -> None:
    options = {"depth": 8, "width": 4, "norm": "batch_norm"}
    module = networks.build("resnet_cifar", options, seed=0)
    states = [dict(networks.build("resnet_cifar", options, seed=s).state_dict()) for s in (1, 2)]
    split = examples(3)
    found = []
    for name in ("batch_norm", "repair"):
        module.load_state_dict(mix(states, (0.5, 0.5)))
        calibrate(module, name, split, states=states if name == "repair" else ())
        found.append({key: tensor.clone() for key, tensor in module.state_dict().items()})
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])
    assert not torch.equal(found[0]["norm1.running_var"], torch.ones(4))


class PreActivation(nn.Module):
    """BatchNorm, ReLU, convolution, twice, and added up: only the sums are normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.branch = nn.Conv2d(4, 4, 1)
        self.behind = nn.BatchNorm2d(4)
        self.inner = nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + self.branch(self.norm(x).relu_())
        x = self.inner(self.behind(x))
        return self.head(x.relu_().mean((2, 3)))


def test_only_what_goes_into_a_batch_norm_itself_is_left_out() -> None:
    module = PreActivation().eval()
    sites = find_sites(module, torch.randn(2, 3, 6, 6, generator=seeded(0)))
    assert [site.layer for site in sites] == ["branch", "inner"]


class Plain(nn.Module):
    """A norm without a library: its scale is a weight, and it has no bias."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight / x.square().mean(-1, keepdim=True).sqrt()


class Standardised(nn.Linear):
    """Scaling its weight changes nothing."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight / self.weight.norm(), self.bias)


class Activated(nn.GroupNorm):
    """As timm's: what it has normalised passes through `drop`, then through an activation."""

    def __init__(self, groups: int, size: int) -> None:
        super().__init__(groups, size)
        self.drop = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(super().forward(x)).relu_()


@pytest.mark.parametrize(
    ("layer", "inputs", "site"),
    [
        (nn.Linear(5, 4), (6, 4, 5), ("0", True)),
        (nn.Linear(5, 4, bias=False), (6, 5), ("0", False)),
        (nn.Conv1d(5, 4, 3), (6, 5, 8), ("0", False)),
        (nn.Conv2d(4, 4, 3, groups=4), (6, 4, 4, 4), ("0", False)),
        (nn.Conv3d(2, 4, 1), (6, 2, 4, 4, 4), ("0", False)),
        (nn.LayerNorm(4), (6, 4, 4), ("0", True)),
        (nn.LayerNorm((4, 3)), (6, 4, 3), ("0", False)),
        (LayerNorm2d(4), (6, 4, 4, 4), ("0", False)),
        (nn.GroupNorm(2, 4), (6, 4, 4), ("0", False)),
        (nn.RMSNorm(4), (6, 4, 4), ("0", True)),
        (nn.InstanceNorm2d(4, affine=True), (6, 4, 3, 3), ("0", False)),
        (Plain(4), (6, 4, 4), ("0", True)),
        (Activated(2, 4), (6, 4, 4), ("0.drop", False)),
        (Standardised(4, 4), (6, 4), None),
        (nn.LayerNorm(4, elementwise_affine=False), (6, 4), None),
        (nn.PReLU(4), (6, 4), None),
        (nn.ConvTranspose2d(4, 4, 2), (6, 4, 3, 3), None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_which_layers_can_be_corrected_is_tried(
    layer: nn.Module, inputs: Sequence[int], site: tuple[str, bool] | None
) -> None:
    module = nn.Sequential(layer, nn.Flatten(), nn.LazyLinear(3))
    x = torch.randn(*inputs, generator=seeded(1))
    module(x)
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}

    found = find_sites(module.eval(), x)

    assert [(each.tap, each.last) for each in found] == ([] if site is None else [site])
    assert all(torch.equal(before[key], tensor) for key, tensor in module.state_dict().items())


def test_layers_that_are_called_twice_or_share_a_weight_are_left_alone() -> None:
    twice, first, second = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    module = nn.Sequential(twice, twice, first, second, nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    assert [site.layer for site in find_sites(module, torch.randn(2, 4))] == ["4"]


class PastForward(nn.Module):
    """Uses a layer's weight once more, outside of the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(x) + x @ self.layer.weight)


def test_weights_that_are_used_past_their_layer_are_refused() -> None:
    with pytest.raises(EvaluationError) as caught:
        find_sites(PastForward(), torch.randn(2, 4, generator=seeded(0)))
    assert str(caught.value) == (
        "repair cannot be taken into the weights of PastForward, which uses some weights in "
        "another way than its layers do; choose another calibration"
    )


def test_a_layer_without_bias_is_scaled_alone() -> None:
    module = nn.Sequential(nn.Linear(5, 4, bias=False), nn.ReLU(), nn.Linear(4, 3))
    states = [
        {
            key: torch.randn(t.shape, generator=seeded(seed))
            for key, t in module.state_dict().items()
        }
        for seed in (1, 2)
    ]
    inputs = torch.randn(50, 5, generator=seeded(5)) + 1
    split = Split("train", TensorDataset(inputs, torch.zeros(50, dtype=torch.int64)))
    mixture = mix(states, (0.5, 0.5))
    module.load_state_dict(mixture)

    calibrate(module, "repair", split, states=states)

    deviations = [(inputs @ state["0.weight"].T).std(0) for state in (*states, mixture)]
    factor = (deviations[0] + deviations[1]) / 2 / deviations[2]
    torch.testing.assert_close(
        module[0].weight.detach(), mixture["0.weight"] * factor[:, None], rtol=1e-4, atol=1e-5
    )


def test_a_channel_that_never_varies_stays_finite_and_keeps_its_scale() -> None:
    module = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))
    states = [dict(copy.deepcopy(module).state_dict()) for _ in range(2)]
    for state in states:
        state["0.weight"] = state["0.weight"].clone()
        state["0.weight"][2] = 0
    split = Split("train", TensorDataset(torch.randn(40, 5), torch.zeros(40, dtype=torch.int64)))
    module.load_state_dict(states[0])

    calibrate(module, "repair", split, states=states)

    for key, tensor in module.state_dict().items():
        torch.testing.assert_close(tensor, states[0][key], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_efficientnet_gn"])
def test_networks_of_timm(name: str) -> None:
    options: dict[str, Any] = {"num_classes": 10, "in_chans": 3}
    size = 160 if name == "test_vit" else 64
    module = networks.build(name, options, seed=0)
    states = [dict(networks.build(name, options, seed=seed).state_dict()) for seed in (1, 2)]
    split = examples(3, 6, size)
    module.load_state_dict(states[0])
    ends = [statistics(module, split)]
    module.load_state_dict(states[1])
    ends.append(statistics(module, split))
    module.load_state_dict(mix(states, (0.5, 0.5)))

    calibrate(module, "repair", split, states=states)

    after = statistics(module, split)
    assert len(after) > 20
    for site, (_, deviation) in after.items():
        wanted = (ends[0][site][1] + ends[1][site][1]) / 2
        assert float((deviation - wanted).abs().max()) < 0.05 * float(wanted.mean()), site
    calibrate(module, "repair", split, states=states[:1])
    assert all(tensor.isfinite().all() for tensor in module.state_dict().values())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "calibration 'repair' needs `states`: the networks whose statistics the mixture gets"),
        (
            {"weights": (1.5, -0.5)},
            "calibration 'repair' mixes the statistics of 2 networks with as many weights of 0 or "
            "more, not all 0; it was given [1.5, -0.5]",
        ),
        (
            {"weights": (1.0,)},
            "calibration 'repair' mixes the statistics of 2 networks with as many weights of 0 or "
            "more, not all 0; it was given [1.0]",
        ),
    ],
)
def test_what_is_refused(given: dict[str, Any], message: str) -> None:
    module, states, split = family("mlp")
    with pytest.raises(EvaluationError) as caught:
        calibrate(module, "repair", split, states=states if given else (), **given)
    assert str(caught.value) == message


@pytest.fixture(scope="module")
def trained() -> Callable[[str, dict[str, Any]], tuple[nn.Module, list[State], data.Data]]:
    digits = data.load("digits")

    def make(name: str, options: dict[str, Any]) -> tuple[nn.Module, list[State], data.Data]:
        states = []
        for seed in (0, 1):
            module = networks.build(name, options, seed=seed)
            recipe = train.Recipe(epochs=15, learning_rate=0.02)
            train.fit(module, digits.splits["train"], recipe, seed=seed, device=CPU)
            states.append({key: tensor.clone() for key, tensor in module.state_dict().items()})
        return module, states, digits

    return make


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mlp", {"in_features": 64, "hidden": [128] * 3, "init": "he_normal"}),
        pytest.param(
            "vgg",
            {"depth": 11, "width": 24, "in_chans": 1, "norm": "layer_norm", "init": "he_normal"},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_middle_between_trained_networks_is_lower(
    trained: Any, name: str, options: dict[str, Any]
) -> None:
    module, states, digits = trained(name, options)
    loss = {}
    for calibration in ("none", "repair", "repair+temperature"):
        ready = Engine(
            module, states, digits.splits, train_split=digits.splits["train"],
            calibration=calibration, device=CPU,
        )  # fmt: skip
        loss[calibration] = ready.measure((0.5, 0.5))["test"].loss
    assert loss["repair"] < 0.8 * loss["none"]
    assert loss["repair+temperature"] <= loss["repair"]
