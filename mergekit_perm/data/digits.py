"""The handwritten digits that scikit-learn brings along: 1,797 images of 8x8."""

from __future__ import annotations

import torch
from torch.nn import functional

from mergekit_perm.data import fingerprints
from mergekit_perm.data.requests import Request
from mergekit_perm.data.splits import Data, InMemory, Split
from mergekit_perm.data.stable_split import stable_split
from mergekit_perm.errors import suggest

_TEST = 450


def load(request: Request) -> Data:
    """Return the digits, shape (1, 8, 8), with mean 0 and variance 1 over the training pixels.

    The 1,347 training and 450 test images are always the same, every class in proportion.

    Options: ``size`` (resized bilinearly, after the standardisation), ``channels`` (repeated).
    A network that says how many channels, and which fixed size it takes, gets them.

    Raises:
        DataError: for an option or a split that there is not.
    """
    from sklearn.datasets import load_digits

    request.check_options(["channels", "size"])
    for name in request.splits:
        if name not in ("train", "test"):
            hint = suggest(name, ["train", "test"])
            raise request.error(f"no split '{name}'{hint}; it has train, test")
    images, labels = load_digits(return_X_y=True)
    pixels = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    train, test = stable_split(labels.tolist(), _TEST)
    pixels = (pixels - pixels[train].mean()) / pixels[train].std(unbiased=False)
    pixels = _fitted(pixels, request)
    classes = torch.tensor(labels, dtype=torch.int64)
    splits = {}
    for name, indices in (("train", train), ("test", test)):
        if name in request.splits:
            dataset = InMemory(pixels[indices].contiguous(), classes[indices])
            splits[name] = Split(name, dataset, fingerprint=fingerprints.of_dataset(dataset))
    return Data(
        name=request.source,
        splits={name: splits[name] for name in request.splits},
        num_classes=10,
        input_shape=tuple(pixels.shape[1:]),
        fingerprint=fingerprints.combined((s.name, s.fingerprint) for s in splits.values()),
    )


def _fitted(pixels: torch.Tensor, request: Request) -> torch.Tensor:
    size, wanted = request.size(), request.preprocessing
    if size is None and wanted is not None and wanted.fixed_size:
        size = wanted.input_size[1:]
    if size is not None:
        pixels = functional.interpolate(pixels, size=size, mode="bilinear", align_corners=False)
    return pixels.expand(-1, request.channels() or 1, -1, -1).contiguous()
