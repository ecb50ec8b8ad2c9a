"""Sequences: several checkpoints of one network in the order of their epochs.

The last one is the network itself, its end; the others go by their epoch, as in ``a@5``.
"""

from __future__ import annotations

import re
from pathlib import Path

from mergekit_perm.spec.models import NetworkSpec, TrainSpec
from mergekit_perm.spec.paths import resolve_path

_ENDINGS = (".safetensors", ".pth.tar", ".pth", ".pt", ".bin", ".ckpt", ".tar")


def epochs_of(network: NetworkSpec, train: TrainSpec, folder: Path) -> tuple[int, ...]:
    """Return the epochs of the checkpoints of `network`, its end last; none for a single one.

    Args:
        network: as the spec has it.
        train: the training of the run.
        folder: where relative paths start.
    """
    if network.checkpoints is not None:
        found = [epoch_in_name(file) for file in sequence_files(network.checkpoints, folder)]
        return tuple(sorted({epoch for epoch in found if epoch is not None}))
    if network.train is None:
        return ()
    recipe = network.train.over(train)
    return tuple(sorted({*recipe.checkpoints, recipe.epochs})) if recipe.checkpoints else ()


def sequence_files(pattern: str, folder: Path) -> list[Path]:
    """Return the files that `pattern` matches, where `*` stands for any part of a name."""
    whole = resolve_path(pattern, Path())
    if whole.is_absolute():
        return sorted(Path(whole.anchor).glob(str(whole.relative_to(whole.anchor))))
    return sorted(folder.glob(str(whole)))


def epoch_in_name(file: Path) -> int | None:
    """Return the last number in the name of `file`, as in ``checkpoint-12.pth.tar``, or None."""
    stem = next(
        (file.name.removesuffix(end) for end in _ENDINGS if file.name.endswith(end)), file.name
    )
    numbers = re.findall(r"\d+", stem)
    return int(numbers[-1]) if numbers else None
