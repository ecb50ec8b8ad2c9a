"""How much memory a run needs."""

from __future__ import annotations

from mergekit_perm.data import InMemory
from mergekit_perm.pipeline.inputs import Inputs
from mergekit_perm.pipeline.keys import found_at

# What Python, torch and timm take before any network is built, in bytes; measured on Linux.
_INTERPRETER = 900 * 2**20


def peak_memory(inputs: Inputs) -> int:
    """Return an estimate, in bytes, of the most memory the run holds at once.

    Alignment is taken to hold eight copies of every network. That is about what `mixed` holds of
    ResNets; weight matching holds half of it, and methods with soft members hold more of networks
    of few wide layers. Checkpoints that are stacked are networks as well. Evaluation holds one
    family, and the module that it is mixed into.
    """
    entries = sum(_count(shape) for shape in inputs.shapes.values())
    count, single = len(inputs.spec.networks), 4 * entries
    stacked = max(1, len(found_at(inputs)))
    aligning = count * stacked * single * (8 if inputs.spec.align else 1)
    aligning += _data_bytes(inputs) if inputs.spec.looks_at != "weights" else 0
    evaluating = (count + 1) * single + _data_bytes(inputs)
    return _INTERPRETER + max(aligning, evaluating)


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for length in shape:
        total *= length
    return total


def _data_bytes(inputs: Inputs) -> int:
    splits = inputs.data.splits.values() if inputs.data else ()
    return sum(
        4 * len(split) * _count(split.input_shape)
        for split in splits
        if isinstance(split.dataset, InMemory)
    )
