"""Networks compute in float64 throughout, from no stale cache, and drop nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm.layers
import torch
import torchvision
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mergekit_perm import derive
from mergekit_perm.derive.exact import (
    clear_caches,
    float64_throughout,
    same_draws,
    without_dropout,
)
from mergekit_perm.derive.generic import make_generic

torch.set_num_threads(1)

CASTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "float": lambda x: x.float(),
    "half": lambda x: x.half(),
    "bfloat16": lambda x: x.bfloat16(),
    "to, by place": lambda x: x.to(torch.float32),
    "to, by name": lambda x: x.to(dtype=torch.float16),
    "type": lambda x: x.type(torch.float32),
    "softmax": lambda x: functional.softmax(x, -1, dtype=torch.float32),
    "cumsum": lambda x: x.cumsum(0, dtype=torch.float32),
    "new_zeros": lambda x: x.new_zeros(2, dtype=torch.float32),
    "arange": lambda x: torch.arange(3, dtype=torch.float32),
    "linspace": lambda x: torch.linspace(0, 1, 3),
    "tensor": lambda x: torch.tensor(0.1),
    "real part": lambda x: x.to(torch.complex64).real,
    "linear": lambda x: functional.linear(x.float(), x.to(torch.float32)),
}


@pytest.mark.parametrize("cast", CASTS.values(), ids=CASTS)
def test_no_cast_leaves_float64(cast: Callable[[torch.Tensor], torch.Tensor]) -> None:
    x = torch.randn(4, 4, dtype=torch.float64)
    with float64_throughout():
        assert cast(x).dtype == torch.float64
    assert x.float().dtype == torch.float32


def test_autocast_leaves_float64_alone() -> None:
    x = torch.randn(4, 4, dtype=torch.float64)
    with float64_throughout(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert functional.linear(x, x).dtype == torch.float64
        assert (x @ x).softmax(-1).equal(functional.linear(x, x.T).softmax(-1))


def test_the_default_type_comes_back_even_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), float64_throughout():
        assert torch.zeros(1).dtype == torch.float64
        raise ZeroDivisionError
    assert torch.zeros(1).dtype == torch.float32


class Narrow(TorchDispatchMode):
    """Records the operations that give a tensor narrower than float64."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.is_floating_point():
                self.found += [str(func)] * (leaf.dtype != torch.float64)
        return result


@pytest.mark.parametrize("name", ["edgenext_xx_small", "test_vit_relpos", "efficientvit_b0"])
def test_networks_compute_in_float64_only(name: str) -> None:
    fresh = derive.probe(name, {})
    module, inputs = fresh.module, fresh.inputs
    make_generic(module, inputs.double(), seed=0)
    with float64_throughout(), torch.no_grad(), Narrow() as narrow:
        assert module(inputs.double()).dtype == torch.float64
    assert narrow.found == []


def test_cleared_caches_do_not_answer_for_weights_that_are_gone() -> None:
    fresh = derive.probe("efficientvit_m0", {})
    module, inputs = fresh.module, fresh.inputs
    inputs = inputs.double()
    make_generic(module, inputs, seed=0)
    biases = next(p for name, p in module.named_parameters() if "attention_biases" in name)
    with torch.no_grad():
        before = module(inputs)
        biases.add_(torch.randn(biases.shape).double())
        assert module(inputs).equal(before)
        clear_caches(module)
        assert not module(inputs).equal(before)


DROPPING: dict[str, Callable[[], nn.Module]] = {
    "Dropout": lambda: nn.Dropout(0.5),
    "Dropout2d": lambda: nn.Dropout2d(0.5),
    "AlphaDropout": lambda: nn.AlphaDropout(0.5),
    "FeatureAlphaDropout": lambda: nn.FeatureAlphaDropout(0.5),
    "timm's DropPath": lambda: timm.layers.DropPath(0.5),
    "timm's DropBlock2d": lambda: timm.layers.DropBlock2d(0.5, block_size=2),
    "torchvision's StochasticDepth": lambda: torchvision.ops.StochasticDepth(0.5, "row"),
    "torchvision's DropBlock2d": lambda: torchvision.ops.DropBlock2d(0.5, 3),
    "within another": lambda: nn.Sequential(nn.Sequential(nn.Dropout(0.9)), nn.ReLU()),
}


@pytest.mark.parametrize("make", DROPPING.values(), ids=DROPPING)
def test_without_dropout_nothing_is_dropped(make: Callable[[], nn.Module]) -> None:
    module, x = make().train(), torch.rand(6, 4, 8, 8)
    assert not module(x).equal(x)
    without_dropout(module)
    assert module(x).equal(x)


def test_without_dropout_tokens_attention_and_recurrence_keep_everything() -> None:
    tokens = torch.rand(2, 9, 4)
    patches = timm.layers.PatchDropout(0.5, num_prefix_tokens=0)
    attention = nn.MultiheadAttention(4, 2, dropout=0.5, batch_first=True)
    recurrence = nn.LSTM(4, 4, num_layers=2, dropout=0.5, batch_first=True)
    for module in (patches, attention, recurrence):
        without_dropout(module.train())
    assert patches(tokens).equal(tokens)
    for call in (lambda: attention(tokens, tokens, tokens)[0], lambda: recurrence(tokens)[0]):
        assert call().equal(call())


def test_rates_that_a_network_keeps_to_itself_become_zero() -> None:
    module = timm.create_model("test_efficientnet", drop_rate=0.5, drop_path_rate=0.5).train()
    x = torch.randn(2, 3, 32, 32)
    assert not module(x).equal(module(x))
    without_dropout(module)
    assert module(x).equal(module(x))


def test_draws_are_the_same_and_leave_the_global_state_alone() -> None:
    state = torch.random.get_rng_state()
    drawn = []
    for seed in (0, 0, 1):
        with same_draws(seed):
            drawn.append(torch.rand(3))
    assert drawn[0].equal(drawn[1]) and not drawn[0].equal(drawn[2])
    assert torch.random.get_rng_state().equal(state)
