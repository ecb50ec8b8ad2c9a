"""What alignment holds at once, counted: every storage that torch makes, until it is freed."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import TensorDataset

import mergekit_perm as pm
from mergekit_perm import axis_size, derive, networks
from mergekit_perm.align import METHODS, activations, precision
from mergekit_perm.align.activations import of_activations
from mergekit_perm.align.deadline import Deadline
from mergekit_perm.align.examples import Examples
from mergekit_perm.align.sites import find_sites
from mergekit_perm.data import Split


class Storages(TorchDispatchMode):
    """Counts the bytes of storages made while it is active.

    Attributes:
        held: how many bytes of them are there now.
        peak: how many there were at most.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held = self.peak = 0
        self._known: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = {self._address(leaf) for leaf in tree_leaves((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            address = self._address(leaf)
            if address and address not in given and address not in self._known:
                self._watch(leaf.untyped_storage(), address)
        return result

    @staticmethod
    def _address(leaf: object) -> int:
        return leaf.untyped_storage().data_ptr() if isinstance(leaf, torch.Tensor) else 0

    def _watch(self, storage: torch.UntypedStorage, address: int) -> None:
        size = storage.nbytes()

        def freed(_: object) -> None:
            self.held -= size
            del self._known[address]

        self._known[address] = weakref.ref(storage, freed)
        self.held += size
        self.peak = max(self.peak, self.held)


def peak(count: int, reference: str) -> float:
    """Return the peak of aligning so many networks, on top of them, in networks."""
    name, options = "resnet_cifar", {"depth": 20, "width": 16}
    states = {
        f"n{seed}": dict(networks.build(name, options, seed=seed).state_dict())
        for seed in range(count)
    }
    shapes = {key: tuple(tensor.shape) for key, tensor in states["n0"].items()}
    spec = derive.find(name, options, shapes).spec
    size = sum(tensor.numel() * tensor.element_size() for tensor in states["n0"].values())
    with Storages() as storages:
        family = pm.align(
            states, spec, reference=reference, method="weight_matching", cooling=1, max_sweeps=1
        )
    assert storages.held >= count * size  # the result itself is counted
    assert len(family.states) == count
    return storages.peak / size


def test_storages_are_counted_until_they_are_freed() -> None:
    with Storages() as storages:
        kept = torch.zeros(1000)
        torch.ones(3000)
        view = kept[:10] + 1
    assert (storages.held, storages.peak) == (4040, 16000)
    assert view.shape == (10,)


def test_a_pair_takes_its_aligned_copies_and_less_than_one_network_more() -> None:
    assert peak(2, "n0") < 3


def test_together_networks_take_their_copies_and_little_more_than_three() -> None:
    """A sum of all in float64 is two, and the step in hand the third."""
    few, many = peak(3, "joint"), peak(6, "joint")
    assert many < 6 + 3.25
    assert many - few <= 3.1


# --------------------------------------------------------------------------------- looking at data


class Networks:
    """Networks of one architecture with the examples that they are run on.

    Attributes:
        size: the bytes of one of them.
        sites: where their groups show.
        matrices: the bytes of a float32 matrix of similarities for every site.
        shown: the bytes that one network shows in float32 at all sites, with one example.
    """

    def __init__(self, name: str, options: dict[str, Any], *, examples: int = 64) -> None:
        self.build = partial(networks.build, name, options)
        module = self.build(seed=0).eval()
        state = module.state_dict()
        self.size = sum(tensor.nbytes for tensor in state.values())
        shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
        self.spec = derive.find(name, options, shapes).spec.bind(shapes)
        shape = networks.input_shape(module, options)
        inputs = torch.randn(examples, *shape, generator=torch.Generator().manual_seed(0))
        split = Split("train", TensorDataset(inputs, torch.arange(examples) % 10))
        self.examples = Examples(module, split, torch.device("cpu"))
        self.sites = find_sites(self.spec, self.examples, state)
        units = [axis_size.size(site.axis, self.spec.groups) for site in self.sites]
        self.units, self.matrices = sum(units), 4 * sum(n * n for n in units)
        self.shown = 4 * sum(site.numbers for site in self.sites)

    def states(self, count: int) -> dict[str, dict[str, torch.Tensor]]:
        return {f"n{seed}": dict(self.build(seed=seed).state_dict()) for seed in range(count)}

    def peak(self, number: int, method: str, **options: Any) -> int:
        """Return the peak of a solver on so many of them, on top of them, in bytes."""
        states = self.states(number)
        with Storages() as storages:
            found = METHODS[method](states, self.spec, examples=self.examples, **options)
        assert list(found.members) == list(states)
        return storages.peak


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> Networks:
    """Networks of few wide layers; what does not grow with them is made small."""
    monkeypatch.setattr(precision, "_PART", 2**12)
    return Networks("mlp", {"in_features": 32, "hidden": [96, 96, 96], "num_classes": 10})


@pytest.fixture
def resnets(monkeypatch: pytest.MonkeyPatch) -> Networks:
    """Networks whose activations are larger than their weights."""
    monkeypatch.setattr(precision, "_PART", 2**12)
    options = {"depth": 8, "width": 16, "norm": "batch_norm", "num_classes": 10, "img_size": 16}
    return Networks("resnet_cifar", options)


def test_finding_sites_takes_a_network_in_float64_a_copy_and_one_pass(
    wide: Networks, resnets: Networks
) -> None:
    """What a pass shows is there once, however many modules hand it on; three examples of it."""
    for each, passes in (wide, 1.2), (resnets, 4.2):
        state = each.states(1)["n0"]
        with Storages() as storages:
            find_sites(each.spec, each.examples, state)
        assert storages.peak < 3.5 * each.size + passes * 3 * 2 * each.shown


def test_to_a_reference_activations_take_four_matrices_whatever_their_number(
    wide: Networks,
) -> None:
    few, many = (wide.peak(n, "activation_matching", reference="n0") for n in (2, 4))
    assert few < 4 * wide.matrices
    assert many == few


def test_to_a_reference_only_so_much_is_run_at_once(
    resnets: Networks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the reference shows in float32, and about as much of one pass of the other."""
    peaks = [resnets.peak(2, "activation_matching", reference="n0")]
    monkeypatch.setattr(activations, "_AT_ONCE", 16 * resnets.shown // 4)
    peaks += [resnets.peak(n, "activation_matching", reference="n0") for n in (2, 4)]
    for peak_of, at_once in zip(peaks, (64, 16, 16), strict=True):
        assert peak_of < 2 * at_once * resnets.shown + 4 * resnets.matrices + resnets.size


def test_activations_are_there_once(wide: Networks) -> None:
    """And those of one site of one network twice while they become comparable."""
    states, rows = wide.states(4), 4 * wide.units * 64
    with Storages() as storages:
        of_activations(
            states, wide.spec, wide.examples, wide.sites, count=64, batch_size=8, rows=64, seed=0,
            deadline=Deadline(),
        )  # fmt: skip
    assert storages.peak < 4.5 * rows


def test_jointly_activations_are_there_twice_and_their_sum(wide: Networks) -> None:
    options: dict[str, Any] = {"reference": "joint", "cooling": 1, "max_sweeps": 1}
    rows = 4 * wide.units * 64
    few, many = (wide.peak(n, "activation_matching", **options) for n in (8, 12))
    assert many - few == pytest.approx(4 * 2 * rows, rel=0.05)
    assert many < (12 * 2 + 2 + 3) * rows


def test_mixed_alignment_takes_three_copies_of_activations_and_two_of_weights(
    wide: Networks,
) -> None:
    options: dict[str, Any] = {"restarts": 1, "steps": 2, "exchanges": 2, "max_sweeps": 1}
    each = 3 * 4 * wide.units * 64 + 2 * wide.size
    few, many = (wide.peak(n, "mixed", reference="joint", **options) for n in (4, 6))
    assert many - few == pytest.approx(2 * each, rel=0.05)
    # One pair takes a little more than another: other exchanges are tried, of other groups.
    pair, pairs = (wide.peak(n, "mixed", reference="n0", **options) for n in (2, 4))
    assert pairs < pair + each / 8


def test_straight_through_takes_four_networks_for_each(wide: Networks) -> None:
    """Its latents, their two moments, and the network as permuted."""
    few, many = (wide.peak(n, "straight_through", steps=2) for n in (2, 4))
    assert many - few == pytest.approx(2 * 4 * wide.size, rel=0.05)
