from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import Dataset, TensorDataset

from mergekit_perm.data import Split
from mergekit_perm.data import batches as batches_of
from mergekit_perm.data.batches import Batches

# Tensors without memory stand in for an accelerator's.
ELSEWHERE = torch.device("meta")


class Lazy(Dataset[tuple[torch.Tensor, int]]):
    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.full((2,), float(index)), index


def test_batches_come_in_order_every_time() -> None:
    split = Split("train", TensorDataset(torch.arange(7.0), torch.arange(7)))
    batches = Batches(split, device=torch.device("cpu"), batch_size=3)

    for _ in range(2):
        assert [y.tolist() for _, y in batches] == [[0, 1, 2], [3, 4, 5], [6]]
        assert [x.tolist() for x, _ in batches] == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0], [6.0]]
    assert len(batches) == 7


def test_what_is_in_memory_is_made_ready_once() -> None:
    split = Split("train", TensorDataset(torch.zeros(7, 2), torch.arange(7)))
    batches = Batches(split, device=ELSEWHERE, batch_size=3)

    first, again = list(batches), list(batches)

    assert [tuple(x.shape) for x, _ in first] == [(3, 2), (3, 2), (1, 2)]
    assert all(x.device == y.device == ELSEWHERE for x, y in first)
    assert all(a[0] is b[0] and a[1] is b[1] for a, b in zip(first, again, strict=True))


def test_what_is_not_in_memory_is_read_every_time() -> None:
    batches = Batches(Split("train", Lazy()), device=ELSEWHERE, batch_size=3)

    assert [tuple(x.shape) for x, _ in batches] == [(3, 2), (2, 2)]
    assert next(iter(batches))[0] is not next(iter(batches))[0]


def test_images_are_made_ready_in_the_layout_that_is_wanted() -> None:
    images = torch.randn(5, 3, 4, 4)
    split = Split("train", TensorDataset(images, torch.arange(5)))
    for dataset in (split, Split("train", LazyImages())):
        batches = Batches(
            dataset, device=torch.device("cpu"), batch_size=2, layout=torch.channels_last
        )
        assert all(x.is_contiguous(memory_format=torch.channels_last) for x, _ in batches)
    assert images.is_contiguous()


class Copies(TorchDispatchMode):
    """Takes note of what is copied into tensors that are there: shapes and strides of both."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Any, ...]] = []

    def __torch_dispatch__(self, op: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if op is torch.ops.aten.copy_.default:
            target, source = args[:2]
            self.seen.append((target.shape, target.stride(), source.shape, source.stride()))
        return op(*args, **(kwargs or {}))


def test_the_cpu_changes_the_layout_of_what_a_device_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batches_of, "_PART", 100)
    split = Split("train", TensorDataset(torch.randn(5, 3, 4, 4), torch.arange(5)))
    with Copies() as copies:
        Batches(split, device=ELSEWHERE, batch_size=5, layout=torch.channels_last)
    assert [target[0] for target, *_ in copies.seen] == [2, 2, 1]
    for target, strides, source, others in copies.seen:
        assert (target, strides) == (source, others)


def test_the_highest_label_is_known_with_the_batch_that_has_it() -> None:
    read = Batches(Split("train", Lazy()), device=ELSEWHERE, batch_size=2)
    assert read.highest_label == -1
    assert [read.highest_label for _ in read] == [1, 3, 4]
    split = Split("train", TensorDataset(torch.zeros(3, 2), torch.tensor([2, 7, 1])))
    assert Batches(split, device=ELSEWHERE, batch_size=2).highest_label == 7


def test_the_first_examples() -> None:
    for dataset in (
        Lazy(),
        TensorDataset(torch.arange(5.0)[:, None].expand(5, 2), torch.arange(5)),
    ):
        batches = Batches(Split("train", dataset), device=torch.device("cpu"), batch_size=2)
        assert batches.first(3).tolist() == [[0, 0], [1, 1], [2, 2]]
        assert len(batches.first(9)) == 5


def test_what_is_given_up_is_read_batch_by_batch() -> None:
    split = Split("train", TensorDataset(torch.arange(7.0), torch.arange(7)))
    batches = Batches(split, device=torch.device("cpu"), batch_size=3)
    before = [x.tolist() for x, _ in batches]
    assert batches.kept
    batches.give_up()
    assert not batches.kept and not batches.resized(2).kept
    assert [x.tolist() for x, _ in batches] == before


class LazyImages(Lazy):
    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.full((3, 4, 4), float(index)), index
