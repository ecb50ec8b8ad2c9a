"""Operations that share a rule, each called by its name in ATen."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import nn

from mergekit_perm.derive import Derivation, derivation, interpret, verify
from mergekit_perm.derive.rules import RULES
from mergekit_perm.derive.rules.elementwise import BROADCASTING, UNARY
from tests.derive.tiny import VECTOR, Net, groups, weight

COMPLEX = {"_conj", "conj", "conj_physical", "resolve_conj", "real", "imag", "angle"}
BITWISE = {"bitwise_not", "bitwise_and", "bitwise_or", "bitwise_xor"}
OFF = {"dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout"}
# What an operation needs after its tensors.
MORE: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(OFF, (0.5, False)),
    "threshold": (0.1, 2.0),
    "masked_fill": (0.5,),
    "to": (torch.float64,),
    "full_like": (2.0,),
    "new_full": ([2, 6], 2.0),
    "new_zeros": ([2, 6],),
    "new_ones": ([2, 6],),
    "new_empty": ([2, 6],),
}
FOURIER = {name for name in RULES if name.startswith("fft_")}
FILLED = {
    *("zeros_like", "ones_like", "full_like", "empty_like"),
    *("new_zeros", "new_ones", "new_full", "new_empty"),
}
CONSTANTS = {"zeros", "ones", "full", "empty", "scalar_tensor"}
HERE = {*UNARY, *BROADCASTING, *FILLED, *CONSTANTS, *FOURIER}


def operands(name: str, h: torch.Tensor, p: torch.Tensor) -> list[torch.Tensor]:
    """The tensors that an operation takes, made of a hidden layer and of a parameter."""
    if name in BITWISE:
        h, p = h > 0, p > 0
    if name in COMPLEX:
        h = torch.complex(h, h)
    if name in ("addcdiv", "addcmul", "lerp"):
        return [h, p, p]
    if name in ("where", "masked_fill"):
        return [h > 0, h, p] if name == "where" else [h, h > 0]
    return [h, p] if name in BROADCASTING else [h, h.sin()] if name == "type_as" else [h]


def sum_of(names: Iterable[str]) -> Net:
    """A network that adds up the results of operations on its hidden layer."""

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        h = m.a(x)
        total = h
        for name in sorted(names):
            result = getattr(torch.ops.aten, name)(*operands(name, h, m.p), *MORE.get(name, ()))
            result = result.abs() if result.is_complex() else result.to(h.dtype)
            result = torch.tanh(result.nan_to_num()) * (0 if "empty" in name else 1)
            total = total + (result.sum() if name in FOURIER else result)
        return m.z(total)

    return Net(forward, a=nn.Linear(4, 6), p=weight(6), z=nn.Linear(6, 3))


def derived(names: Iterable[str]) -> Derivation:
    found = derivation(sum_of(names), inputs=torch.randn(VECTOR))
    assert not found.unruled and set(names) <= set(found.ruled)
    return found


@pytest.mark.parametrize("names", [UNARY - {"bernoulli"}, BROADCASTING, FILLED])
def test_elementwise_operations(names: frozenset[str]) -> None:
    found = derived(names)
    assert groups(found.spec) == "6"
    assert verify(found.spec, sum_of(names), torch.randn(VECTOR)).difference < 1e-12


def test_drawing_from_probabilities_is_elementwise() -> None:
    assert groups(derived({"bernoulli", "sigmoid"}).spec) == "6"


def test_transforms_keep_the_axes_they_work_on() -> None:
    assert groups(derived(FOURIER).spec) == ""


def test_constants_too_large_to_compute_are_constant_by_rule(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(interpret, "_MOST_ENTRIES", 0)
    made = {
        "zeros": lambda: torch.zeros(6),
        "ones": lambda: torch.ones(6),
        "full": lambda: torch.full((6,), 3.0),
        "empty": lambda: torch.empty(6).nan_to_num() * 0,
        "scalar_tensor": lambda: torch.scalar_tensor(2.0),
    }
    net = Net(lambda m, x: m.z(sum((f() for f in made.values()), m.a(x))),
              a=nn.Linear(4, 6), z=nn.Linear(6, 3))  # fmt: skip
    found = derivation(net, inputs=torch.randn(VECTOR))
    assert groups(found.spec) == "6" and made.keys() <= found.ruled.keys()
