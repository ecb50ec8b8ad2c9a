"""Building a network without memory for its weights, for looking at its structure.

Parameters are fake tensors while the constructor runs, so initialisation costs nothing, and a
single zero seen at every place afterwards. Buffers (index tables, masks) keep their real values.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn.parameter import is_lazy


def without_weights(make: Callable[[], nn.Module]) -> nn.Module:
    """Return the module that `make` builds, its parameters zero and without memory of their own.

    A constructor that looks at the values of its parameters cannot run like that: it then runs as
    usual, and only the memory is given up.
    """
    try:
        with _fake_parameters(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, about copies of fake tensors
            module = make()
        hollow(module)
    except Exception:  # whatever it was, `make` alone raises it again
        module = make()
        hollow(module)
    return module


def hollow(module: nn.Module) -> None:
    """Replace every parameter of `module`, in place, by zeros that share one element of memory.

    Parameters that are one object stay one object; those without a shape yet stay as they are.
    """
    replaced: dict[int, nn.Parameter] = {}
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None and not is_lazy(parameter):
                if id(parameter) not in replaced:
                    replaced[id(parameter)] = _zero(parameter)
                part._parameters[name] = replaced[id(parameter)]
        for name, buffer in part._buffers.items():
            if isinstance(buffer, FakeTensor):
                raise ValueError(f"buffer '{name}' is computed from parameters")


def _zeros(parameter: torch.Tensor) -> torch.Tensor:
    return torch.zeros((), dtype=parameter.dtype).expand(parameter.shape)


def _zero(parameter: torch.Tensor) -> nn.Parameter:
    zero = _zeros(parameter)
    if parameter.shape[-1:] == (2,):
        zero = zero.contiguous()  # pairs may be viewed as complex numbers, if they lie side by side
    return nn.Parameter(zero, requires_grad=False)


@contextmanager
def _fake_parameters() -> Iterator[None]:
    """Within the block, modules keep fake tensors in place of the parameters they register."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    register = nn.Module.register_parameter
    known: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}

    def faked(parameter: nn.Parameter) -> nn.Parameter:
        if id(parameter) not in known:
            with mode:
                empty = torch.empty(parameter.shape, dtype=parameter.dtype)
                fake = nn.Parameter(empty, requires_grad=parameter.requires_grad)
            parameter.data = _zeros(parameter)  # which gives up its memory
            known[id(parameter)] = (parameter, fake)  # the original keeps its id from being reused
        return known[id(parameter)][1]

    def register_fake(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        real = parameter is not None and not isinstance(parameter, FakeTensor)
        register(module, name, faked(parameter) if real and parameter is not None else parameter)

    with mock.patch.object(nn.Module, "register_parameter", register_fake):
        yield
