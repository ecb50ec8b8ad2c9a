"""REPAIR: channels of mixtures get the statistics that the networks mixed have (arXiv 2211.08403).

Where a mixture of networks has lost the variance of its channels, every layer is scaled and shifted
so that a channel's mean and standard deviation are those of the networks, weighted as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mergekit_perm.data.batches import Batch, Batches
from mergekit_perm.devices import in_float64
from mergekit_perm.errors import EvaluationError
from mergekit_perm.evaluate.affine import Site, rescale, scaled
from mergekit_perm.evaluate.batch_norms import re_estimating
from mergekit_perm.evaluate.metrics import evaluating
from mergekit_perm.evaluate.pooled import Pooled
from mergekit_perm.evaluate.sites import find_sites

# Added to every variance of a layer, as a share of their mean: a channel that hardly varies in the
# mixture is not blown up.
_EPS = 1e-6
_TINY = 1e-30

# Sees what a site gives, channels on the second axis; what it returns is passed on, if anything.
Listener = Callable[[torch.Tensor], torch.Tensor | None]

# How many examples sites are found with.
_FEW = 2


@dataclass(frozen=True, slots=True)
class Statistics:
    """Mean and standard deviation per channel, over the examples and positions of a split."""

    mean: torch.Tensor
    deviation: torch.Tensor


class Repair:
    """Corrects mixtures of networks whose statistics it has seen.

    The hook form: in one pass over the training inputs, each site (see `find_sites`) standardises
    what it gives by the statistics of the *batch* and brings it to the target, so that later layers
    see corrected inputs; the statistics that it got are pooled over the pass, and the correction
    that they need is written into the layer's weight and bias,

        scale = sqrt((target deviation^2 + eps) / (variance + eps))
        weight <- scale * weight,  bias <- scale * (bias - mean) + target mean

    with eps a millionth of the layer's mean target variance. So what a site gives over the split
    has the target's statistics but for what batches differ by, the less the larger they are.
    A layer without bias cannot be shifted: it is scaled alone, and the norm behind it, which is a
    site as well, shifts. BatchNorm layers are estimated again in the same pass, and the layers that
    feed them are left as they are.

    Attributes:
        batches: of the training inputs.
    """

    def __init__(self, batches: Batches) -> None:
        self.batches: Batches | None = batches
        self._sites: tuple[Site, ...] = ()
        self._seen: list[dict[Site, Statistics]] | None = None

    def see(self, networks: Iterable[nn.Module]) -> None:
        """Take the statistics of the networks that are mixed, once: one pass over the split each.

        Args:
            networks: may be one module with other weights each time; taken one after another.
        """
        if self._seen is not None:
            return
        seen: list[dict[Site, Statistics]] = []
        for network in networks:
            if not seen and self.batches is not None:
                self._sites = find_sites(network, self.batches.first(_FEW))
            seen.append(self._statistics(network))
        self._seen = seen

    def __call__(self, module: nn.Module, weights: Sequence[float]) -> None:
        """Correct `module`, the mixture with `weights`, in place."""
        corrections = {
            site: _Correction(module.get_submodule(site.layer), target)
            for site, target in self._targets(weights).items()
        }
        with (
            evaluating(module),
            torch.no_grad(),
            re_estimating(module),
            _listening(module, corrections),
        ):
            for x, _ in self._passed():
                module(x)
        for correction in corrections.values():
            correction.write()

    def _passed(self) -> Iterator[Batch]:
        """Return the batches of one pass."""
        return iter(self.batches or ())

    def _targets(self, weights: Sequence[float]) -> dict[Site, Statistics]:
        """Return the weighted means of the networks' means and of their standard deviations."""
        seen = self._seen or []
        if len(seen) != len(weights) or min(weights) < 0 or not sum(weights) > 0:
            raise EvaluationError(
                f"calibration 'repair' mixes the statistics of {len(seen)} networks with as many "
                f"weights of 0 or more, not all 0; it was given {list(weights)}"
            )
        shares = [weight / sum(weights) for weight in weights]
        used = [(one, share) for one, share in zip(seen, shares, strict=True) if share]

        def mixed(site: Site, part: str) -> torch.Tensor:
            return torch.stack([getattr(one[site], part) * share for one, share in used]).sum(dim=0)

        return {
            site: Statistics(mixed(site, "mean"), mixed(site, "deviation")) for site in self._sites
        }

    def _statistics(self, network: nn.Module) -> dict[Site, Statistics]:
        listeners = {site: _Listener() for site in self._sites}
        with evaluating(network), torch.no_grad(), _listening(network, listeners):
            for x, _ in self._passed():
                network(x)
        return {site: listener.statistics() for site, listener in listeners.items()}


class _Listener:
    """Pools the statistics of a site, and leaves it as it is."""

    def __init__(self) -> None:
        self._pooled = Pooled()

    def __call__(self, channels: torch.Tensor) -> None:
        """Take a batch, channels on the second axis."""
        others = [0, *range(2, channels.ndim)]
        variance, mean = torch.var_mean(in_float64(channels), dim=others)
        self._pooled.add(mean, variance, channels.numel() // channels.shape[1])

    def statistics(self) -> Statistics:
        assert self._pooled.mean is not None, "a site is a layer that is called"
        return Statistics(self._pooled.mean, self._pooled.spread.sqrt())


class _Correction:
    """Brings a site to its target batch by batch, and then its layer once and for all.

    Args:
        layer: whose weight and bias are corrected.
        target: the statistics that it is to have.
    """

    def __init__(self, layer: nn.Module, target: Statistics) -> None:
        self._layer, self._pooled = layer, Pooled()
        self._mean, variance = target.mean, target.deviation.square()
        self._eps = _EPS * float(variance.mean()) + _TINY
        self._deviation = (variance + self._eps).sqrt()

    def __call__(self, channels: torch.Tensor) -> torch.Tensor:
        """Take a batch, channels on the second axis, and return it corrected."""
        deviation, wanted = self._deviation.to(channels), self._mean.to(channels)
        mean, variance = channels.new_zeros((2, channels.shape[1])).unbind()
        # A BatchNorm in train mode, with momentum 1: the quickest way to the statistics as well.
        corrected = F.batch_norm(channels, mean, variance, deviation, wanted, True, 1.0, self._eps)
        count = channels.numel() // channels.shape[1]
        self._pooled.add(mean, variance, count)
        if self._layer._parameters.get("bias") is not None:
            return corrected
        scale = deviation * (variance * ((count - 1) / count) + self._eps).rsqrt()
        return scaled(channels, scale, None, last=False)

    def write(self) -> None:
        """Scale and shift the layer."""
        assert self._pooled.mean is not None, "a site is a layer that is called"
        scale = self._deviation * (self._pooled.spread + self._eps).rsqrt()
        rescale(self._layer, scale, self._mean - scale * self._pooled.mean)


@contextmanager
def _listening(module: nn.Module, listeners: Mapping[Site, Listener]) -> Iterator[None]:
    """Show each listener what its site gives, and pass on what it returns instead."""

    def hear(site: Site, listener: Listener, _: Any, __: Any, output: torch.Tensor) -> Any:
        found = listener(output.reshape(-1, output.shape[-1]) if site.last else output)
        return None if found is None else found.reshape(output.shape)

    hooks = [
        module.get_submodule(site.tap).register_forward_hook(partial(hear, site, listener))
        for site, listener in listeners.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
