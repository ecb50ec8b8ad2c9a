"""The training loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from mergekit_perm.errors import EvaluationError
from mergekit_perm.progress import Progress, silent
from mergekit_perm.train.batches import ShuffledBatches
from mergekit_perm.train.recipe import Recipe
from mergekit_perm.train.schedules import learning_rate
from mergekit_perm.train.streams import seeded, stream

if TYPE_CHECKING:
    from mergekit_perm.data import Split


@dataclass(frozen=True, slots=True)
class History:
    """What a training did, one entry per epoch.

    Attributes:
        losses: mean training loss over the examples of the epoch, as they were seen: augmented,
            smoothed, and while the weights were changing.
        learning_rates: the rate of the epoch's first step.
    """

    losses: tuple[float, ...]
    learning_rates: tuple[float, ...]


def fit(
    module: nn.Module,
    split: Split,
    recipe: Recipe,
    *,
    seed: int,
    device: str | torch.device = "cpu",
    start: int = 0,
    mask: Mapping[str, torch.Tensor] | None = None,
    checkpoints: Collection[int] = (),
    keep: Callable[[int, dict[str, torch.Tensor]], None] | None = None,
    progress: Progress = silent,
    task: str = "training",
) -> History:
    """Train `module` in place on `split` with cross-entropy, and return the history.

    The order of the examples, the augmentation and dropout follow from `seed` alone, each from
    its own stream; torch's global generators are left as they were. On one CPU the result is
    the same to the bit for the same seed and number of threads. The module is moved to `device`
    and stays there; its training flags are restored.

    A last batch of one example is left out when the module has BatchNorm, for which a single
    example has no variance.

    Args:
        module: maps inputs (batch, ...) to logits (batch, classes).
        split: the training examples.
        recipe: how to train.
        seed: any whole number.
        device: where to train.
        start: the epoch from which to train, where the module holds the weights of that epoch:
            rates and the order of examples are those of a whole training from there, without the
            momentum that it had.
        mask: by parameter, of its shape, False where a weight is and stays 0; see `next_mask`.
        checkpoints: after which epochs the network is kept, 0 before the first.
        keep: called with each of these, as soon as it is reached, and a copy of the state.
        progress: called as `progress(task, epochs done, epochs)`.
        task: what to call this training in `progress` and in errors.

    Raises:
        EvaluationError: the loss stops being finite, or there is no batch to train on.
    """
    device = torch.device(device)
    batches = ShuffledBatches(split, recipe, module.to(device), seed=seed, device=device)
    batches.skip(start)
    optimizer = _optimizer(module, recipe)
    masked = _Masked(module, mask or {})
    losses, rates = [], []
    with _training(module), seeded(stream(seed, "dropout"), device):
        masked.apply()
        if keep is not None and start in checkpoints:
            keep(start, copied(module))
        for epoch in range(start, recipe.epochs):
            first = epoch * batches.steps
            rates.append(learning_rate(recipe, first, batches.steps))
            loss = torch.stack(
                [
                    _step(
                        module,
                        x,
                        y,
                        optimizer,
                        recipe,
                        learning_rate(recipe, step, batches.steps),
                        masked,
                    )
                    for step, (x, y) in enumerate(batches.epoch(), start=first)
                ]
            )
            losses.append(_epoch_loss(loss, batches.sizes, epoch, recipe, task))
            if keep is not None and epoch + 1 in checkpoints:
                keep(epoch + 1, copied(module))
            progress(task, epoch + 1, recipe.epochs)
    return History(losses=tuple(losses), learning_rates=tuple(rates))


def copied(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return a copy of the state of `module`, on the CPU."""
    return {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}


def _step(
    module: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    rate: float,
    masked: _Masked,
) -> torch.Tensor:
    for group in optimizer.param_groups:
        group["lr"] = rate
    loss = F.cross_entropy(module(x), y, label_smoothing=recipe.label_smoothing)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    masked.apply()
    return loss.detach()


class _Masked:
    """Parameters of which some entries stay 0."""

    def __init__(self, module: nn.Module, mask: Mapping[str, torch.Tensor]) -> None:
        parameters = dict(module.named_parameters())
        self._parts = [
            (parameters[name], kept.to(parameters[name].device, parameters[name].dtype))
            for name, kept in mask.items()
        ]

    def apply(self) -> None:
        """Set to 0 what the mask does not keep."""
        with torch.no_grad():
            for parameter, kept in self._parts:
                parameter.mul_(kept)


def _epoch_loss(
    losses: torch.Tensor, sizes: list[int], epoch: int, recipe: Recipe, task: str
) -> float:
    # Looked at once an epoch, so that an accelerator need not stop after every step.
    values = losses.tolist()
    for step, value in enumerate(values):
        if not math.isfinite(value):
            raise EvaluationError(
                f"{task}: the loss is {value} at epoch {epoch + 1} of {recipe.epochs}, step "
                f"{step + 1} of {len(values)}; a lower learning_rate (now "
                f"{recipe.learning_rate:g}) or a longer warmup_epochs usually helps"
            )
    return math.fsum(v * n for v, n in zip(values, sizes, strict=True)) / sum(sizes)


def _optimizer(module: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    parameters = [p for p in module.parameters() if p.requires_grad]
    if not parameters:
        raise EvaluationError("nothing to train: the network has no trainable parameters")
    rate, decay = recipe.learning_rate, recipe.weight_decay
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, lr=rate, momentum=recipe.momentum, weight_decay=decay, foreach=True
        )
    adam = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    betas = (recipe.momentum, 0.999)
    return adam(parameters, lr=rate, betas=betas, weight_decay=decay, foreach=True)


@contextmanager
def _training(module: nn.Module) -> Iterator[None]:
    flags = [(layer, layer.training) for layer in module.modules()]
    module.train()
    try:
        yield
    finally:
        for layer, flag in flags:
            layer.training = flag
