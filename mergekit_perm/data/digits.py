"""The handwritten digits that scikit-learn brings along: 1,797 images of 8x8."""

from __future__ import annotations

import torch
from torch.nn import functional

from mergekit_perm.data import fingerprints
from mergekit_perm.data.requests import Request
from mergekit_perm.data.splits import Data, InMemory, Split
from mergekit_perm.data.stable_split import stable_split

_TEST = 450


def load(request: Request) -> Data:
    """Return the digits, shape (1, 8, 8), with mean 0 and variance 1 over the training pixels.

    The 1,347 training and 450 test images are always the same, every class in proportion.

    Options: ``size`` (resized bilinearly, after the standardisation), ``channels`` (repeated).
    A network that says how many channels, and which fixed size it takes, gets them.

    Raises:
        DataError: for an option or a split that there is not.
    """
    request.check_options(["channels", "size"])
    request.check_splits(("train", "test"))
    pixels, classes, (train, test) = _digits()
    pixels = (pixels - pixels[train].mean()) / pixels[train].std(unbiased=False)
    pixels = _fitted(pixels, request)
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


def sources() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return the digits by split, brightness from 0 to 1, and their labels: what `load` splits."""
    pixels, classes, (train, test) = _digits()
    parts = {"train": train, "test": test}
    return {name: (pixels[indices], classes[indices]) for name, indices in parts.items()}


def _digits() -> tuple[torch.Tensor, torch.Tensor, tuple[list[int], list[int]]]:
    """Return all digits, their labels, and which are training and test examples."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    pixels = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    classes = torch.tensor(labels, dtype=torch.int64)
    return pixels, classes, stable_split(labels.tolist(), _TEST)


def _fitted(pixels: torch.Tensor, request: Request) -> torch.Tensor:
    size, wanted = request.size(), request.preprocessing
    if size is None and wanted is not None and wanted.fixed_size:
        size = wanted.input_size[1:]
    if size is not None:
        pixels = functional.interpolate(pixels, size=size, mode="bilinear", align_corners=False)
    return pixels.expand(-1, request.channels() or 1, -1, -1).contiguous()
