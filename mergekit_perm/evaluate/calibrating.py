"""Calibrating one mixture for good: what it changes stays in the network's weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from mergekit_perm.data.batches import Batches
from mergekit_perm.errors import EvaluationError
from mergekit_perm.evaluate.calibration import calibrator, steps_of, within_memory
from mergekit_perm.evaluate.classifier import scale_logits
from mergekit_perm.evaluate.memory import Room, attempt, explaining
from mergekit_perm.evaluate.metrics import logits_of
from mergekit_perm.evaluate.mixing import Mixer
from mergekit_perm.evaluate.points import vertex
from mergekit_perm.evaluate.precision import arithmetic
from mergekit_perm.evaluate.temperature import finite_scale
from mergekit_perm.weighted import State

if TYPE_CHECKING:
    from mergekit_perm.data import Split

# How many examples prove that scaling the classifier scales the logits.
_PROOF = 32


def calibrate(
    module: nn.Module,
    name: str,
    train_split: Split | None,
    *,
    states: Sequence[State] = (),
    weights: Sequence[float] | None = None,
    temperature_split: Split | None = None,
    device: str | torch.device = "cpu",
    batch_size: int = 512,
    room: Room | None = None,
) -> float:
    """Re-estimate in place, on data, what mixing weights has invalidated.

    Names, shapes and the architecture stay as they are. ``none`` changes nothing and needs no
    split.

    ``batch_norm`` resets the running statistics of every BatchNorm layer, those of timm included,
    and re-estimates them in one pass without gradients (REPAIR, arXiv 2211.08403, calls this the
    reset). In that pass the BatchNorm layers are in train mode, everything else (dropout too) in
    eval mode. A layer's statistics become the mean and unbiased variance, over all examples and
    positions of the split, of the inputs it got; batches are pooled with their sizes in float64.
    That is exact, whatever `batch_size`, for layers with no BatchNorm before them. A layer behind
    another one gets inputs normalised by the statistics of their own *batch*, as in training, so
    its result depends on `batch_size`, the less the larger the batches are.

    ``repair`` gives the channels of every other layer the mean and the standard deviation that
    those of `states` have, weighted (REPAIR proper; see `Repair`), and estimates BatchNorm again
    as ``batch_norm`` does, which there has the same effect.

    ``temperature``, alone or after either, multiplies weight and bias of the last layer by the
    inverse temperature that gives `temperature_split` the lowest loss (arXiv 2510.08023).
    Predictions stay as they are. A split that is predicted without a mistake has no best
    temperature, so give one that the networks were not trained on.

    Training flags and momenta are as before; the module is moved to `device` and stays there. No
    batch has a single example, which would have no variance: the batch size is raised by as little
    as avoids it.

    Args:
        module: the network, with mixed weights.
        name: a name in `CALIBRATIONS`.
        train_split: training examples; labels are not read, but for a temperature without a split
            of its own.
        states: for ``repair``, the networks that were mixed: aligned ones where they were.
        weights: of the states, 0 or more; equal ones by default.
        temperature_split: where the temperature is found; `train_split` by default.
        device: where to compute; with ``repair`` it holds all the networks at once.
        batch_size: examples at a time; halved where memory runs out, with a warning where
            statistics that are estimated depend on it.
        room: what there was memory for on the device before; fewer examples are kept there.

    Returns:
        What logits were multiplied by: 1 without ``temperature``, and where none is best.

    Raises:
        EvaluationError: an unknown name; no split where one is needed, or for ``batch_norm`` and
            ``repair`` one of fewer than 2 examples; ``repair`` without states, or states that do
            not fit the module; a network whose logits no layer scales; too little memory for the
            networks, or for few examples at a time.
    """
    device = torch.device(device)
    of_layers, scaled = steps_of(name)
    given = tuple(weights) if weights is not None else (1.0,) * len(states)
    if of_layers == "repair" and not states:
        raise EvaluationError(
            "calibration 'repair' needs `states`: the networks whose statistics the mixture gets"
        )
    room = Room() if room is None else room
    size = room.calibrating_on(batch_size)
    apply = calibrator(name, train_split, device=device, batch_size=size)
    split = temperature_split or train_split
    if scaled and split is None:
        raise EvaluationError("calibration 'temperature' needs a split; there is none")
    with explaining(device, "for the network; choose another `device`"):
        module.to(device)
    with arithmetic("float32", device):
        if of_layers == "repair":
            with explaining(device, f"for {len(states)} networks; choose another `device`"):
                mixer = Mixer(module, states, device=device)
            ends = [vertex(len(states), place) for place in range(len(states))]
            within_memory(lambda: apply.see(map(mixer.set, ends)), apply, device, room)
        within_memory(lambda: apply(module, given), apply, device, room)
        if not scaled or split is None:
            return 1.0
        return _scale(module, split, device, batch_size)


def _scale(module: nn.Module, split: Split, device: torch.device, batch_size: int) -> float:
    """Bring the logits of `module` to the best temperature; return what they are multiplied by."""
    batches, factor = _best_scale(module, split, device, batch_size)
    if factor != 1.0:
        with explaining(device, "to find the layer that makes the logits; choose another `device`"):
            scale_logits(module, batches.first(min(_PROOF, batches.batch_size)), factor)
    return factor


def _best_scale(
    module: nn.Module, split: Split, device: torch.device, batch_size: int
) -> tuple[Batches, float]:
    """Return what the logits of `module` are best multiplied by, and the batches that fitted.

    Where memory runs out, the split is no more kept on the device, and then examples are halved:
    but for rounding, the temperature does not depend on how many there are at a time.

    Raises:
        EvaluationError: there is too little memory for one example at a time.
    """
    keep = True

    def work() -> tuple[Batches, float]:
        batches = Batches(split, device=device, batch_size=batch_size, keep=keep)
        return batches, finite_scale(*logits_of(module, batches))

    while isinstance(found := attempt(work, device), RuntimeError):
        if keep:
            keep = False
        elif batch_size == 1:
            raise EvaluationError(
                f"{device} has too little memory for one example at a time; choose another `device`"
            ) from found
        else:
            batch_size //= 2
    return found
