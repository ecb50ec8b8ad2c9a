"""Sequences: several checkpoints of one network, along its training and its pruning.

The network itself is the end of its training. The others go by their epoch, as in ``a@5``, or by
how often they were pruned, as in ``a@prune3``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from mergekit_perm.spec.fields import PRUNED
from mergekit_perm.spec.models import NetworkSpec, PruneSpec, TrainSpec
from mergekit_perm.spec.paths import resolve_path

END = "end"
"""What the end of a training is called, whatever its epoch."""

_ENDINGS = (".safetensors", ".pth.tar", ".pth", ".pt", ".bin", ".ckpt", ".tar")


def steps_of(
    network: NetworkSpec, train: TrainSpec, prune: PruneSpec | None, folder: Path
) -> tuple[str, ...]:
    """Return what the checkpoints of `network` are called; none for a single one.

    Epochs come first, the end last of them, then ``prune1`` and so on.

    Args:
        network: as the spec has it.
        train: the training of the run.
        prune: the pruning of the run.
        folder: where relative paths start.
    """
    if network.checkpoints is not None:
        found = [epoch_in_name(file) for file in sequence_files(network.checkpoints, folder)]
        return tuple(map(str, sorted({epoch for epoch in found if epoch is not None})))
    if network.train is None:
        return ()
    recipe, pruning = network.train.over(train), network.prune or prune
    epochs = sorted({*recipe.checkpoints, recipe.epochs})
    levels = [f"{PRUNED}{level}" for level in range(1, pruning.levels + 1)] if pruning else []
    return (*map(str, epochs), *levels) if recipe.checkpoints or levels else ()


def split_name(full: str) -> tuple[str, str | None]:
    """Return the network that a name such as ``a@5`` is of, and its checkpoint; None without."""
    name, at, step = full.partition("@")
    return name, step if at else None


def of_checkpoints(names: Iterable[str]) -> bool:
    """Tell whether one of `names` is that of a checkpoint, as in ``a@5``."""
    return any(split_name(name)[1] is not None for name in names)


def end_of(steps: Sequence[str]) -> str:
    """Return which of `steps` is the network itself: the last that is not pruned."""
    return [step for step in steps if not step.startswith(PRUNED)][-1]


def sequence_files(pattern: str, folder: Path) -> list[Path]:
    """Return the files that `pattern` matches, where `*` stands for any part of a name."""
    whole = resolve_path(pattern, Path())
    if whole.is_absolute():
        found = Path(whole.anchor).glob(str(whole.relative_to(whole.anchor)))
    else:
        found = folder.glob(str(whole))
    return sorted(file for file in found if file.is_file())


def epoch_in_name(file: Path) -> int | None:
    """Return the last number in the name of `file`, as in ``checkpoint-12.pth.tar``, or None."""
    stem = next(
        (file.name.removesuffix(end) for end in _ENDINGS if file.name.endswith(end)), file.name
    )
    numbers = re.findall(r"\d+", stem)
    return int(numbers[-1]) if numbers else None
