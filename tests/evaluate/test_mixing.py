from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from mergekit_perm.errors import EvaluationError
from mergekit_perm.evaluate import Mixer, mix
from mergekit_perm.weighted import State
from tests.evaluate.operations import Operations


def network(seed: int) -> tuple[nn.Module, State]:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    state = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    state["1.num_batches_tracked"].fill_(10 + seed)
    state["1.running_mean"].normal_(generator=torch.Generator().manual_seed(seed))
    return module, state


def test_every_floating_tensor_is_mixed_statistics_included() -> None:
    a, b, c = (network(seed)[1] for seed in range(3))

    mixed = mix([a, b, c], [0.5, 0.3, 0.2])

    assert list(mixed) == list(a)
    for name in ("0.weight", "1.bias", "1.running_mean", "1.running_var"):
        expected = 0.5 * a[name].double() + 0.3 * b[name].double() + 0.2 * c[name].double()
        assert mixed[name].dtype == torch.float32
        torch.testing.assert_close(mixed[name].double(), expected, rtol=1e-7, atol=0)


def test_counters_are_never_averaged() -> None:
    a, b = network(0)[1], network(4)[1]

    assert mix([a, b], [0.5, 0.5])["1.num_batches_tracked"].item() == 10
    assert mix([a, b], [0.0, 1.0])["1.num_batches_tracked"].item() == 14


def test_a_weight_of_one_gives_that_network_bit_for_bit() -> None:
    a, b = network(0)[1], network(1)[1]
    a["0.weight"][0, 0] = math.inf

    mixed = mix([a, b], [0.0, 1.0])

    assert all(torch.equal(mixed[name], b[name]) for name in b)
    assert all(mixed[name].data_ptr() != b[name].data_ptr() for name in b)


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.25, 0.75), (0.5, 0.5), (0.0, 1.0)])
def test_a_mixer_writes_what_mix_returns(weights: tuple[float, float]) -> None:
    module, _ = network(9)
    states = [network(0)[1], network(1)[1]]
    mixer = Mixer(module, states)
    mixer.set((0.9, 0.1))

    written = mixer.set(weights).state_dict()

    expected = mix(states, weights)
    for name, tensor in expected.items():
        assert written[name].dtype == tensor.dtype
        torch.testing.assert_close(written[name], tensor, rtol=1e-6, atol=1e-7)
        assert weights[0] != 1 or torch.equal(written[name], states[0][name])


def test_a_mix_takes_as_few_operations_as_kinds_of_tensors() -> None:
    module, state = network(0)
    wide = {name: state[name].double() for name in ("0.weight", "0.bias")}
    mixer = Mixer(module, [state, state | wide, state])

    with Operations() as seen:
        mixer.set((0.25, 0.5, 0.25))

    assert seen.times["_foreach_copy_"] == 2  # floats, and what counts batches
    assert seen.times["_foreach_lerp_"] == 2
    assert seen.times["copy_"] == len(wide)


def test_what_counts_in_another_dtype_is_copied_as_well() -> None:
    module, a = network(0)
    module.register_buffer("mask", torch.tensor([True, False]))
    module.register_buffer("bits", torch.tensor([0, 0], dtype=torch.uint16))
    b = network(1)[1]
    for state, mask in ((a, [1, 1]), (b, [0, 5])):
        state["mask"] = torch.tensor(mask)
        state["bits"] = torch.tensor(mask, dtype=torch.uint16)

    written = Mixer(module, [a, b]).set((0.0, 1.0)).state_dict()

    assert written["mask"].tolist() == [False, True]
    assert written["bits"].tolist() == [0, 5]


def test_a_mixer_leaves_out_what_has_no_weight() -> None:
    module, a = network(0)
    b, c = network(1)[1], network(2)[1]
    b["0.weight"][0, 0] = math.inf

    written = Mixer(module, [a, b, c]).set((0.25, 0.0, 0.75)).state_dict()

    assert written["0.weight"].isfinite().all()


def test_a_mix_of_equal_networks_is_that_network_bit_for_bit() -> None:
    module, a = network(0)
    copies = [{name: tensor.clone() for name, tensor in a.items()} for _ in range(3)]

    written = Mixer(module, copies).set((0.2, 0.3, 0.5)).state_dict()

    assert all(torch.equal(written[name], a[name]) for name in a)


class Tied(nn.Module):
    """One layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = self.first


def test_what_has_two_names_is_mixed_once() -> None:
    modules = [Tied(), Tied()]
    states = [{n: t.clone() for n, t in m.state_dict().items()} for m in modules]

    written = Mixer(Tied(), states).set((0.5, 0.5)).state_dict()

    for name, expected in mix(states, (0.5, 0.5)).items():
        torch.testing.assert_close(written[name], expected)


def test_infinite_masks_stay_as_they_are() -> None:
    module = nn.Linear(2, 2)
    mask = torch.full((3, 3), -math.inf).triu(1)
    module.register_buffer("mask", mask)
    states = [{n: t.clone() for n, t in module.state_dict().items()} for _ in range(2)]

    assert torch.equal(Mixer(module, states).set((0.5, 0.5)).state_dict()["mask"], mask)


def test_weights_that_are_no_mix_are_sums_all_the_same() -> None:
    module, a = network(0)
    b = network(1)[1]

    written = Mixer(module, [a, b]).set((2.0, -0.5)).state_dict()

    expected = 2 * a["0.weight"].double() - 0.5 * b["0.weight"].double()
    torch.testing.assert_close(written["0.weight"].double(), expected, rtol=1e-6, atol=1e-7)


def test_a_mixer_works_on_a_copy() -> None:
    module, _ = network(9)
    own = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    states = [network(0)[1], network(1)[1]]
    before = [{name: tensor.clone() for name, tensor in state.items()} for state in states]
    module.train()

    mixer = Mixer(module, states)
    mixer.set((0.5, 0.5))

    assert mixer.module is not module and not mixer.module.training and module.training
    assert all(p.requires_grad for p in module.parameters())
    assert all(torch.equal(own[name], tensor) for name, tensor in module.state_dict().items())
    for state, kept in zip(states, before, strict=True):
        assert all(torch.equal(state[name], kept[name]) for name in kept)


def test_networks_that_differ_are_refused() -> None:
    module, a = network(0)
    other = {**a, "0.weight": torch.zeros(4, 5)}

    with pytest.raises(EvaluationError) as error:
        mix([a, other], [0.5, 0.5])
    assert str(error.value) == (
        "tensor '0.weight' is (4, 5) in 'network 1' and (4, 3) in 'network 0'; "
        "only networks of one architecture can be mixed"
    )
    with pytest.raises(EvaluationError) as error:
        Mixer(module, [other])
    assert str(error.value) == (
        "tensor '0.weight' is (4, 5) in 'the network' and (4, 3) in 'the module'; "
        "build the module with the networks' architecture"
    )


def test_weights_and_networks_are_as_many() -> None:
    a = network(0)[1]

    with pytest.raises(EvaluationError) as error:
        mix([a, a], [1.0])
    assert str(error.value) == "2 networks need as many weights, not 1"
    with pytest.raises(EvaluationError) as error:
        mix([], [])
    assert str(error.value) == "there are no networks to mix; give at least one"


def test_weights_are_one_per_network() -> None:
    module, a = network(0)
    with pytest.raises(EvaluationError, match="2 networks need as many weights, not 1"):
        Mixer(module, [a, network(1)[1]]).set((1.0,))


@pytest.mark.parametrize("weights", [(0.5, 0.5), (-0.5, 1.5), (0.2, 0.8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_channels_last_holds_the_same_mixes(
    weights: tuple[float, float], dtype: torch.dtype
) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3))
    generator = torch.Generator().manual_seed(0)
    states = [
        {
            n: torch.randn(t.shape, generator=generator).to(dtype)
            for n, t in module.state_dict().items()
        }
        for _ in range(2)
    ]
    mixer = Mixer(module, states, device=torch.device("cpu"))
    mixer.arrange(torch.channels_last)
    mixer.set((1.0, 0.0))
    for name, tensor in mixer.set(weights).state_dict().items():
        expected = sum(w * state[name].double() for w, state in zip(weights, states, strict=True))
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-6, atol=1e-6)
