"""Numbers as they are shown: rounded here, and nowhere else."""

from __future__ import annotations

import math


def number(value: float | None, *, metric: str = "loss") -> str:
    """Return `value` as it is shown: a loss with four decimals, an error in percent."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return str(value)
    if metric == "error":
        return f"{_unsigned_zero(round(100 * value, 2)):.2f} %"
    return f"{_unsigned_zero(round(value, 4)):.4f}" if abs(value) < 1000 else f"{value:.3e}"


def exact(value: float, *, metric: str = "loss") -> str:
    """Return `value` with six digits, for a verdict that four decimals could hide."""
    return f"{100 * value:.6g} %" if metric == "error" else f"{value:.6g}"


def _unsigned_zero(value: float) -> float:
    return value + 0.0  # -0.0 + 0.0 is 0.0: a rounded "-0.0000" would look like a gain
