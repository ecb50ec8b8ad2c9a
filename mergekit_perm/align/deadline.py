"""A time limit that several searches share."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Deadline:
    """The moment `seconds` from now; None never comes."""

    seconds: float | None = None
    began: float = field(default_factory=time.perf_counter)

    def passed(self) -> bool:
        """Tell whether it is over."""
        limit = math.inf if self.seconds is None else self.seconds
        return time.perf_counter() - self.began > limit
