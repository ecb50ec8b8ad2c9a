"""Folders of pictures: one folder per split, in it one per class."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from mergekit_perm.data import image_sets
from mergekit_perm.data.images import Pictures
from mergekit_perm.data.requests import Request
from mergekit_perm.data.splits import Data
from mergekit_perm.errors import suggest

# ImageNet and many others have no public test split and call the other one so.
_INSTEAD_OF_TEST = ("val", "validation")
_ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def load(request: Request) -> Data:
    """Return the pictures under PATH/train/CLASS/, PATH/test/CLASS/ (or val), and so on.

    Classes are the sorted folder names under ``train``; another split may lack some of them.
    Pictures are prepared as timm evaluates, for the network's size, or for the option ``size``.

    Raises:
        DataError: for folders that are missing or empty, and classes that ``train`` has not.
    """
    request.check_options(image_sets.OPTIONS)
    folder = (request.root or Path()) / Path(request.name).expanduser()
    if not folder.is_dir():
        raise request.error(f"there is no folder {folder}")
    first = _place(folder, request.splits[0], request)
    classes = _classes(folder / "train" if (folder / "train").is_dir() else first, request)

    def open_split(name: str) -> Pictures:
        return _pictures(_place(folder, name, request), classes, request)

    return image_sets.load(
        request, open_split=open_split, num_classes=lambda _: len(classes), resize=True
    )


def _place(folder: Path, split: str, request: Request) -> Path:
    names = (split, *_INSTEAD_OF_TEST) if split == "test" else (split,)
    for name in names:
        if (folder / name).is_dir():
            return folder / name
    there = sorted(path.name for path in folder.iterdir() if path.is_dir())
    found = ", ".join(there[:10]) + ", ..." * (len(there) > 10) or "no folders"
    raise request.error(f"no split '{split}'{suggest(split, there)}; {folder} has {found}")


def _classes(folder: Path, request: Request) -> list[str]:
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    if not classes:
        raise request.error(f"{folder} has no folders, one per class")
    return classes


class Files:
    """Pictures by class, as torchvision's ImageFolder orders them.

    Args:
        folder: holds a folder per class; some classes may be without one.
        classes: names, in the order of their numbers.
    """

    def __init__(self, folder: Path, classes: list[str]) -> None:
        self.samples = [
            (path, label)
            for label, name in enumerate(classes)
            for path in _files(folder / name)
            if path.lower().endswith(_ENDINGS)
        ]
        self.targets = [label for _, label in self.samples]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        path, label = self.samples[index]
        with Path(path).open("rb") as stream:
            picture = Image.open(stream)
            picture.load()
        return picture, label


def _files(folder: Path) -> Iterator[str]:
    for parent, _, names in sorted(os.walk(folder, followlinks=True)):
        yield from (str(Path(parent, name)) for name in sorted(names))


def _pictures(folder: Path, classes: list[str], request: Request) -> Files:
    unknown = [name for name in _classes(folder, request) if name not in classes]
    if unknown:
        raise request.error(
            f"{folder} has classes that the training split has not: {', '.join(unknown[:10])}"
        )
    return Files(folder, classes)
