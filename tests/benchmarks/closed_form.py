"""REPAIR's closed form, as a baseline: a mixture corrected without a pass of it over the data.

A channel of the mixture is taken for the mixture of the networks' channels, so that its variance
follows from their covariances (REPAIR, arXiv 2211.08403; weights l_i, means m_i, deviations s_i and
correlations r_ij of the networks):

    variance = sum_ij l_i l_j r_ij s_i s_j,    mean = sum_i l_i m_i

Both hold in the first layer. Behind it the mixture's inputs are no mixture of the networks' inputs,
the less so the more layers before have been corrected.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mergekit_perm.data import Split
from mergekit_perm.evaluate.affine import rescale
from mergekit_perm.evaluate.metrics import evaluating
from mergekit_perm.evaluate.sites import find_sites

_EPS = 1e-6


def correct(
    module: nn.Module,
    mixture: Mapping[str, Tensor],
    states: Sequence[Mapping[str, Tensor]],
    split: Split,
) -> None:
    """Make `module` the mean of `states`, corrected; `mixture` is that mean as it is."""
    module.load_state_dict(states[0])
    inputs, _ = next(iter(split.batches(2)))
    sites = {site.tap: site for site in find_sites(module, inputs)}
    norms = [
        name
        for name, part in module.named_modules()
        if isinstance(part, nn.modules.batchnorm._BatchNorm)
    ]
    means, covariances = _moments(module, states, split, sites, norms)
    module.load_state_dict(mixture)
    for name, mean in means.items():
        each = covariances[name]
        variance, aim = each.mean(dim=(0, 1)), mean.mean(dim=0)
        if name in norms:
            layer: Any = module.get_submodule(name)
            layer.running_mean.copy_(aim)
            layer.running_var.copy_(variance)
        else:
            deviation = each.diagonal(dim1=0, dim2=1).clamp_min(0).sqrt().mean(dim=-1)
            eps = _EPS * float(deviation.square().mean())
            scale = ((deviation.square() + eps) / (variance + eps)).sqrt()
            rescale(module.get_submodule(sites[name].layer), scale, aim - scale * aim)


def _moments(
    module: nn.Module,
    states: Sequence[Mapping[str, Tensor]],
    split: Split,
    sites: Mapping[str, Any],
    norms: Sequence[str],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the means and covariances per channel, of what sites give and BatchNorms are given."""
    heard: dict[str, list[Tensor]] = defaultdict(list)

    def hear(name: str, last: bool, tensor: Tensor) -> None:
        channels = tensor if last else tensor.movedim(1, -1)
        heard[name].append(channels.reshape(-1, channels.shape[-1]).double())

    count: dict[str, int] = defaultdict(int)
    first: dict[str, Any] = defaultdict(float)
    second: dict[str, Any] = defaultdict(float)
    with ExitStack() as hooks, evaluating(module), torch.no_grad():
        for name, site in sites.items():
            give = partial(_given, partial(hear, name, site.last))
            hooks.callback(module.get_submodule(name).register_forward_hook(give).remove)
        for name in norms:
            take = partial(_taken, partial(hear, name, False))
            hooks.callback(module.get_submodule(name).register_forward_pre_hook(take).remove)
        for x, _ in split.batches(256):
            for state in states:
                module.load_state_dict(state)
                module(x)
            for name, each in heard.items():
                numbers = torch.stack(each)
                count[name] += numbers.shape[1]
                first[name] += numbers.sum(1)
                second[name] += torch.einsum("inc,jnc->ijc", numbers, numbers)
            heard.clear()
    means = {name: first[name] / count[name] for name in count}
    return means, {
        name: second[name] / count[name] - mean[:, None] * mean[None]
        for name, mean in means.items()
    }


def _given(hear: Any, _: Any, __: Any, output: Tensor) -> None:
    hear(output)


def _taken(hear: Any, _: Any, arguments: tuple[Tensor, ...]) -> None:
    hear(arguments[0])
