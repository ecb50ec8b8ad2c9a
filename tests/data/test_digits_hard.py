"""Digits made hard: what the images are made of, and that they are the same every time."""

from __future__ import annotations

import pytest
import torch

from mergekit_perm import data
from mergekit_perm.data import digits, digits_hard
from mergekit_perm.errors import DataError

FEW = {"train": 200, "test": 100}


def images(found: data.Data, split: str = "train") -> tuple[torch.Tensor, torch.Tensor]:
    return next(iter(found.splits[split].batches(10_000)))


def test_there_are_thousands_of_standardised_images() -> None:
    found = data.load("digits_hard")
    assert {name: len(split) for name, split in found.splits.items()} == {
        "train": 6000, "test": 2000,
    }  # fmt: skip
    assert (found.num_classes, found.input_shape) == (10, (1, 16, 16))
    pixels, labels = images(found)
    assert pixels.dtype == torch.float32 and pixels.shape == (6000, 1, 16, 16)
    assert abs(float(pixels.mean())) < 1e-4 and abs(float(pixels.std()) - 1) < 1e-3
    counts = labels.bincount(minlength=10)
    assert counts.min() > 400


def test_equal_options_give_equal_images() -> None:
    first, again, other = (
        data.load("digits_hard", options={**FEW, "seed": seed}) for seed in (1, 1, 2)
    )
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert torch.equal(images(first)[0], images(again)[0])
    alone = data.load("digits_hard", options={**FEW, "seed": 1}, splits=["test"])
    assert torch.equal(images(alone, "test")[0], images(first, "test")[0])


@pytest.mark.parametrize(
    ("options", "shape"),
    [({"size": 28}, (1, 28, 28)), ({"channels": 3}, (3, 16, 16)), ({"size": 9}, (1, 9, 9))],
)
def test_sizes_and_channels(options: dict[str, int], shape: tuple[int, ...]) -> None:
    found = data.load("digits_hard", options={**FEW, **options})
    assert found.input_shape == shape == tuple(images(found)[0].shape[1:])


def test_a_network_of_a_fixed_size_gets_it() -> None:
    from mergekit_perm.preprocessing import Preprocessing

    wanted = Preprocessing((0.5,), (0.5,), input_size=(3, 32, 32), fixed_size=True)
    assert data.load("digits_hard", options=FEW, preprocessing=wanted).input_shape == (3, 32, 32)


def test_noise_and_clutter_make_them_harder() -> None:
    plain = {**FEW, "noise": 0, "clutter": 0}
    clean, noisy, cluttered = (
        images(data.load("digits_hard", options={**plain, **more}))[0]
        for more in ({}, {"noise": 30}, {"clutter": 4})
    )
    # Pixels that are black without: the most frequent value.
    assert float((clean == clean.min()).float().mean()) > 0.5
    assert float((noisy == noisy.min()).float().mean()) < 0.5
    assert float((cluttered == cluttered.min()).float().mean()) < float(
        (clean == clean.min()).float().mean()
    )


def test_training_and_test_images_have_no_digit_in_common(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, labels = digits.sources()["test"]
    marked = {"train": digits.sources()["train"], "test": (torch.zeros_like(pixels), labels)}
    monkeypatch.setattr(digits, "sources", lambda: marked)
    found = data.load("digits_hard", options={**FEW, "noise": 0})
    # Made of black digits, test images are black: nothing of a training digit is in them.
    assert images(found, "test")[0].unique().numel() == 1
    assert images(found, "train")[0].unique().numel() > 50


def test_a_digit_keeps_its_label() -> None:
    pixels, labels = digits.sources()["train"]
    generator = torch.Generator().manual_seed(0)
    made = digits_hard._made(
        pixels, torch.arange(100), edge=16, clutter=0, noise=0.0, generator=generator
    )
    again = torch.nn.functional.interpolate(made[..., 2:14, 2:14], size=8, mode="area").flatten(1)
    nearest = torch.cdist(again, pixels.flatten(1)).argmin(dim=1)
    # Distorted, most are still nearest to a digit of their class.
    assert float((labels[nearest] == labels[:100]).float().mean()) > 0.4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cluter": 1}, "no option 'cluter' (did you mean 'clutter'?)"),
        ({"size": [16, 20]}, "images are square, not 16 x 20"),
        ({"train": 0}, "train is 0, not a whole number of 1 or more"),
        ({"noise": 0.5}, "noise is 0.5, not a whole number of 0 or more"),
    ],
)
def test_options_that_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(DataError) as error:
        data.load("digits_hard", options=options)
    assert message in str(error.value)


def test_a_split_that_is_not_there() -> None:
    with pytest.raises(DataError, match="no split 'val'; it has train, test"):
        data.load("digits_hard", splits=["val"])
