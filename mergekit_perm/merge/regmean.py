"""RegMean: linear layers that give what the networks' own give, on the inputs they have."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from mergekit_perm.checkpoints import completed, ties
from mergekit_perm.errors import MergeError
from mergekit_perm.merge.given import checked
from mergekit_perm.progress import Progress, silent
from mergekit_perm.weighted import State, weighted_sum

if TYPE_CHECKING:
    from mergekit_perm.data import Split

# Of the mean of a Gram matrix's diagonal: what inputs that never occur are given.
_LEAST = 1e-6


def regmean(
    states: Mapping[str, State],
    *,
    model: nn.Module,
    split: Split,
    weight: Mapping[str, float] | None = None,
    alpha: float = 0.9,
    count: int = 512,
    batch_size: int = 64,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: Progress = silent,
) -> State:
    """Return the networks merged layer by layer by regression (arXiv 2212.09849).

    Of a linear layer the weight is (sum_i w_i G_i)^-1 sum_i w_i G_i W_i, with G_i = X_i^T X_i of
    the layer's inputs in network i and W_i its weight (inputs x outputs); what is off the diagonal
    of G_i is multiplied by `alpha`. It is the least squares solution for the outputs that every
    network has on its own inputs. A convolution is a linear layer of the patches that it sees,
    group by group. All other tensors, biases among them, are the weighted mean.

    Args:
        states: state dicts by network name, with the tensors of `model`.
        model: the architecture; it is moved to `device`, and its weights are lost.
        split: examples, of which `count` are used, without labels.
        weight: by network; 1 for each by default.
        alpha: 0 to 1; 0 looks at every input alone.
        count: examples, drawn at random without replacement; all where there are fewer.
        batch_size: examples at a time.
        seed: of the examples that are drawn.
        device: where to compute; Gram matrices of all layers of two networks are held in float64.
        progress: called as `progress("measuring layers' inputs", done, all)`.

    Raises:
        MergeError: networks that differ in tensors, weights that are negative, not finite, of
            unknown networks or all 0, an alpha out of its range, or a count below 1.
    """
    weights = checked("regmean", states, weight, positive=True)
    if not 0 <= alpha <= 1 or count < 1:
        raise MergeError(
            f"regmean: alpha is {alpha:g} and count {count}; give 0 to 1, and 1 or more"
        )
    model = model.to(device)
    grams: dict[str, torch.Tensor] = {}
    products: dict[str, torch.Tensor] = {}
    for done, (network, state) in enumerate(states.items()):
        progress("measuring layers' inputs", done, len(states))
        if not weights[network]:
            continue
        model.load_state_dict(state)
        found = input_grams(model, split, count=count, batch_size=batch_size, seed=seed)
        for name, gram in found.items():
            own = weights[network] * _shrunk(gram, alpha)
            product = own @ _columns(state[name].to(own), len(own))
            grams[name] = grams[name] + own if name in grams else own
            products[name] = products[name] + product if name in products else product
    progress("measuring layers' inputs", len(states), len(states))
    summed = sum(weights.values())
    factors = [weights[network] / summed for network in states]
    family, tied = list(states.values()), ties(model)
    grams, products = completed(grams, tied), completed(products, tied)
    return {
        name: _rows(torch.linalg.solve(grams[name], products[name])).reshape(like.shape).to(like)
        if name in grams
        else weighted_sum([state[name] for state in family], factors)
        for name, like in family[0].items()
    }


def input_grams(
    model: nn.Module, split: Split, *, count: int, batch_size: int, seed: int
) -> dict[str, torch.Tensor]:
    """Return X^T X of the inputs of linear layers and convolutions, by the name of their weight.

    Args:
        model: runs on the examples, in eval mode, where it is.
        split: examples.
        count: of them that are used.
        batch_size: at a time.
        seed: of those that are drawn.

    Returns:
        Float64 of shape (groups, inputs, inputs); a layer that is not used is left out. Layers
        with one weight are one, by the name that stands for it (see `checkpoints.ties`).
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(split), generator=generator)[:count]
    device = next(model.parameters()).device
    with _collecting(model) as found, torch.inference_mode():
        for x, _ in split.batches(batch_size, order=chosen, device=device):
            model(x)
    return found


@contextmanager
def _collecting(model: nn.Module) -> Iterator[dict[str, torch.Tensor]]:
    found: dict[str, torch.Tensor] = {}
    tied = ties(model)

    def weight(name: str) -> str:
        own = f"{name}.weight" if name else "weight"
        return tied.get(own, own)

    hooks = [
        layer.register_forward_pre_hook(_adding(weight(name), found))
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    ]
    flags = [(layer, layer.training) for layer in model.modules()]
    model.eval()
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
        for layer, flag in flags:
            layer.training = flag


def _adding(name: str, found: dict[str, torch.Tensor]) -> Callable[..., None]:
    def hook(layer: nn.Module, args: tuple[Any, ...]) -> None:
        x = _inputs(layer, args[0]).double()
        gram = x.mT @ x
        found[name] = found[name] + gram if name in found else gram

    return hook


def _inputs(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return what every output of `layer` is a product with: (groups, examples, inputs)."""
    if isinstance(layer, nn.Linear):
        return x.reshape(1, -1, x.shape[-1])
    assert isinstance(layer, nn.Conv2d)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    patches = F.unfold(padded, layer.kernel_size, dilation=layer.dilation, stride=layer.stride)
    grouped = patches.reshape(len(x), layer.groups, -1, patches.shape[-1])
    return grouped.permute(1, 0, 3, 2).flatten(1, 2)


def _shrunk(gram: torch.Tensor, alpha: float) -> torch.Tensor:
    """Return `gram` with less off the diagonal, and something on it for inputs without any."""
    diagonal = gram.diagonal(dim1=1, dim2=2)
    least = _LEAST * diagonal.mean(dim=1, keepdim=True) + torch.finfo(gram.dtype).tiny
    return alpha * gram + torch.diag_embed((1 - alpha) * diagonal + least)


def _columns(weight: torch.Tensor, groups: int) -> torch.Tensor:
    """Return a weight (outputs, ...) as (groups, inputs, outputs of a group)."""
    return weight.reshape(groups, len(weight) // groups, -1).mT


def _rows(columns: torch.Tensor) -> torch.Tensor:
    return columns.mT.flatten(0, 1)
