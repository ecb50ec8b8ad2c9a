from __future__ import annotations

import os
import signal
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from mergekit_perm.data import InMemory, Split, splits
from mergekit_perm.errors import DataError

torch.set_num_threads(1)


class Squares(Dataset[Any]):
    """Item i is ([i, i * i], i % 3); nothing of it is in memory."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if index >= 10:
            raise IndexError
        return torch.tensor([float(index), float(index) ** 2]), index % 3


def in_memory() -> InMemory:
    every = [Squares()[index] for index in range(10)]
    return InMemory(torch.stack([x for x, _ in every]), torch.tensor([y for _, y in every]))


@pytest.fixture(params=["memory", "tensors", "lazy", "workers"])
def split(request: pytest.FixtureRequest) -> Split:
    memory = in_memory()
    return {
        "memory": Split("train", memory),
        "tensors": Split("train", TensorDataset(memory.inputs, memory.labels)),
        "lazy": Split("train", Squares()),
        "workers": Split("train", Squares(), workers=1),
    }[str(request.param)]


def test_batches_cover_the_split_in_order(split: Split) -> None:
    batches = list(split.batches(4))
    assert [len(y) for _, y in batches] == [4, 4, 2]
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert x.tolist() == [[float(i), float(i * i)] for i in range(10)]
    assert y.tolist() == [i % 3 for i in range(10)]
    assert y.dtype == torch.int64
    assert len(split) == 10
    assert split.input_shape == (2,)


def test_batches_in_an_order(split: Split) -> None:
    order = torch.tensor([7, 2, 2, 9])
    batches = list(split.batches(3, order=order))
    assert [x[:, 0].tolist() for x, _ in batches] == [[7, 2, 2], [9]]
    assert [y.tolist() for _, y in batches] == [[1, 2, 2], [0]]


def test_batches_draw_no_random_numbers(split: Split) -> None:
    before = torch.get_rng_state()
    list(split.batches(4))
    assert torch.equal(torch.get_rng_state(), before)


def test_batches_go_to_a_device(split: Split) -> None:
    x, y = next(iter(split.batches(4, device="meta")))
    assert x.device.type == y.device.type == "meta"


def test_batches_can_be_gone_through_while_others_are(split: Split) -> None:
    pairs = list(zip(split.batches(5), split.batches(5), strict=True))
    assert all(torch.equal(a[0], b[0]) for a, b in pairs)
    assert len(pairs) == 2


def test_tensors_are_there_only_when_they_are_in_memory(split: Split) -> None:
    found = split.tensors()
    if isinstance(split.dataset, Squares):
        assert found is None
    else:
        assert found is not None
        assert found[0].tolist() == [[float(i), float(i * i)] for i in range(10)]
        assert found[1].tolist() == [i % 3 for i in range(10)]


def test_tensors_of_an_enormous_split_are_left_to_batches() -> None:
    row = torch.zeros((), dtype=torch.uint8).expand(1100, 1, 1024, 1024)
    split = Split("train", InMemory(row, torch.zeros(1100, dtype=torch.int64)))
    assert split.tensors() is None
    assert next(iter(split.batches(2)))[0].shape == (2, 1, 1024, 1024)


def test_bytes_are_scaled_and_normalised() -> None:
    pixels = torch.tensor([0, 51, 102, 255], dtype=torch.uint8).reshape(2, 2, 1, 1)
    labels = torch.tensor([1, 0], dtype=torch.uint8)
    scaled = Split("train", InMemory(pixels, labels))
    torch.testing.assert_close(
        next(iter(scaled.batches(2)))[0].flatten(), torch.tensor([0, 0.2, 0.4, 1])
    )
    dataset = InMemory(pixels, labels, mean=(0.5, 0.2), std=(0.25, 0.5))
    expected = torch.tensor([-2, 0, -0.4, 1.6]).reshape(2, 2, 1, 1)
    torch.testing.assert_close(Split("train", dataset).tensors()[0], expected)  # type: ignore[index]
    example, label = dataset[1]
    torch.testing.assert_close(example, expected[1])
    assert label == 0
    assert isinstance(label, int)
    assert pixels.flatten().tolist() == [0, 51, 102, 255]


def test_an_empty_split() -> None:
    with pytest.raises(DataError) as caught:
        Split("test", TensorDataset(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64)))
    assert str(caught.value) == "split 'test' has no examples"


def test_labels_that_do_not_belong_to_the_inputs() -> None:
    with pytest.raises(DataError) as caught:
        InMemory(torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64))
    assert str(caught.value) == (
        "inputs of shape [3, 2] need one class each, not labels of shape [2]"
    )
    with pytest.raises(DataError) as caught:
        InMemory(torch.zeros(3, 2), torch.zeros(3))
    assert str(caught.value) == "classes are whole numbers, not torch.float32"


class Fatal(Squares):
    """Its fourth example kills the process that reads it."""

    def __getitem__(self, index: int) -> Any:
        if index == 3 and torch.utils.data.get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def test_a_reader_that_dies_is_an_error_that_says_what_to_do() -> None:
    split = Split("train", Fatal(), workers=1)
    with pytest.raises(DataError, match=r"split 'train': a process that reads .* fewer `workers`"):
        list(split.batches(2))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return what a loader that gives nothing has been asked for."""
    options_asked: dict[str, Any] = {}

    def loader(_dataset: Any, _batch_size: int, **options: Any) -> list[Any]:
        options_asked.update(options)
        return []

    monkeypatch.setattr("mergekit_perm.data.splits.DataLoader", loader)
    return options_asked


@pytest.mark.parametrize(
    ("workers", "device", "order", "processes", "pinned"),
    [
        (None, "cpu", None, 0, False),
        (2, "cpu", None, 2, False),
        (None, "cuda", None, 4, True),
        (0, "cuda", None, 0, True),
        # Processes draw the same numbers every time, which an epoch of training must not.
        (None, "cuda", torch.arange(10), 0, True),
    ],
)
def test_cuda_is_fed_from_pinned_memory_by_several_processes(
    asked: dict[str, Any],
    workers: int | None,
    device: str,
    order: torch.Tensor | None,
    processes: int,
    pinned: bool,
) -> None:
    split = Split("train", Squares(), workers=workers)
    assert list(split.batches(2, device=device, order=order)) == []
    assert (asked["num_workers"], asked["pin_memory"]) == (processes, pinned)


@pytest.mark.parametrize(("order", "processes"), [(None, 4), (torch.arange(2), 0)])
def test_a_single_batch_starts_no_processes(
    asked: dict[str, Any], order: torch.Tensor | None, processes: int
) -> None:
    assert list(Split("train", Squares(), workers=8).batches(3, order=order)) == []
    assert asked["num_workers"] == processes


@pytest.mark.parametrize("order", [None, torch.tensor([3, 1, 2])])
def test_what_is_in_memory_is_sent_to_cuda_from_pinned_memory(
    monkeypatch: pytest.MonkeyPatch, order: torch.Tensor | None
) -> None:
    pinned: list[int] = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(len(tensor))
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    split = Split("train", in_memory())
    plain = list(split.batches(2, order=order))
    assert not pinned
    monkeypatch.setattr(splits, "_is_cuda", lambda _device: True)
    for (x, y), (wanted, label) in zip(split.batches(2, order=order), plain, strict=True):
        assert torch.equal(x, wanted) and torch.equal(y, label)
    assert pinned == [len(y) for _, y in plain for _ in range(2)]
