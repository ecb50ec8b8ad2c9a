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

    def share(self, parts: int) -> Deadline:
        """Return the end of the first of so many equal parts of the time that is left."""
        if self.seconds is None:
            return self
        left = self.seconds - (time.perf_counter() - self.began)
        return Deadline(max(0.0, left) / parts)

    def passed(self) -> bool:
        """Tell whether it is over."""
        limit = math.inf if self.seconds is None else self.seconds
        return time.perf_counter() - self.began > limit
