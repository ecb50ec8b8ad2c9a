"""Counting operations: an accelerator takes as long to begin with a small one as with a large."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

_VIEWS = ("view", "reshape", "split_with_sizes", "slice", "alias", "detach", "expand")


class Operations(TorchDispatchMode):
    """Counts, within its block, what a device would have to begin with; views are not.

    Attributes:
        times: how often, by the name of the operation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.times: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name not in _VIEWS:
            self.times[name] += 1
        return func(*args, **(kwargs or {}))
