"""What happens to an image before a network sees it, as data that networks and data share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """The evaluation preprocessing of timm's `pretrained_cfg`.

    Attributes:
        mean: per channel, for pixels scaled to 0..1; subtracted.
        std: per channel, for pixels scaled to 0..1; divided by.
        input_size: (channels, height, width) that the network was made for.
        crop_pct: the share of the resized image's edge that the centre crop keeps, in (0, 1].
        interpolation: how the image is resized: ``nearest``, ``bilinear``, ``bicubic``,
            ``lanczos``, ...
        crop_mode: ``center`` keeps the aspect ratio and cuts the longer edge; ``squash`` resizes
            both edges, so that nothing is cut when `crop_pct` is 1.
        fixed_size: whether the network takes images of `input_size` only.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    input_size: tuple[int, int, int]
    crop_pct: float = 0.875
    interpolation: str = "bicubic"
    crop_mode: str = "center"
    fixed_size: bool = False
