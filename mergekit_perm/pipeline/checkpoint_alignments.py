"""Permutations that are found at checkpoints of sequences, beside those of the run itself."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from mergekit_perm.alignment import Alignment
from mergekit_perm.pipeline.aligning import find_permutations, keep_permutations
from mergekit_perm.pipeline.inputs import Inputs
from mergekit_perm.pipeline.keys import found_at, permutations_key
from mergekit_perm.pipeline.stage import Stage
from mergekit_perm.pipeline.workshop import Result, Workshop, permutation_file
from mergekit_perm.spec.sequences import end_of


def checkpoint_alignment_stages(inputs: Inputs) -> Iterator[Stage]:
    """Yield a stage for every checkpoint at which something asks for permutations."""
    for step in _steps(inputs):
        if not _is_that_of_the_run(inputs, step):
            yield Stage(
                f"align@{step}",
                f"align {', '.join(inputs.spec.networks)} at {step}",
                permutations_key(inputs, [step]),
                tuple(permutation_file(f"{name}@{step}") for name in inputs.spec.networks),
                partial(_align_at, step),
            )


def alignment_at(name: str, step: str, shop: Workshop) -> Alignment:
    """Return the alignment of network `name` that was found at checkpoint `step`."""
    own = _is_that_of_the_run(shop.inputs, step)
    return Alignment.load(shop.folder.path / permutation_file(name if own else f"{name}@{step}"))


def _steps(inputs: Inputs) -> list[str]:
    """Return the checkpoints, those of the matrix first."""
    spec, settings = inputs.spec, inputs.spec.evaluate
    if settings is None or inputs.permutations is None:
        return []
    steps = [] if settings.matrix is None else [*spec.chosen_steps(settings.matrix.found_at)]
    masks = settings.mask_transport
    if masks is not None and masks.level_permutations:
        steps += spec.chosen_levels(masks.levels)
    return list(dict.fromkeys(steps))


def _is_that_of_the_run(inputs: Inputs, step: str) -> bool:
    """Tell whether the run's own permutations are those found at `step`."""
    return (found_at(inputs) or (end_of(inputs.spec.steps),)) == (step,)


def _align_at(step: str, shop: Workshop) -> Result:
    """Find permutations at `step` of all sequences, and write them."""
    found = find_permutations([step], shop)
    names = shop.inputs.spec.networks
    keep_permutations(names, found, lambda name: permutation_file(f"{name}@{step}"), shop)
    return {"cut_off": found.cut_off}
