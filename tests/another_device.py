"""A device that is none: it computes on the CPU, and refuses to with tensors that are not on it.

An accelerator refuses them as well, so that what runs here keeps its tensors together there. It
computes exactly as the CPU does: figures have to agree to the last bit.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch.utils import _pytree, backend_registration

NAME = "elsewhere"

aten = torch.ops.aten

# Indices of a tensor on a device may be on the CPU.
_INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}

# What brings tensors from one device to another.
_MOVING = {aten.copy_.default, aten._to_copy.default}


@cache
def device() -> torch.device:
    """Return the device, which PyTorch knows from then on."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Backend())
    library = torch.library.Library("aten", "IMPL")
    for name, function in _FACTORIES.items():
        library.impl(name, _placed(function), dispatch_key="PrivateUse1")
    library.impl("_copy_from", _copy_from, dispatch_key="PrivateUse1")
    _LIBRARIES.append(library)  # what it has registered goes when it goes
    return torch.device(NAME, 0)


class Elsewhere(torch.Tensor):
    """A tensor of the device.

    Attributes:
        here: what it holds, on the CPU.
    """

    here: torch.Tensor

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, here: torch.Tensor) -> Elsewhere:
        made = torch.Tensor._make_wrapper_subclass(
            cls, here.shape, strides=here.stride(), storage_offset=here.storage_offset(),
            dtype=here.dtype, device=device(),
        )  # fmt: skip
        made.here = here
        return made

    @classmethod
    def __torch_dispatch__(cls, op: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run `op` on what its tensors hold."""
        kwargs = kwargs or {}
        asked = kwargs.get("device")
        holders: dict[int, Elsewhere] = {}

        def held(value: Any) -> Any:
            if isinstance(value, Elsewhere):
                holders[id(value.here)] = value
                return value.here
            if isinstance(value, torch.Tensor) and value.ndim and op not in _MOVING | _INDEXING:
                raise RuntimeError(f"{op}: a tensor {list(value.shape)} is not on this device")
            return _on_cpu(value)

        def holding(value: Any) -> Any:
            if not isinstance(value, torch.Tensor) or asked == torch.device("cpu"):
                return value
            if op._schema.is_mutable and id(value) in holders:
                return holders[id(value)]
            return Elsewhere(value)

        given, options = _pytree.tree_map(held, (args, kwargs))
        result = op(*given, **options)
        return args[0] if op is aten.copy_.default else _pytree.tree_map(holding, result)

    def __deepcopy__(self, memo: Any) -> Elsewhere:
        made = Elsewhere(copy.deepcopy(self.here.detach(), memo))
        made._is_param = getattr(self, "_is_param", False)
        return made.requires_grad_(self.requires_grad)

    def data_ptr(self) -> int:
        return self.here.data_ptr()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.here.untyped_storage()

    def tolist(self) -> Any:
        return self.here.tolist()


class _Backend:
    """What PyTorch asks of a device's module."""

    def is_available(self) -> bool:
        return True

    is_initialized = is_available

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        """There are no generators."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


def _on_cpu(value: Any) -> Any:
    there = isinstance(value, torch.device) and value.type == NAME
    return torch.device("cpu") if there else value


def _placed(function: Callable[..., torch.Tensor]) -> Callable[..., Elsewhere]:
    """Return a function that makes its tensor on the device."""

    def make(*args: Any, dtype: Any = None, memory_format: Any = None, **_: Any) -> Elsewhere:
        options = {} if memory_format is None else {"memory_format": memory_format}
        return Elsewhere(function(*args, dtype=dtype, **options))

    return make


def _copy_from(source: torch.Tensor, target: torch.Tensor, _: bool = False) -> torch.Tensor:
    ours, theirs = (t.here if isinstance(t, Elsewhere) else t for t in (source, target))
    theirs.copy_(ours)
    return target


_FACTORIES: dict[str, Callable[..., torch.Tensor]] = {
    "empty.memory_format": torch.empty,
    "empty_strided": torch.empty_strided,
    "arange": torch.arange,
    "arange.start": torch.arange,
    "arange.start_step": torch.arange,
    "eye": torch.eye,
    "eye.m": torch.eye,
}

_LIBRARIES: list[torch.library.Library] = []
