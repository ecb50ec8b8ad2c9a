"""Running a network exactly and repeatably, so that a check of its symmetry can be trusted.

Casts to float32 inside a network drown the difference between right and wrong in rounding; caches
answer for weights that are gone; dropout permutes with nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

_WIDER = {
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.float32: torch.float64,
    torch.complex32: torch.complex128,
    torch.complex64: torch.complex128,
}
_CASTS: Mapping[Any, Callable[..., Any]] = {
    getattr(torch.Tensor, narrow): getattr(torch.Tensor, wide)
    for narrow, wide in {
        "half": "double",
        "bfloat16": "double",
        "float": "double",
        "chalf": "cdouble",
        "cfloat": "cdouble",
    }.items()
}


class _Widening(TorchFunctionMode):
    """Answers every request for a narrower floating type with float64 or complex128.

    That covers `.float()`, `.to(torch.float32)`, `.type(...)`, `softmax(..., dtype=...)` and
    `arange(..., dtype=...)` alike. Autocast never touches float64 tensors, so it needs no help.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call `func` with every data type among its arguments widened."""
        wide = {name: _widened(value) for name, value in (kwargs or {}).items()}
        return _CASTS.get(func, func)(*map(_widened, args), **wide)


def _widened(value: Any) -> Any:
    return _WIDER.get(value, value) if isinstance(value, torch.dtype) else value


@contextmanager
def float64_throughout() -> Iterator[None]:
    """Within the block, a network with float64 weights and inputs computes in float64 only."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Widening():
            yield
    finally:
        torch.set_default_dtype(default)


@contextmanager
def same_draws(seed: int = 0) -> Iterator[None]:
    """Within the block, torch draws the numbers that follow `seed`; its state is restored."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def clear_caches(module: nn.Module) -> None:
    """Empty the dictionaries in which some timm networks keep attention biases between calls."""
    for part in module.modules():
        for name, value in vars(part).items():
            if "cache" in name and isinstance(value, dict):
                value.clear()


def without_dropout(module: nn.Module) -> None:
    """Set every rate of dropout, stochastic depth and the like in `module` to 0, in place.

    Those are the numbers that a module keeps under a name with `drop` in it (`attn_drop`,
    `drop_prob`, `drop_rate`, ...), and any rate (`p`, `prob`) of a module that is named after
    dropout or stochastic depth, be it from torch, timm or torchvision.
    """
    for part in module.modules():
        kind = type(part).__name__.lower()
        drops = "drop" in kind or "stochasticdepth" in kind
        for name, value in list(vars(part).items()):
            rate = "drop" in name or (drops and name in ("p", "prob"))
            if rate and isinstance(value, float):
                setattr(part, name, 0.0)
