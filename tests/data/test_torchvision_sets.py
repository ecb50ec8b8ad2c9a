"""The files are small, but in the formats that torchvision reads."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image
from torchvision import datasets

from mergekit_perm import data
from mergekit_perm.data import image_sets
from mergekit_perm.errors import DataError
from mergekit_perm.preprocessing import Preprocessing
from tests.cifar10 import write_cifar10

torch.set_num_threads(1)

RANDOM = np.random.default_rng(0)
PLAIN = {"mean": [0], "std": [1]}  # pixels from 0 to 1


def write_mnist(root: Path, train: np.ndarray, test: np.ndarray, *, name: str = "MNIST") -> None:
    folder = root / name / "raw"
    folder.mkdir(parents=True)
    for prefix, images in (("train", train), ("t10k", test)):
        labels = np.arange(len(images), dtype=np.uint8) % 10
        header = struct.pack(">IIII", 0x803, *images.shape)
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        header = struct.pack(">II", 0x801, len(labels))
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())


def pictures(count: int, *shape: int) -> np.ndarray:
    return RANDOM.integers(0, 256, (count, *shape), dtype=np.uint8)


def tensors(found: data.Data, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    whole = found.splits[name].tensors()
    assert whole is not None
    return whole


def refused(source: str, **arguments: Any) -> str:
    with pytest.raises(DataError) as caught:
        data.load(source, **arguments)
    return str(caught.value)


def test_mnist(tmp_path: Path) -> None:
    train, test = pictures(20, 28, 28), pictures(10, 28, 28)
    write_mnist(tmp_path, train, test)
    found = data.load("torchvision:MNIST", root=tmp_path)
    assert (found.num_classes, found.input_shape) == (10, (1, 28, 28))
    mean, std = (train / 255).mean(), (train / 255).std()
    for name, images in (("train", train), ("test", test)):
        x, y = tensors(found, name)
        np.testing.assert_allclose(x[:, 0].numpy(), (images / 255 - mean) / std, atol=1e-5)
        assert y.tolist() == [n % 10 for n in range(len(images))]


def test_test_alone_is_normalised_by_the_training_pictures(tmp_path: Path) -> None:
    write_mnist(tmp_path, pictures(20, 28, 28), pictures(10, 28, 28) // 2)
    both = data.load("torchvision:MNIST", root=tmp_path)
    alone = data.load("torchvision:MNIST", root=tmp_path, splits=["test"])
    assert list(alone.splits) == ["test"]
    assert torch.equal(tensors(alone, "test")[0], tensors(both, "test")[0])
    assert alone.splits["test"].fingerprint == both.splits["test"].fingerprint
    assert alone.fingerprint != both.fingerprint


def test_a_changed_pixel_changes_the_fingerprint(tmp_path: Path) -> None:
    train, test = pictures(20, 28, 28), pictures(10, 28, 28)
    write_mnist(tmp_path / "a", train, test)
    write_mnist(tmp_path / "b", train, test)
    other = test.copy()
    other[3, 4, 5] ^= 1
    write_mnist(tmp_path / "c", train, other)
    a, b, c = (data.load("torchvision:MNIST", root=tmp_path / folder) for folder in "abc")
    assert a.fingerprint == b.fingerprint
    assert a.splits["train"].fingerprint == c.splits["train"].fingerprint
    assert a.splits["test"].fingerprint != c.splits["test"].fingerprint
    assert a.fingerprint != c.fingerprint


def test_options_of_pictures(tmp_path: Path) -> None:
    write_mnist(tmp_path, pictures(20, 28, 28), pictures(10, 28, 28))
    options = {"size": 14, "channels": 3, "mean": [0.1, 0.2, 0.3], "std": [0.5]}
    found = data.load("torchvision:MNIST", root=tmp_path, options=options)
    plain = data.load(
        "torchvision:MNIST", root=tmp_path, options={"size": 14, "channels": 3, **PLAIN}
    )
    assert found.input_shape == (3, 14, 14)
    x, pixels = tensors(found, "test")[0], tensors(plain, "test")[0]
    assert 0 <= pixels.min() < pixels.max() <= 1
    assert torch.equal(pixels[:, 0], pixels[:, 2])
    for channel, mean in enumerate((0.1, 0.2, 0.3)):
        torch.testing.assert_close(x[:, channel], (pixels[:, channel] - mean) / 0.5)


def test_the_networks_preprocessing(tmp_path: Path) -> None:
    write_mnist(tmp_path, pictures(20, 28, 28), pictures(10, 28, 28))
    wanted = Preprocessing((0.1, 0.2, 0.3), (0.5, 0.5, 0.5), (3, 16, 16), crop_pct=1.0)
    found = data.load("torchvision:MNIST", root=tmp_path, preprocessing=wanted)
    assert found.input_shape == (3, 28, 28)
    first = tensors(found, "train")[0]
    torch.testing.assert_close(first[:, 0] - first[:, 2], torch.full((20, 28, 28), 0.4))
    fixed = Preprocessing((0.1,), (0.5,), (1, 16, 16), crop_pct=1.0, fixed_size=True)
    small = data.load("torchvision:MNIST", root=tmp_path, preprocessing=fixed)
    assert small.input_shape == (1, 16, 16)


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    return write_cifar10(tmp_path, monkeypatch)


def test_cifar(tmp_path: Path, cifar: dict[str, np.ndarray]) -> None:
    found = data.load("torchvision:CIFAR10", root=tmp_path)
    assert (found.num_classes, found.input_shape) == (10, (3, 32, 32))
    scaled = cifar["train"] / 255
    mean, std = scaled.mean((0, 2, 3)), scaled.std((0, 2, 3))
    for name, count in (("train", 50), ("test", 10)):
        x, y = tensors(found, name)
        expected = (cifar[name] / 255 - mean[:, None, None]) / std[:, None, None]
        np.testing.assert_allclose(x.numpy(), expected, atol=1e-5)
        assert y.tolist() == [n % 10 for n in range(count)]
    assert found.splits["train"].dataset.inputs.dtype == torch.uint8  # a quarter of the memory


def test_cifar_in_grey(tmp_path: Path, cifar: dict[str, np.ndarray]) -> None:
    options = {"channels": 1, **PLAIN}
    found = data.load("torchvision:CIFAR10", root=tmp_path, options=options)
    grey = np.tensordot([0.299, 0.587, 0.114], cifar["test"], axes=(0, 1)) / 255
    np.testing.assert_allclose(tensors(found, "test")[0][:, 0].numpy(), grey, atol=1 / 250)


def test_a_damaged_file_is_not_unpickled(tmp_path: Path, cifar: dict[str, np.ndarray]) -> None:
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    assert refused("torchvision:CIFAR10", root=tmp_path, splits=["test"]) == (
        f"torchvision:CIFAR10: cannot be read from {tmp_path} (Dataset not found or corrupted. "
        "You can use download=True to download it); nothing is downloaded here. Get it once with "
        f"`torchvision.datasets.CIFAR10('{tmp_path}', download=True)`"
    )


@pytest.fixture
def svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    images, lists = {}, {}
    for split, count in (("train", 20), ("test", 12), ("extra", 4)):
        images[split] = pictures(count, 3, 32, 32)
        file = tmp_path / f"{split}_32x32.mat"
        labels = np.arange(1, count + 1)[:, None] % 10
        labels[labels == 0] = 10  # so SVHN writes the digit 0
        content = {"X": images[split].transpose(2, 3, 1, 0), "y": labels.astype(np.uint8)}
        scipy.io.savemat(file, content)
        md5 = hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()
        lists[split] = ["", file.name, md5]
    monkeypatch.setattr(datasets.SVHN, "split_list", lists)
    return images


def test_svhn_has_named_splits(tmp_path: Path, svhn: dict[str, np.ndarray]) -> None:
    names = ["train", "test", "extra"]
    found = data.load("torchvision:SVHN", root=tmp_path, options=PLAIN, splits=names)
    assert (found.num_classes, found.input_shape) == (10, (3, 32, 32))
    for name in names:
        x, y = tensors(found, name)
        np.testing.assert_allclose(x.numpy(), svhn[name] / 255, atol=1e-6)
        assert y.tolist() == [n % 10 for n in range(1, len(x) + 1)]


def test_svhn_has_no_other_splits(tmp_path: Path, svhn: dict[str, np.ndarray]) -> None:
    found = refused("torchvision:SVHN", root=tmp_path, splits=["tset"])
    assert found.startswith(
        "torchvision:SVHN: no split 'tset': Unknown value 'tset' for argument split. Valid values"
    )


def write_classes(folder: Path, classes: list[str], count: int, *, ending: str, edge: int) -> None:
    for shade, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for n in range(count):
            colour = (20 * shade, n, 200)
            Image.new("RGB", (edge, edge), colour).save(folder / name / f"{n:02}.{ending}")


def test_eurosat_is_split_here(tmp_path: Path) -> None:
    classes = ["AnnualCrop", "Forest", "River"]
    write_classes(tmp_path / "eurosat" / "2750", classes, 10, ending="png", edge=16)
    found = data.load("torchvision:EuroSAT", root=tmp_path, options=PLAIN)
    assert (found.num_classes, found.input_shape) == (3, (3, 16, 16))
    seen = []
    for name, count in (("train", 24), ("test", 6)):
        x, y = tensors(found, name)
        assert y.bincount().tolist() == [count // 3] * 3
        shades = (x[:, :2, 0, 0] * 255).round().to(torch.int64)
        assert torch.equal(shades[:, 0], 20 * y)
        seen += shades.tolist()
    assert sorted(seen) == [[20 * shade, n] for shade in range(3) for n in range(10)]
    alone = data.load("torchvision:EuroSAT", root=tmp_path, options=PLAIN, splits=["test"])
    assert alone.splits["test"].fingerprint == found.splits["test"].fingerprint
    expected = "torchvision:EuroSAT: no split 'val'; it has train, test"
    assert refused("torchvision:EuroSAT", root=tmp_path, splits=["val"]) == expected


def test_eurosat_read_when_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "eurosat" / "2750"
    write_classes(folder, ["Forest", "River"], 10, ending="png", edge=16)
    kept = data.load("torchvision:EuroSAT", root=tmp_path)
    monkeypatch.setattr(image_sets, "_KEPT_BYTES", 100)
    read = data.load("torchvision:EuroSAT", root=tmp_path)
    assert read.splits["test"].tensors() is None
    (a, b), (x, y) = (next(d.splits["test"].batches(9)) for d in (kept, read))
    assert torch.equal(a, x)
    assert torch.equal(b, y)
    assert read.splits["test"].dataset.samples[0][0].startswith(str(folder / "Forest"))
    damaged = read.splits["test"].dataset.samples[2]
    Path(damaged[0]).write_bytes(b"no picture")
    with pytest.raises(DataError) as caught:
        next(read.splits["test"].batches(9))
    assert str(caught.value).startswith(f"example 2 ({damaged[0]}) cannot be read: ")


def test_val_stands_in_for_test_and_small_pictures_can_be_of_any_size(tmp_path: Path) -> None:
    classes = ["n01440764", "n02102040"]
    for split, count in (("train", 4), ("val", 2)):
        folder = tmp_path / "imagenette2" / split
        write_classes(folder, classes, count, ending="jpeg", edge=20)
    Image.new("RGB", (30, 12)).save(tmp_path / "imagenette2" / "val" / classes[0] / "00.jpeg")
    source = "torchvision:Imagenette"
    assert refused(source, root=tmp_path, splits=["test"]) == (
        f"{source}: pictures differ in size; give the option size, such as 64"
    )
    found = data.load(source, root=tmp_path, options={"size": 8})
    assert found.input_shape == (3, 8, 8)
    assert (found.num_classes, len(found.splits["test"])) == (2, 4)
    wanted = Preprocessing((0.5,) * 3, (0.5,) * 3, (3, 10, 10))
    prepared = data.load(source, root=tmp_path, splits=["test"], preprocessing=wanted)
    assert prepared.input_shape == (3, 10, 10)


def test_fake_data_needs_no_root() -> None:
    options = {"image_size": [3, 6, 5], "num_classes": 4}
    before = torch.get_rng_state()
    found = data.load("torchvision:FakeData", options=options)
    assert torch.equal(torch.get_rng_state(), before)
    assert (found.num_classes, found.input_shape) == (4, (3, 6, 5))
    assert {name: len(split) for name, split in found.splits.items()} == {
        "train": 800,
        "test": 200,
    }
    train, labels = tensors(found, "train")
    torch.testing.assert_close(train.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(train.std((0, 2, 3), unbiased=False), torch.ones(3))
    assert set(labels.tolist()) == {0, 1, 2, 3}


def test_what_does_not_fit_into_memory_is_read_when_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cifar: dict[str, np.ndarray]
) -> None:
    kept = data.load("torchvision:CIFAR10", root=tmp_path)
    monkeypatch.setattr(image_sets, "_KEPT_BYTES", 1000)
    read = data.load("torchvision:CIFAR10", root=tmp_path, options={"workers": 1})
    assert read.splits["test"].tensors() is None
    assert (read.num_classes, read.input_shape) == (10, (3, 32, 32))
    order = torch.tensor([8, 1, 4])
    (a, b), (x, y) = (next(d.splits["test"].batches(4, order=order)) for d in (kept, read))
    assert torch.equal(a, x)
    assert torch.equal(b, y)
    again = data.load("torchvision:CIFAR10", root=tmp_path)
    assert again.fingerprint == read.fingerprint
    options = {"mean": [0.5], "std": [0.5]}
    other = data.load("torchvision:CIFAR10", root=tmp_path, options=options)
    assert other.fingerprint != read.fingerprint


def test_pictures_of_one_colour_are_only_centred(tmp_path: Path) -> None:
    grey = np.full((10, 28, 28), 51, dtype=np.uint8)
    write_mnist(tmp_path, grey, grey + 51)
    found = data.load("torchvision:MNIST", root=tmp_path)
    torch.testing.assert_close(tensors(found, "test")[0], torch.full((10, 1, 28, 28), 0.2))


def test_a_class_that_there_is_not(tmp_path: Path) -> None:
    write_mnist(tmp_path, pictures(5, 28, 28), pictures(5, 28, 28))
    file = tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"
    file.write_bytes(file.read_bytes()[:-1] + bytes([200]))
    assert refused("torchvision:MNIST", root=tmp_path) == (
        "torchvision:MNIST: split 'test': the class of example 4 is 200, not one of 0..9"
    )


def test_a_set_that_is_not_for_classification(tmp_path: Path) -> None:
    frames = np.zeros((20, 3, 8, 8), dtype=np.uint8)
    (tmp_path / "MovingMNIST").mkdir()
    np.save(tmp_path / "MovingMNIST" / "mnist_test_seq.npy", frames)
    assert refused("torchvision:MovingMNIST", root=tmp_path, splits=["train"]) == (
        "example 0 is Tensor, not a picture and its class"
    )


@pytest.mark.parametrize(
    ("source", "arguments", "expected"),
    [
        (
            "torchvision:MNITS",
            {},
            "torchvision has no data set of that name (did you mean 'MNIST'?)",
        ),
        ("torchvision:MNIST", {}, "needs `root`, the folder that torchvision keeps it in"),
        (
            "torchvision:MNIST",
            {"root": "/no/where"},
            "cannot be read from /no/where (Dataset not found. You can use download=True to "
            "download it); nothing is downloaded here. Get it once with "
            "`torchvision.datasets.MNIST('/no/where', download=True)`",
        ),
        (
            "torchvision:MNIST",
            {"root": "/no/where", "splits": ["trian"]},
            "no split 'trian' (did you mean 'train'?); it has train, test",
        ),
        (
            "torchvision:MNIST",
            {"root": "/no/where", "options": {"download": True}},
            "no option 'download'; it has channels, crop_mode, crop_pct, interpolation, mean, "
            "size, std, workers",
        ),
        (
            "torchvision:EMNIST",
            {"root": "/no/where", "options": {"split": "letter"}},
            "Unknown value 'letter' for argument split. Valid values are "
            "{'byclass', 'bymerge', 'balanced', 'letters', 'digits', 'mnist'}.",
        ),
        (
            "torchvision:SVHN",
            {"root": "/no/where"},
            "cannot be read from /no/where (Dataset not found or corrupted. You can use "
            "download=True to download it); nothing is downloaded here. Get it once with "
            "`torchvision.datasets.SVHN('/no/where', download=True)`",
        ),
        (
            "torchvision:FakeData",
            {"options": {"mean": [0, "1", 0]}},
            "mean is [0, '1', 0], not a list of one number per channel",
        ),
        (
            "torchvision:EMNIST",
            {"root": "/no/where"},
            "EMNIST.__init__() missing 1 required positional argument: 'split'",
        ),
        (
            "torchvision:FakeData",
            {"options": {"mean": 3}},
            "mean is 3, not a list of one number per channel",
        ),
        (
            "torchvision:FakeData",
            {"options": {"image_size": [3, 4, 4], "mean": [0, 0]}},
            "mean has 2 numbers, the pictures have 3 channels",
        ),
        (
            "torchvision:FakeData",
            {"options": {"image_size": [3, 4, 4], "std": [1, 0, 1]}},
            "std is [1.0, 0.0, 1.0]; every channel needs a number above 0",
        ),
        (
            "torchvision:FakeData",
            {"options": {"image_size": [3, 4, 4], "size": 8, "interpolation": "cubic"}},
            "interpolation is 'cubic', not one of nearest, bilinear, bicubic, box, hamming, "
            "lanczos (did you mean 'bicubic'?)",
        ),
        (
            "torchvision:FakeData",
            {"options": {"image_size": [3, 4, 4], "size": 8, "crop_pct": 1.5}},
            "crop_pct is 1.5, not a number above 0 and at most 1",
        ),
        (
            "torchvision:FakeData",
            {"options": {"image_size": [3, 4, 4], "workers": -1}},
            "workers is -1, not a whole number of 0 or more",
        ),
    ],
)
def test_messages(source: str, arguments: dict[str, Any], expected: str) -> None:
    assert refused(source, **arguments) == f"{source}: {expected}"
