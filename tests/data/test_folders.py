from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm.data
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from mergekit_perm import data
from mergekit_perm.data import image_sets
from mergekit_perm.errors import DataError
from mergekit_perm.preprocessing import Preprocessing

torch.set_num_threads(1)

RANDOM = np.random.default_rng(0)


def write(folder: Path, classes: dict[str, int], *, size: tuple[int, int] = (12, 10)) -> None:
    for name, count in classes.items():
        (folder / name).mkdir(parents=True)
        for n in range(count):
            pixels = RANDOM.integers(0, 256, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{n}.png")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    write(tmp_path / "train", {"cat": 4, "ant": 3, "dog": 2})
    write(tmp_path / "val", {"cat": 2, "dog": 1})
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no picture")
    return tmp_path


def refused(source: str, **arguments: Any) -> str:
    with pytest.raises(DataError) as caught:
        data.load(source, **arguments)
    return str(caught.value)


def tensors(found: data.Data, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    whole = found.splits[name].tensors()
    assert whole is not None
    return whole


@pytest.mark.parametrize(
    "wanted",
    [
        Preprocessing((0.4, 0.5, 0.6), (0.2, 0.3, 0.4), (3, 8, 8), crop_pct=0.875),
        Preprocessing((0.5,) * 3, (0.5,) * 3, (3, 16, 16), 1.0, "bilinear"),
        Preprocessing((0.5,) * 3, (0.5,) * 3, (3, 8, 14), 0.9, "bicubic"),
        Preprocessing((0.5,) * 3, (0.5,) * 3, (3, 8, 14), 0.9, "bicubic", "squash"),
        Preprocessing((0.5,) * 3, (0.5,) * 3, (3, 8, 8), 0.5, "lanczos", "squash", True),
    ],
)
def test_pictures_are_prepared_as_timm_does(pictures: Path, wanted: Preprocessing) -> None:
    found = data.load(f"folder:{pictures}", preprocessing=wanted)
    transform = timm.data.create_transform(
        wanted.input_size,
        interpolation=wanted.interpolation,
        mean=wanted.mean,
        std=wanted.std,
        crop_pct=wanted.crop_pct,
        crop_mode=wanted.crop_mode,
    )
    expected = ImageFolder(str(pictures / "train"), transform=transform)
    x, y = tensors(found, "train")
    assert found.input_shape == wanted.input_size
    assert y.tolist() == expected.targets
    for index in range(len(expected)):
        torch.testing.assert_close(x[index], expected[index][0], atol=1e-6, rtol=0)


def test_classes_are_those_of_train(pictures: Path) -> None:
    found = data.load(f"folder:{pictures}")
    assert found.num_classes == 3
    assert tensors(found, "train")[1].tolist() == [0, 0, 0, 1, 1, 1, 1, 2, 2]
    assert tensors(found, "test")[1].tolist() == [1, 1, 2]
    alone = data.load(f"folder:{pictures}", splits=["val"])
    assert tensors(alone, "val")[1].tolist() == [1, 1, 2]
    assert alone.num_classes == 3


def test_pictures_of_one_size_keep_it(pictures: Path) -> None:
    found = data.load(f"folder:{pictures}")
    assert found.input_shape == (3, 12, 10)
    x = tensors(found, "train")[0]
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3), unbiased=False), torch.ones(3))
    file = pictures / "val" / "dog" / "0.png"
    plain = data.load(f"folder:{pictures}", options={"mean": [0], "std": [1]})
    pixels = np.asarray(Image.open(file)).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(tensors(plain, "test")[0][2].numpy(), pixels, atol=1e-6)


def test_paths_are_relative_to_root(pictures: Path) -> None:
    a = data.load(f"folder:{pictures.name}", root=pictures.parent)
    assert a.fingerprint == data.load(f"folder:{pictures}").fingerprint


def test_a_folder_for_evaluation_alone(tmp_path: Path) -> None:
    write(tmp_path / "test", {"b": 2, "a": 1})
    assert refused(f"folder:{tmp_path}", splits=["test"]) == (
        f"folder:{tmp_path}: mean and std come from the training pictures, which are not there; "
        "give the options mean and std, one number per channel"
    )
    options = {"mean": [0.5], "std": [0.5]}
    found = data.load(f"folder:{tmp_path}", splits=["test"], options=options)
    assert (found.num_classes, tensors(found, "test")[1].tolist()) == (2, [0, 1, 1])


def test_large_folders_are_read_when_they_are_asked_for(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = data.load(f"folder:{pictures}")
    monkeypatch.setattr(image_sets, "_KEPT_BYTES", 100)
    read = data.load(f"folder:{pictures}")
    assert read.splits["train"].tensors() is None
    for name in ("train", "test"):
        (a, b), (x, y) = (next(iter(d.splits[name].batches(9))) for d in (kept, read))
        assert torch.equal(a, x)
        assert torch.equal(b, y)
    assert (read.num_classes, read.input_shape) == (3, (3, 12, 10))
    (pictures / "train" / "cat" / "0.png").rename(pictures / "train" / "cat" / "9.png")
    renamed = data.load(f"folder:{pictures}")
    assert renamed.splits["train"].fingerprint != read.splits["train"].fingerprint
    assert renamed.splits["test"].fingerprint == read.splits["test"].fingerprint


def test_grey_pictures_have_one_channel_unless_three_are_wanted(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split / "a").mkdir(parents=True)
        Image.new("L", (4, 4), 51).save(tmp_path / split / "a" / "0.png")
    options = {"mean": [0], "std": [1]}
    found = data.load(f"folder:{tmp_path}", options=options)
    torch.testing.assert_close(tensors(found, "test")[0], torch.full((1, 1, 4, 4), 0.2))
    three = data.load(f"folder:{tmp_path}", options={**options, "channels": 3})
    assert three.input_shape == (3, 4, 4)


def test_a_damaged_picture_is_named(pictures: Path) -> None:
    file = pictures / "train" / "cat" / "2.png"
    file.write_bytes(file.read_bytes()[:100])
    found = refused(f"folder:{pictures}")
    assert found.startswith(f"example 5 ({file}) cannot be read: ")


def test_a_later_picture_of_another_size(tmp_path: Path) -> None:
    write(tmp_path / "train", {"a": 9})
    write(tmp_path / "train", {"b": 1}, size=(12, 11))
    assert refused(f"folder:{tmp_path}", splits=["train"]) == (
        f"folder:{tmp_path}: pictures differ in size: 12x10 and, at 9, 12x11; "
        "give the option size, such as 64"
    )


def test_splits_of_different_sizes(tmp_path: Path) -> None:
    write(tmp_path / "train", {"a": 2})
    write(tmp_path / "test", {"a": 2}, size=(12, 11))
    assert refused(f"folder:{tmp_path}") == (
        f"folder:{tmp_path}: pictures differ in size; give the option size, such as 64"
    )


def test_messages(pictures: Path) -> None:
    source = f"folder:{pictures}"
    assert refused("folder:/no/where") == "folder:/no/where: there is no folder /no/where"
    assert refused(source, splits=["tran"]) == (
        f"{source}: no split 'tran' (did you mean 'train'?); {pictures} has train, val"
    )
    assert refused(source, options={"sizes": 3}) == (
        f"{source}: no option 'sizes' (did you mean 'size'?); it has channels, crop_mode, "
        "crop_pct, interpolation, mean, size, std, workers"
    )
    (pictures / "empty").mkdir()
    assert refused(source, splits=["empty"]) == (
        f"{source}: {pictures / 'empty'} has no folders, one per class"
    )
    (pictures / "empty" / "cat").mkdir()
    assert refused(source, splits=["empty"]) == f"{source}: split 'empty' has no pictures"
    write(pictures / "val", {"emu": 1})
    assert refused(source) == (
        f"{source}: {pictures / 'val'} has classes that the training split has not: emu"
    )
