"""Digits made hard: thousands of distorted, cluttered, noisy images of scikit-learn's digits.

Plain digits are too easy to tell one alignment from another: nearly every network is right on
nearly all of them. Every image here is made from one digit, in this order:

1. it is enlarged to three quarters of the edge of the image (bicubically), in its middle;
2. it is turned by up to 20 degrees, scaled by up to 20 percent, sheared by up to 0.2, and moved by
   up to an eighth of the edge (uniform random numbers);
3. it is bent: a grid of 5 x 5 normal displacements with a standard deviation of 0.04 of the edge,
   interpolated bicubically, moves every pixel (elastic distortion, Simard et al. 2003);
4. pieces of other digits, a quarter of the edge wide, lie on it, brighter pixels winning;
5. normal noise is added, brightness is clipped to [0, 1], and kept in 256 steps.

Training images come from training digits only, test images from test digits only.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from mergekit_perm.data import digits, fingerprints
from mergekit_perm.data.requests import Request
from mergekit_perm.data.splits import Data, InMemory, Split

_COUNTS = {"train": 6000, "test": 2000}
_EDGE = 16
_CLUTTER = 2
_NOISE = 0.15

_TURN = 20 * torch.pi / 180
_SCALE = 0.2
_SHEAR = 0.2
_MOVE = 0.25  # of half the edge
_BEND = 0.08  # likewise
_GRID = 5

# How many images are made at a time.
_CHUNK = 2000


def load(request: Request) -> Data:
    """Return the images, shape (1, size, size), mean 0 and variance 1 over the training pixels.

    Options: ``train`` and ``test`` (how many images, 6,000 and 2,000), ``size`` (their edge, 16),
    ``clutter`` (pieces of other digits on each, 2), ``noise`` (its standard deviation in percent,
    15), ``seed`` (0), ``channels`` (repeated). Equal options give equal images.

    Raises:
        DataError: for an option or a split that there is not.
    """
    request.check_options(["channels", "clutter", "noise", "seed", "size", "test", "train"])
    request.check_splits(("train", "test"))
    height, width = request.size() or _fixed_size(request) or (_EDGE, _EDGE)
    if height != width:
        raise request.error(f"images are square, not {height} x {width}; give one edge as size")
    noise = request.whole("noise", least=0)
    pixels, classes = {}, {}
    for number, (name, (sources, labels)) in enumerate(digits.sources().items()):
        generator = torch.Generator().manual_seed(
            2 * (request.whole("seed", least=0) or 0) + number
        )
        count = request.whole(name) or _COUNTS[name]
        chosen = torch.randint(len(sources), (count,), generator=generator)
        clutter = request.whole("clutter", least=0)
        images = [
            _made(
                sources,
                part,
                edge=height,
                clutter=_CLUTTER if clutter is None else clutter,
                noise=_NOISE if noise is None else noise / 100,
                generator=generator,
            )
            for part in torch.split(chosen, _CHUNK)
        ]
        pixels[name], classes[name] = torch.cat(images), labels[chosen]
    mean, deviation = pixels["train"].mean(), pixels["train"].std(unbiased=False)
    channels = request.channels() or 1
    splits = {}
    for name in request.splits:
        standard = ((pixels[name] - mean) / deviation).expand(-1, channels, -1, -1).contiguous()
        dataset = InMemory(standard, classes[name])
        splits[name] = Split(name, dataset, fingerprint=fingerprints.of_dataset(dataset))
    return Data(
        name=request.source,
        splits=splits,
        num_classes=10,
        input_shape=(channels, height, width),
        fingerprint=fingerprints.combined((s.name, s.fingerprint) for s in splits.values()),
    )


def _fixed_size(request: Request) -> tuple[int, int] | None:
    wanted = request.preprocessing
    if wanted is None or not wanted.fixed_size:
        return None
    return wanted.input_size[1], wanted.input_size[2]


def _made(
    sources: torch.Tensor,
    chosen: torch.Tensor,
    *,
    edge: int,
    clutter: int,
    noise: float,
    generator: torch.Generator,
) -> torch.Tensor:
    """Return an image of each of the `chosen` digits, shape (count, 1, edge, edge), in [0, 1]."""
    images = _warped(_placed(sources[chosen], edge), generator)
    piece = max(2, edge // 4)
    for _ in range(clutter):
        others = torch.randint(len(sources), (len(chosen),), generator=generator)
        whole = _warped(_placed(sources[others], edge), generator)
        images = torch.maximum(images, _pieces(whole, piece, generator))
    images = images + noise * torch.randn(images.shape, generator=generator)
    return (images.clamp(0, 1) * 255).round() / 255


def _placed(sources: torch.Tensor, edge: int) -> torch.Tensor:
    """Return digits three quarters of `edge` large, in the middle of black images."""
    inner = 3 * edge // 4
    large = functional.interpolate(sources, size=inner, mode="bicubic", align_corners=False)
    before = (edge - inner) // 2
    after = edge - inner - before
    return functional.pad(large.clamp(0, 1), (before, after, before, after))


def _warped(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return images turned, scaled, sheared, moved and bent, each in its own way."""
    count = len(images)
    drawn = 2 * torch.rand(count, 5, generator=generator) - 1
    angle, scale = _TURN * drawn[:, 0], 1 + _SCALE * drawn[:, 1]
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    shear = _SHEAR * drawn[:, 2]
    linear = torch.stack([cos, shear * cos - sin, sin, shear * sin + cos], dim=1).view(count, 2, 2)
    matrix = torch.cat([linear, _MOVE * drawn[:, 3:, None]], dim=2)
    places = functional.affine_grid(matrix, list(images.shape), align_corners=False)
    bends = _BEND * torch.randn(count, 2, _GRID, _GRID, generator=generator)
    bends = functional.interpolate(bends, size=images.shape[2:], mode="bicubic", align_corners=True)
    places = places + bends.permute(0, 2, 3, 1)
    return functional.grid_sample(images, places, align_corners=False).clamp(0, 1)


def _pieces(images: torch.Tensor, piece: int, generator: torch.Generator) -> torch.Tensor:
    """Return black images with a square of each of `images`, taken and put at random places."""
    count, _, edge, _ = images.shape
    corners = torch.randint(edge - piece + 1, (4, count), generator=generator)
    along = torch.arange(piece)
    rows, columns = corners[0, :, None] + along, corners[1, :, None] + along
    to_rows, to_columns = corners[2, :, None] + along, corners[3, :, None] + along
    each = torch.arange(count)[:, None, None]
    result = torch.zeros_like(images)
    taken = images[each, 0, rows[:, :, None], columns[:, None, :]]
    result[each, 0, to_rows[:, :, None], to_columns[:, None, :]] = taken
    return result
