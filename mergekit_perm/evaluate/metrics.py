"""Loss and error of one network on one split."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from mergekit_perm.data.batches import Batches
from mergekit_perm.devices import in_float64
from mergekit_perm.errors import EvaluationError
from mergekit_perm.evaluate.temperature import best_scale

if TYPE_CHECKING:
    from mergekit_perm.data import Split

METRICS = ("loss", "error")

# Logits of batches, float64, and their labels.
Logits = list[tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True, slots=True)
class Metrics:
    """How well one network does on one split.

    Attributes:
        loss: mean cross-entropy, in nats per example.
        error: share of the examples whose highest logit is not that of their label, 0 to 1.
        n: number of examples.
    """

    loss: float
    error: float
    n: int


def measure(
    module: nn.Module,
    split: Split,
    *,
    device: str | torch.device = "cpu",
    batch_size: int = 512,
) -> Metrics:
    """Return loss and error of `module`, in eval mode, over the whole of `split`.

    Losses are computed and summed in float64. The module is moved to `device` and stays there;
    its weights, buffers and training flags are as before.

    Args:
        module: maps inputs (batch, ...) to logits (batch, classes).
        split: the examples, taken in order.
        device: where to evaluate.
        batch_size: examples at a time; decides memory and speed, not the result.

    Raises:
        EvaluationError: outputs that are no logits, or labels beyond them.
    """
    device = torch.device(device)
    batches = Batches(split, device=device, batch_size=batch_size)
    return measure_batches(module.to(device), batches)


def measure_batches(
    module: nn.Module, batches: Batches, *, best_temperature: bool = False
) -> Metrics:
    """Return what `measure` does, for batches that are on the module's device already.

    Args:
        module: maps inputs to logits.
        batches: of the split.
        best_temperature: take the loss at the temperature that gives these examples the lowest;
            logits of all examples are kept until then. One number fitted to n examples lowers
            their mean loss by about 1/(2n) nats more than that of others.
    """
    return measure_passes(module, module, batches, kept=best_temperature)[0][-1]


def measure_passes(
    module: nn.Module,
    logits_of: Callable[[torch.Tensor], torch.Tensor],
    batches: Batches,
    *,
    kept: bool,
    several: bool = False,
) -> list[tuple[Metrics, ...]]:
    """Return what `measure_batches` does, of all networks whose logits come from one pass.

    Args:
        module: is in eval mode meanwhile.
        logits_of: maps inputs to logits of shape (examples, classes).
        batches: of the split.
        kept: keep the logits, and take the loss at the best temperature too.
        several: logits are of several networks, of shape (networks, examples, classes).

    Returns:
        Of every network its metrics and, if `kept`, those at the best temperature.
    """
    losses, wrongs = [], []
    found: Logits = []
    with evaluating(module):
        for x, y in batches:
            # Batches are made outside, so that no tensor a data set keeps is an inference tensor.
            with torch.inference_mode():
                highest = batches.highest_label
                logits, labels = checked_logits(logits_of(x), y, highest, several=several)
                loss, wrong = _sums(logits, labels)
            losses.append(loss)
            wrongs.append(wrong)
            if kept:
                found.append((logits, labels))
    n = len(batches)
    totals, errors = (
        torch.stack(sums).sum(dim=0).reshape(-1).cpu().tolist() for sums in (losses, wrongs)
    )
    plain = [
        Metrics(loss=total / n, error=wrong / n, n=n)
        for total, wrong in zip(totals, errors, strict=True)
    ]
    if not kept:
        return [(metrics,) for metrics in plain]
    with torch.inference_mode():
        logits = torch.cat([logits for logits, _ in found], dim=-2)
        labels = torch.cat([labels for _, labels in found])
        each = logits.reshape(-1, *logits.shape[-2:])
        return [
            (metrics, replace(metrics, loss=_lowest(own, labels) / n))
            for metrics, own in zip(plain, each, strict=True)
        ]


def _lowest(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the summed loss at the temperature where it is lowest."""
    scaled = logits * best_scale(logits, labels)
    return float(F.cross_entropy(scaled, labels, reduction="sum"))


def logits_of(module: nn.Module, batches: Batches) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what `module`, in eval mode, gives for all of `batches`, and their labels.

    Logits of shape (examples, classes) are float64.

    Raises:
        EvaluationError: as in `measure`.
    """
    found = []
    with evaluating(module), torch.no_grad():
        for x, y in batches:
            found.append(checked_logits(module(x), y, batches.highest_label))
    logits, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
    return logits, labels


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put `module` in eval mode for the block, and every layer's own flag back afterwards."""
    flags = [(layer, layer.training) for layer in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for layer, flag in flags:
            layer.training = flag


def _sums(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the summed loss and how many are wrong: numbers, or of several networks vectors."""
    highest, predicted = logits.max(dim=-1)
    # A NaN counts as highest, and so would make a right answer out of a network that gave none.
    wrong = (predicted != labels) | highest.isnan()
    if logits.ndim == 2:
        return F.cross_entropy(logits, labels, reduction="sum"), wrong.sum()
    by_example = logits.permute(1, 2, 0), labels[:, None].expand(-1, len(logits))
    return F.cross_entropy(*by_example, reduction="none").sum(dim=0), wrong.sum(dim=-1)


def checked_logits(
    logits: torch.Tensor, labels: torch.Tensor, highest_label: int, *, several: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits in float64 and labels beside them.

    Args:
        logits: what a network gives, wanted of shape (examples, classes).
        labels: of shape (examples,).
        highest_label: of the split, or of what has been read of it.
        several: of several networks, wanted of shape (networks, examples, classes).

    Raises:
        EvaluationError: outputs that are no logits, or labels beyond them.
    """
    if not isinstance(logits, torch.Tensor):
        raise EvaluationError(
            f"the network gives a {type(logits).__name__}, but logits of shape (examples, classes) "
            "are wanted: one tensor"
        )
    if logits.ndim != 2 + several or logits.shape[-2] != len(labels):
        raise EvaluationError(
            f"the network gives {tuple(logits.shape)} for {len(labels)} examples, but logits of "
            "shape (examples, classes) are wanted"
        )
    # Not looked for among the labels themselves, so that the CPU need not wait for an accelerator.
    if highest_label >= logits.shape[-1]:
        raise EvaluationError(
            f"label {highest_label} occurs, but the network gives {logits.shape[-1]} logits, for "
            f"labels 0 to {logits.shape[-1] - 1}; set num_classes to that of the data"
        )
    logits = in_float64(logits)
    return logits, labels.to(logits.device)
