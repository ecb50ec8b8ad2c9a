from __future__ import annotations

import sys
import types
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from mergekit_perm import data
from mergekit_perm.data import Data, Split
from mergekit_perm.errors import DataError

torch.set_num_threads(1)


def tensors(count: int, classes: int = 3) -> TensorDataset:
    return TensorDataset(torch.arange(2.0 * count).reshape(count, 2), torch.arange(count) % classes)


class Lazy(Dataset[Any]):
    num_classes = 5

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.full((2,), float(index)), index


class Mute(Lazy):
    num_classes = None  # type: ignore[assignment]


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Any:
    module: Any = types.ModuleType("own_data")
    monkeypatch.setitem(sys.modules, "own_data", module)
    return module


def refused(**arguments: Any) -> str:
    with pytest.raises(DataError) as caught:
        data.load("own_data:make", **arguments)
    return str(caught.value)


def test_data_sets_by_split(own: Any) -> None:
    calls = []

    def make(root: str | None, count: int = 6) -> dict[str, Any]:
        calls.append((root, count))
        return {"train": tensors(count), "test": tensors(4, 4), "extra": tensors(2)}

    own.make = make
    found = data.load("own_data:make", root="somewhere", options={"count": 8})
    assert calls == [("somewhere", 8)]
    assert list(found.splits) == ["train", "test"]
    assert (found.name, found.num_classes, found.input_shape) == ("own_data:make", 4, (2,))
    x, y = next(iter(found.splits["train"].batches(3)))
    assert x.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert y.tolist() == [0, 1, 2]
    again = data.load("own_data:make", root="elsewhere", options={"count": 8})
    assert again.fingerprint == found.fingerprint
    assert data.load("own_data:make").fingerprint != found.fingerprint
    assert calls[-1] == (None, 6)


def test_data_sets_that_are_not_in_memory(own: Any) -> None:
    own.make = lambda root: {"train": Lazy(), "test": tensors(3)}
    found = data.load("own_data:make")
    assert found.num_classes == 5
    assert [y.tolist() for _, y in found.splits["train"].batches(3)] == [[0, 1, 2], [3]]


def test_data_is_passed_on(own: Any) -> None:
    splits = {name: Split(name, tensors(4)) for name in ("train", "test", "more")}
    own.make = lambda root: Data("mine", splits, 3, (2,), "f" * 64)
    found = data.load("own_data:make", splits=["more"])
    assert found.splits == {"more": splits["more"]}
    assert (found.num_classes, found.input_shape, found.fingerprint) == (3, (2,), "f" * 64)
    assert refused(splits=["mores"]) == (
        "own_data:make: no split 'mores' (did you mean 'more'?); it has train, test, more"
    )


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        ([1], "returned list, not Data or data sets by split name"),
        ({"train": tensors(3)}, "no split 'test'; it has train"),
        ({"train": tensors(0), "test": tensors(3)}, "split 'train' has no examples"),
        (
            {"train": iter([]), "test": tensors(3)},
            "split 'train' is list_iterator, which has no length and no items",
        ),
        (
            {"train": [1, 2], "test": tensors(3)},
            "split 'train' yields int, not (tensor of one example, class)",
        ),
        (
            {"train": [("a", 1)], "test": tensors(3)},
            "split 'train' yields tuple, not (tensor of one example, class)",
        ),
        (
            {"train": tensors(3), "test": Mute()},
            "split 'test' does not say how many classes there are; "
            "give its data set an attribute `num_classes`",
        ),
    ],
)
def test_what_is_no_data(own: Any, made: Any, expected: str) -> None:
    own.make = lambda root: made
    assert refused() == f"own_data:make: {expected}"


def test_a_function_that_fails(own: Any) -> None:
    def make(root: str | None) -> Any:
        raise OSError("disk on fire")

    own.make = make
    assert refused() == "own_data:make: raised OSError: disk on fire"
    own.make = lambda root, size=1: {}
    assert "raised TypeError: " in refused(options={"sise": 2})


def test_a_function_that_words_its_own_error(own: Any) -> None:
    def make(root: str | None) -> Any:
        raise DataError("bring your own")

    own.make = make
    assert refused() == "bring your own"


def test_the_number_of_classes_from_their_names(own: Any) -> None:
    named = Mute()
    named.classes = ["a", "b", "c", "d", "e", "f"]
    own.make = lambda root: {"train": named}
    assert data.load("own_data:make", splits=["train"]).num_classes == 6


def test_a_function_that_is_not_there(own: Any) -> None:
    own.made = 3
    assert refused() == "'own_data:make': module 'own_data' has no 'make' (did you mean 'made'?)"


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        ("digit", " (did you mean 'digits'?)"),
        ("torchvison:", " (did you mean 'torchvision'?)"),
        ("folder:", " (did you mean 'folder'?)"),
        ("what is this", ""),
    ],
)
def test_unknown_sources(source: str, hint: str) -> None:
    with pytest.raises(DataError) as caught:
        data.load(source)
    assert str(caught.value) == (
        f"unknown data source '{source}'{hint}; a source is one of "
        "digits, digits_hard, torchvision:NAME, folder:PATH, package.module:function"
    )
