"""A CIFAR-10 of a few random pictures, in the files that torchvision reads."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision import datasets


def write_cifar10(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Write ten pictures a batch to `root` as torchvision reads them; return them by split."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir()

    def written(name: str, content: dict[str, Any]) -> str:
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
        return hashlib.md5((folder / name).read_bytes(), usedforsecurity=False).hexdigest()

    generator = np.random.default_rng(0)
    images, lists = {}, {}
    for key, names in (
        ("train", [f"data_batch_{n}" for n in range(1, 6)]),
        ("test", ["test_batch"]),
    ):
        parts = [generator.integers(0, 256, (10, 3, 32, 32), dtype=np.uint8) for _ in names]
        lists[key] = [
            [name, written(name, {"data": part.reshape(10, -1), "labels": list(range(10))})]
            for name, part in zip(names, parts, strict=True)
        ]
        images[key] = np.concatenate(parts)
    labels = [f"class {n}" for n in range(10)]
    md5 = written("batches.meta", {"label_names": labels})
    monkeypatch.setattr(datasets.CIFAR10, "train_list", lists["train"])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", lists["test"])
    monkeypatch.setattr(
        datasets.CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": md5}
    )
    return images
