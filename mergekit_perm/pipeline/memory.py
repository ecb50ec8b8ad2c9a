"""How much memory a run needs."""

from __future__ import annotations

from mergekit_perm import derive, merge
from mergekit_perm.data import InMemory
from mergekit_perm.pipeline.inputs import Inputs
from mergekit_perm.pipeline.keys import found_at
from mergekit_perm.pipeline.outline import is_kept
from mergekit_perm.spec.recipes import DATA_RECIPES
from mergekit_perm.spec.run_spec import JOINT

# What Python and torch take of their own before anything is read, and timm as soon as a network is
# built, in bytes; on Linux.
_INTERPRETER, _TIMM = 300 * 2**20, 145 * 2**20

# Copies of every network that alignment holds: to a network, and jointly. Other methods hold about
# what `mixed` does of ResNets; those with soft members hold more of networks of few wide layers.
_MATCHING = {"weight_matching": (2.1, 3.5), "merge_many": (3.5, 3.5)}
_OTHERS = 7.0

# Copies of one network: what is merged; a module and what is made of it; a module in training.
_MERGED, _MODULE, _TRAINED = 1.2, 2.0, 5.0

# Copies of the largest tensor, in float64, for every network that is merged and besides: of recipes
# that work part by part, and keep masks; of della, which keeps chances and puts elements in order;
# and of the rest.
_BY_PARTS, _BY_RANK, _WHOLE = (0.15, 3.0), (1.8, 14.0), (1.8, 8.0)


def peak_memory(inputs: Inputs) -> int:
    """Return an estimate, in bytes, of the most memory of its own that the run holds at once.

    Networks in files are mapped, and take none. Checkpoints that are stacked are networks as well.
    What activations take is not known before.
    """
    spec, single = inputs.spec, 4 * sum(map(_count, inputs.outline.shapes.values()))
    data, copies = _data_bytes(inputs), _MERGED if inputs.data is None else _MODULE
    interpreter = _INTERPRETER + (_TIMM if _builds_networks(inputs) else 0)
    if any(network.train is not None for network in spec.networks.values()):
        copies = _TRAINED
    aligning = 0.0
    if spec.align is not None:
        of_each = _MATCHING.get(spec.align.method, (_OTHERS, _OTHERS))
        networks = len(spec.networks) * max(1, len(found_at(inputs)))
        aligning = networks * of_each[spec.align.reference == JOINT]
    return round(interpreter + data + max(single * copies + _recipes(inputs), single * aligning))


def _builds_networks(inputs: Inputs) -> bool:
    """Tell whether more has to be known than is kept: a first run of an architecture aside."""
    found = inputs.permutations
    if inputs.data is not None or not is_kept(inputs.architecture, inputs.options):
        return True
    code = inputs.outline.code
    return found is not None and not derive.is_proven(
        found.spec, inputs.architecture, inputs.options, code=code
    )


def _recipes(inputs: Inputs) -> float:
    """Return what the recipe takes that takes most, besides its result."""
    largest = 8 * max(map(_count, inputs.outline.shapes.values()))
    copies = [0.0]
    for recipe in inputs.spec.merge:
        if recipe.method not in ("linear", "passthrough"):
            number = len(inputs.spec.merged_networks(recipe))
            of_each, besides = _copies(recipe.method)
            copies.append(of_each * number + besides)
    return largest * max(copies)


def _copies(method: str) -> tuple[float, float]:
    if method in DATA_RECIPES or not merge.find(method).as_stored:
        return _WHOLE
    return _BY_RANK if method.startswith("della") else _BY_PARTS


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
