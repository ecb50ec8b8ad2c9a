"""Pooling and interpolation: image positions stay, channels pass through."""

from __future__ import annotations

import re

from mergekit_perm.derive.primitives import frozen, pinned, resized
from mergekit_perm.derive.rules.table import Call, rule


@rule("max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices",
      "avg_pool1d", "avg_pool2d", "avg_pool3d",
      "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
      "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d",
      "upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d", "upsample_trilinear3d",
      "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d",
      "_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "_upsample_nearest_exact3d",
      "_upsample_bicubic2d_aa", "_upsample_bilinear2d_aa", "grid_sampler")  # fmt: skip
def resample(call: Call) -> object:
    """Along the last axes, for each channel alike."""
    several = isinstance(call.shapes, list)
    shape = call.shapes[0] if several else call.shape
    value, *others = call.labels()
    for grid in others:
        frozen(call.facts, grid, "places to sample at")
    dimensions = re.search(r"(\d)d", call.name)
    first = len(value.axes) - int(dimensions[1]) if dimensions else 2
    value = pinned(call.facts, value, range(first, len(value.axes)), "resampled positions")
    value = resized(value, shape)
    return [value, value] if several else value
