"""Small pictures of curves, made of characters."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII = "_.-:=+*#"


def sparkline(values: Sequence[float], *, top: float, width: int = 11, marks: str = BLOCKS) -> str:
    """Return a line of at most `width` marks, the lowest for 0 and below, the highest for `top`.

    Several values that share a mark show their highest, so that no peak is lost. A value that is
    no finite number is an exclamation mark.

    Args:
        values: the curve, at equal distances.
        top: the value of the highest mark; curves drawn with one `top` can be compared.
        width: the most marks.
        marks: from lowest to highest.
    """
    count = min(width, len(values))
    edges = [round(i * len(values) / count) for i in range(count + 1)] if count else []
    return "".join(_mark(values[start:end], top, marks) for start, end in itertools.pairwise(edges))


def _mark(values: Sequence[float], top: float, marks: str) -> str:
    if not all(map(math.isfinite, values)):
        return "!"
    share = max(values) / top if top > 0 else 0.0
    return marks[min(len(marks) - 1, max(0, round(share * (len(marks) - 1))))]


def marks_for(encoding: str) -> str:
    """Return the marks that a terminal with `encoding` can show."""
    try:
        BLOCKS.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return BLOCKS
