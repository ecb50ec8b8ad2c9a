"""Merging by Fisher information: each weight counts as much as its network depends on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from mergekit_perm.checkpoints import completed, ties
from mergekit_perm.errors import MergeError
from mergekit_perm.merge.given import checked
from mergekit_perm.progress import Progress, silent
from mergekit_perm.weighted import State, weighted_sum

if TYPE_CHECKING:
    from mergekit_perm.data import Split


def fisher(
    states: Mapping[str, State],
    *,
    model: nn.Module,
    split: Split,
    weight: Mapping[str, float] | None = None,
    count: int = 512,
    floor: float = 1e-6,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: Progress = silent,
) -> State:
    """Return the networks merged by their diagonal Fisher information (arXiv 2111.09832).

    Of every parameter the result is sum_i w_i F_i theta_i / sum_i w_i F_i, with F_i the mean over
    examples of the squared derivative of the log-likelihood of a label that the network itself
    draws. Everything that is no parameter, such as BatchNorm's statistics, is the weighted mean.

    Args:
        states: state dicts by network name, with the tensors of `model`.
        model: the architecture; it is moved to `device`, and its weights are lost.
        split: examples, of which `count` are used; their own labels are not looked at.
        weight: by network; 1 for each by default. A network with 0 counts for nothing.
        count: examples, drawn at random without replacement; all where there are fewer.
        floor: the least information that a parameter has, so that one that no network depends on
            is the mean.
        seed: of the examples and the labels that are drawn.
        device: where to compute.
        progress: called as `progress("measuring Fisher information", done, all)`.

    Raises:
        MergeError: networks that differ in tensors, weights that are negative, not finite, of
            unknown networks or all 0, a count below 1, or a floor that is not above 0.
    """
    weights = checked("fisher", states, weight, positive=True)
    if count < 1 or not floor > 0:
        raise MergeError(f"fisher: count is {count} and floor {floor:g}; both must be above 0")
    model = model.to(device)
    names = [name for name, _ in model.named_parameters()]
    total: dict[str, torch.Tensor] = {}
    shares: dict[str, torch.Tensor] = {}
    for done, (network, state) in enumerate(states.items()):
        progress("measuring Fisher information", done, len(states))
        if not weights[network]:
            continue
        model.load_state_dict(state)
        information = diagonal_fisher(model, split, count=count, seed=seed)
        for name in names:
            share = weights[network] * (information[name] + floor)
            value = state[name].to(share.device, torch.float64) * share
            total[name] = total[name] + value if name in total else value
            shares[name] = shares[name] + share if name in shares else share
    progress("measuring Fisher information", len(states), len(states))
    summed = sum(weights.values())
    factors = [weights[network] / summed for network in states]
    family = list(states.values())
    tied = ties(model)
    total, shares = completed(total, tied), completed(shares, tied)
    return {
        name: (total[name] / shares[name]).to(family[0][name])
        if name in total
        else weighted_sum([state[name] for state in family], factors)
        for name in family[0]
    }


def diagonal_fisher(
    model: nn.Module, split: Split, *, count: int, seed: int
) -> dict[str, torch.Tensor]:
    """Return the diagonal Fisher information of every parameter of `model`, in float64.

    Args:
        model: maps inputs to logits; measured in eval mode, where it is.
        split: examples.
        count: of them that are used, one at a time.
        seed: of the examples, and of the labels that the network draws for them.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(split), generator=generator)[:count]
    parameters = dict(model.named_parameters())
    device = next(iter(parameters.values())).device
    found = {
        name: torch.zeros_like(parameter, dtype=torch.float64)
        for name, parameter in parameters.items()
    }
    with _evaluating(model):
        for x, _ in split.batches(1, order=chosen, device=device):
            scores = model(x).log_softmax(dim=1)
            shares = scores.detach().exp().cpu()
            label = int(torch.multinomial(shares[0].double(), 1, generator=generator))
            gradients = torch.autograd.grad(
                scores[0, label], list(parameters.values()), allow_unused=True
            )
            for information, gradient in zip(found.values(), gradients, strict=True):
                if gradient is not None:
                    information.add_(gradient.double().square(), alpha=1 / len(chosen))
    return found


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Put `model` in eval mode with gradients of all parameters for the block."""
    flags = [(layer, layer.training) for layer in model.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.eval().requires_grad_(True)
    try:
        with torch.enable_grad():
            yield
    finally:
        for layer, flag in flags:
            layer.training = flag
        for parameter, flag in wanted:
            parameter.requires_grad_(flag)
