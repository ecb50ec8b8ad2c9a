"""Random changes of a batch of inputs, drawn from a generator that is passed in."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from mergekit_perm.errors import EvaluationError
from mergekit_perm.train.recipe import Recipe


def augment(x: torch.Tensor, recipe: Recipe, *, generator: torch.Generator) -> torch.Tensor:
    """Return `x` flipped, cropped and with noise added, in this order, as `recipe` asks.

    Args:
        x: inputs of shape (batch, ...); flips and crops need (batch, channels, height, width).
        recipe: only `flip`, `crop` and `noise` are read.
        generator: on the device of `x`; every example has its own draw.

    Raises:
        EvaluationError: `flip` or `crop` for inputs that are not images.
    """
    if (recipe.flip or recipe.crop) and x.ndim != 4:
        raise EvaluationError(
            f"flip and crop need images of shape (channels, height, width), but the inputs are "
            f"{tuple(x.shape[1:])}; set flip: false and crop: 0"
        )
    if recipe.flip:
        x = _flip(x, generator)
    if recipe.crop:
        x = _crop(x, recipe.crop, generator)
    if recipe.noise:
        noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        x = x + recipe.noise * noise
    return x


def _flip(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    mirrored = torch.rand(len(x), generator=generator, device=x.device) < 0.5
    return torch.where(mirrored[:, None, None, None], x.flip(-1), x)


def _crop(x: torch.Tensor, pad: int, generator: torch.Generator) -> torch.Tensor:
    count, channels, height, width = x.shape
    corner = torch.randint(0, 2 * pad + 1, (2, count), generator=generator, device=x.device)
    rows = corner[0, :, None] + torch.arange(height, device=x.device)
    columns = corner[1, :, None] + torch.arange(width, device=x.device)
    example = torch.arange(count, device=x.device)[:, None, None, None]
    channel = torch.arange(channels, device=x.device)[None, :, None, None]
    padded = F.pad(x, (pad, pad, pad, pad))
    return padded[example, channel, rows[:, None, :, None], columns[:, None, None, :]]
