from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from mergekit_perm import data
from mergekit_perm.errors import DataError
from mergekit_perm.preprocessing import Preprocessing

torch.set_num_threads(1)


def tensors(name: str = "train", **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    found = data.load("digits", options=options).splits[name].tensors()
    assert found is not None
    return found


def refused(**arguments: Any) -> str:
    with pytest.raises(DataError) as caught:
        data.load("digits", **arguments)
    return str(caught.value)


def test_sizes_and_classes() -> None:
    digits = data.load("digits")
    assert {name: len(split) for name, split in digits.splits.items()} == {
        "train": 1347,
        "test": 450,
    }
    assert (digits.name, digits.num_classes, digits.input_shape) == ("digits", 10, (1, 8, 8))
    for name in ("train", "test"):
        counts = tensors(name)[1].bincount()
        assert len(counts) == 10
        assert counts.max() - counts.min() <= 8


def test_the_split_is_the_same_for_ever() -> None:
    labels = tensors("test")[1]
    assert labels[:20].tolist() == [0, 9, 2, 6, 7, 5, 7, 8, 0, 6, 0, 0, 2, 2, 7, 6, 6, 4, 2, 1]


def test_the_splits_are_a_partition_of_the_data() -> None:
    images, labels = load_digits(return_X_y=True)
    pixels = torch.cat([tensors("train")[0], tensors("test")[0]]).flatten(1)
    classes = torch.cat([tensors("train")[1], tensors("test")[1]])
    # One affine map, the same everywhere, takes the pixels back.
    low, high = pixels.min(), pixels.max()
    restored = ((pixels - low) / (high - low) * 16).round().to(torch.int64).numpy()
    found = sorted(zip(restored.tolist(), classes.tolist(), strict=True))
    assert found == sorted(zip(images.astype(np.int64).tolist(), labels.tolist(), strict=True))


def test_training_pixels_have_mean_zero_and_variance_one() -> None:
    train, test = tensors("train")[0], tensors("test")[0]
    assert train.mean().item() == pytest.approx(0, abs=1e-6)
    assert train.std(unbiased=False).item() == pytest.approx(1, abs=1e-6)
    assert 1e-4 < abs(test.mean().item()) < 0.05  # by the statistics of train, not its own


def test_size_and_channels() -> None:
    plain = tensors()[0]
    larger = tensors(size=16, channels=3)[0]
    assert larger.shape == (1347, 3, 16, 16)
    assert torch.equal(larger[:, 0], larger[:, 2])
    expected = torch.nn.functional.interpolate(plain, scale_factor=2, mode="bilinear")
    torch.testing.assert_close(larger[:, :1], expected)
    assert data.load("digits", options={"size": [4, 12]}).input_shape == (1, 4, 12)


def test_what_the_network_takes() -> None:
    flexible = Preprocessing((0.5,) * 3, (0.5,) * 3, (3, 16, 16))
    fixed = Preprocessing((0.5,) * 3, (0.5,) * 3, (3, 16, 16), fixed_size=True)
    assert data.load("digits", preprocessing=flexible).input_shape == (3, 8, 8)
    assert data.load("digits", preprocessing=fixed).input_shape == (3, 16, 16)
    options = {"size": 12, "channels": 1}
    assert data.load("digits", preprocessing=fixed, options=options).input_shape == (1, 12, 12)


def test_one_split_is_the_same_as_among_both() -> None:
    both = data.load("digits").splits["test"]
    alone = data.load("digits", splits=["test"])
    assert list(alone.splits) == ["test"]
    assert alone.splits["test"].fingerprint == both.fingerprint
    assert list(data.load("digits", splits=["test", "train", "test"]).splits) == ["test", "train"]


def test_fingerprints_tell_content_apart() -> None:
    plain = data.load("digits")
    assert plain.fingerprint == data.load("digits").fingerprint
    others = [
        plain.splits["train"].fingerprint,
        plain.splits["test"].fingerprint,
        data.load("digits", splits=["train"]).fingerprint,
        data.load("digits", options={"size": 16}).fingerprint,
        data.load("digits", options={"channels": 3}).fingerprint,
    ]
    assert len({plain.fingerprint, *others}) == 6
    again = data.load("digits", options={"size": 8, "channels": 1})
    assert again.fingerprint == plain.fingerprint


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"splits": ["tests"]}, "no split 'tests' (did you mean 'test'?); it has train, test"),
        ({"splits": []}, "no split is asked for; ask for train, test or both"),
        (
            {"options": {"sise": 3}},
            "no option 'sise' (did you mean 'size'?); it has channels, size",
        ),
        ({"options": {"size": 0}}, "size is 0, not an edge such as 32 or a pair [32, 48]"),
        ({"options": {"size": True}}, "size is True, not an edge such as 32 or a pair [32, 48]"),
        ({"options": {"size": "8"}}, "size is '8', not an edge such as 32 or a pair [32, 48]"),
        (
            {"options": {"size": [8, 8, 8]}},
            "size is [8, 8, 8], not an edge such as 32 or a pair [32, 48]",
        ),
        ({"options": {"channels": 2}}, "images have 1 or 3 channels, the network takes 2"),
        (
            {"options": {"channels": 1.0}},
            "channels is 1.0, not a whole number of 1 or more",
        ),
    ],
)
def test_messages(arguments: dict[str, Any], expected: str) -> None:
    assert refused(**arguments) == f"digits: {expected}"
