"""What alignment holds at once, counted: every storage that torch makes, until it is freed."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import mergekit_perm as pm
from mergekit_perm import derive, networks


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
