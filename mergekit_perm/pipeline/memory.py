"""How much memory a run needs."""

from __future__ import annotations

from mergekit_perm.data import InMemory
from mergekit_perm.pipeline.inputs import Inputs
from mergekit_perm.pipeline.keys import found_at
from mergekit_perm.spec.run_spec import JOINT

# What Python, torch and timm take of their own before any network is built, in bytes; on Linux.
_INTERPRETER = 480 * 2**20

# Copies of every network that alignment holds: to a network, and jointly. Other methods hold about
# what `mixed` does of ResNets; those with soft members hold more of networks of few wide layers.
_MATCHING = {"weight_matching": (2.0, 3.4), "merge_many": (3.4, 3.4)}
_OTHERS = 7.0

# Copies of one network: a module and what is made of it; and with gradients and momenta.
_MODULE, _TRAINED = 2.0, 5.0


def peak_memory(inputs: Inputs) -> int:
    """Return an estimate, in bytes, of the most memory of its own that the run holds at once.

    Networks in files are mapped, and take none. Checkpoints that are stacked are networks as well.
    What activations take is not known before.
    """
    spec, single = inputs.spec, 4 * sum(map(_count, inputs.shapes.values()))
    data, copies = _data_bytes(inputs), _MODULE
    if any(network.train is not None for network in spec.networks.values()):
        copies = _TRAINED
    aligning = 0.0
    if spec.align is not None:
        of_each = _MATCHING.get(spec.align.method, (_OTHERS, _OTHERS))
        networks = len(spec.networks) * max(1, len(found_at(inputs)))
        aligning = networks * of_each[spec.align.reference == JOINT]
    return round(_INTERPRETER + data + single * max(copies, aligning))


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
