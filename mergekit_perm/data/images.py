"""Pictures as tensors of bytes, by the transform that timm evaluates with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from mergekit_perm.data.splits import InMemory
from mergekit_perm.errors import DataError

CROP_MODES = ("center", "squash")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")

Picture = Image.Image
Pictures = Any  # a map-style data set of (picture, class)


@dataclass(frozen=True, slots=True)
class Geometry:
    """How a picture of any size becomes one of `size`: timm's evaluation transform.

    Attributes:
        size: (height, width) of the result.
        crop_pct: the share of the resized picture that the central cut keeps, in (0, 1].
        interpolation: a name of torchvision's `InterpolationMode`.
        crop_mode: ``center`` keeps the aspect ratio, ``squash`` does not.
    """

    size: tuple[int, int]
    crop_pct: float
    interpolation: str
    crop_mode: str

    def __call__(self, picture: Picture) -> Picture:
        """Return the picture resized and cut to `size`."""
        from torchvision.transforms import functional

        mode = functional.InterpolationMode(self.interpolation)
        target = [math.floor(edge / self.crop_pct) for edge in self.size]
        if self.crop_mode == "squash":
            resized = functional.resize(picture, target, interpolation=mode)
        elif target[0] == target[1]:
            resized = functional.resize(picture, target[:1], interpolation=mode)
        else:
            ratio = min(picture.height / target[0], picture.width / target[1])
            edges = [round(picture.height / ratio), round(picture.width / ratio)]
            resized = functional.resize(picture, edges, interpolation=mode)
        cut: Picture = functional.center_crop(resized, list(self.size))
        return cut


class Decoded(Dataset[tuple[torch.Tensor, int]]):
    """Pictures as tensors of bytes, shape (channels, height, width), read when asked for.

    With `mean` and `std` they are floats, scaled to 0..1 and normalised.
    """

    def __init__(self, pictures: Pictures, mode: str, geometry: Geometry | None) -> None:
        self.pictures, self.mode, self.geometry = pictures, mode, geometry
        self.mean: tuple[float, ...] = ()
        self.std: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        pixels, label = self.pixels(index)
        one = InMemory(pixels[None], torch.tensor([label]), mean=self.mean, std=self.std)
        return one[0]

    @property
    def samples(self) -> Any:
        """The files, as (path, class), when the pictures list them."""
        return getattr(self.pictures, "samples", None)

    def picture(self, index: int) -> tuple[Picture, int]:
        """Return one picture as the data set has it, and its class.

        Raises:
            DataError: for an example that is no picture with a class, or cannot be read.
        """
        try:
            example = self.pictures[index]
        except Exception as cause:  # PIL has many, for damaged files and for enormous ones
            samples = self.samples
            place = f"example {index}" + (f" ({samples[index][0]})" if samples else "")
            raise DataError(f"{place} cannot be read: {cause}") from cause
        kinds = tuple(map(type, example)) if isinstance(example, tuple) else (type(example),)
        if not (len(kinds) == 2 and issubclass(kinds[0], Image.Image) and _is_class(example[1])):
            found = ", ".join(kind.__name__ for kind in kinds)
            raise DataError(f"example {index} is {found}, not a picture and its class")
        return example[0], int(example[1])

    def pixels(self, index: int) -> tuple[torch.Tensor, int]:
        """Return one picture as bytes, after conversion, resizing and cutting, and its class."""
        from torchvision.transforms import functional

        picture, label = self.picture(index)
        picture = picture.convert(self.mode)
        if self.geometry is not None:
            picture = self.geometry(picture)
        return functional.pil_to_tensor(picture), label


def _is_class(label: Any) -> bool:
    return isinstance(label, int | np.integer) and not isinstance(label, bool)
