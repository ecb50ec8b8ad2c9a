"""Sinkhorn's scaling of scores to doubly stochastic matrices, and its gradient."""

from __future__ import annotations

from typing import Any

import torch

from mergekit_perm.align.soft_members import doubly_stochastic

# Added to the diagonal of a system that is singular by one direction in which nothing changes, and
# by more the closer it comes to a permutation.
_RIDGE = 1e-10


class _Scaling(torch.autograd.Function):
    """Sinkhorn's scaling; its gradient is that of the point where rows and columns stay put."""

    @staticmethod
    def forward(ctx: Any, scores: torch.Tensor, iterations: int) -> torch.Tensor:
        scaled = doubly_stochastic(scores, iterations)
        ctx.save_for_backward(scaled)
        return scaled

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (scaled,) = ctx.saved_tensors
        return _pulled_back(scaled, gradients[0]), None


def scaled(scores: torch.Tensor, iterations: int) -> torch.Tensor:
    """Return exp(scores), shape (..., n, n), with rows and columns scaled in turn to sum to 1.

    The gradient is by implicit differentiation (arXiv 2212.12042): exact for a scaling that has
    converged, at the cost of one linear system however many `iterations` there were.
    """
    result: torch.Tensor = _Scaling.apply(scores, iterations)
    return result


def _pulled_back(scaled: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Return the gradient with respect to the scores.

    With P = exp(scores + u + v), u and v keeping the sums r of rows and c of columns as they are,
    it is P * (G - a - b) where row and column sums of that are 0; a is eliminated.
    """
    rows, columns = scaled.sum(-1), scaled.sum(-2)
    flow = scaled * gradient
    across = scaled.mT / rows[..., None, :]
    system = torch.diag_embed(columns + _RIDGE) - across @ scaled
    known = flow.sum(-2) - (across @ flow.sum(-1)[..., None])[..., 0]
    b = torch.linalg.solve(system, known)
    a = (flow.sum(-1) - (scaled @ b[..., None])[..., 0]) / rows
    pulled: torch.Tensor = scaled * (gradient - a[..., :, None] - b[..., None, :])
    return pulled
