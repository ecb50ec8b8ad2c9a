"""The temperature that suits a network: one number that its logits are multiplied by.

Mixed networks are less sure of themselves than the networks they are mixed from, which raises their
loss whatever they predict. The loss at the best temperature (Ito et al., arXiv 2510.08023) leaves
that apart; which class is predicted does not depend on it.
"""

from __future__ import annotations

import torch

# The inverse temperature is looked for between 0 and this: of a network that makes no mistake it
# has no bound.
_HIGHEST = 100.0
_STEPS = 100

# And below this a network knows no more than that classes are equally likely.
_LOWEST = 1e-3
_EXACT = 1e-9


def best_scale(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the inverse temperature, 0 to 100, with the lowest mean cross-entropy.

    The loss is convex in it; its minimum is found by Newton's method within a bracket.

    Args:
        logits: of shape (examples, classes); computed with in their own precision, best float64.
        labels: of shape (examples,).

    Returns:
        1 where logits are not finite, which no temperature changes.
    """
    if not bool(logits.isfinite().all()):
        return 1.0
    centred = logits - logits.gather(1, labels[:, None])
    low, high, scale = 0.0, _HIGHEST, 1.0
    if _slope(centred, high)[0] <= 0:
        return high
    for _ in range(_STEPS):
        slope, bend = _slope(centred, scale)
        low, high = (scale, high) if slope < 0 else (low, scale)
        step = scale - slope / bend if bend > 0 else low
        inside = low < step < high
        following = step if inside else (low + high) / 2
        if abs(following - scale) <= _EXACT * max(1.0, scale):
            return following
        scale = following
    return scale


def finite_scale(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the inverse temperature of `best_scale` where there is one; 1 where there is not.

    There is none if every example is predicted rightly, and of a network that does no better than
    chance: the loss is the lower the surer, or the less sure, it is made.
    """
    scale = best_scale(logits, labels)
    return scale if _LOWEST < scale < _HIGHEST else 1.0


def _slope(centred: torch.Tensor, scale: float) -> tuple[float, float]:
    """Return the first and second derivative of the mean loss by the scale.

    Args:
        centred: logits less that of the label, (examples, classes).
        scale: where.
    """
    shares = (centred * scale).softmax(dim=1)
    mean = (shares * centred).sum(dim=1)
    variance = (shares * centred.square()).sum(dim=1) - mean.square()
    return float(mean.mean()), float(variance.mean())
