"""Small networks, built by hand, compute the same after any member of their symmetry group."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from mergekit_perm.permspec import PermutationSpec

HEAD = "format: perm-merge/permspec@1\n"
State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Case:
    """A network as a function of its state, its spec, and the shapes of inputs and tensors."""

    spec: PermutationSpec
    shapes: dict[str, tuple[int, ...]]
    inputs: tuple[int, ...]
    forward: Callable[[State, torch.Tensor], torch.Tensor]


def mlp(state: State, x: torch.Tensor) -> torch.Tensor:
    x = functional.relu(functional.linear(x, state["fc1.weight"], state["fc1.bias"]))
    x = functional.relu(functional.linear(x, state["fc2.weight"], state["fc2.bias"]))
    return functional.linear(x, state["head.weight"], state["head.bias"])


def flattened(state: State, x: torch.Tensor) -> torch.Tensor:
    x = functional.conv2d(x, state["conv.weight"], state["conv.bias"], padding=1)
    x = functional.batch_norm(
        x, state["norm.mean"], state["norm.var"], state["norm.weight"], state["norm.bias"]
    )
    return functional.linear(functional.relu(x).flatten(1), state["head.weight"])


def grouped(state: State, x: torch.Tensor) -> torch.Tensor:
    """1x1 to 6 channels; a convolution in 2 groups, 3 to 4 channels each; pooled to 3 classes."""
    x = functional.relu(functional.conv2d(x, state["conv1.weight"], state["conv1.bias"]))
    x = functional.conv2d(x, state["conv2.weight"], state["conv2.bias"], padding=1, groups=2)
    return functional.linear(functional.relu(x).mean((2, 3)), state["head.weight"])


def attention(state: State, x: torch.Tensor) -> torch.Tensor:
    """A pre-norm block with 2 heads, 3 wide for q and k and 3 wide for v; stream of 4."""
    x = functional.linear(x, state["embed.weight"]) + state["position"]
    normed = functional.layer_norm(x, (4,), state["norm.weight"], state["norm.bias"])
    qkv = functional.linear(normed, state["qkv.weight"], state["qkv.bias"])
    q, k, v = qkv.unflatten(-1, (3, 2, 3)).permute(2, 0, 3, 1, 4)
    mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    x = x + functional.linear(mixed, state["proj.weight"])
    return functional.linear(x.mean(1), state["head.weight"])


def shuffled(state: State, x: torch.Tensor) -> torch.Tensor:
    """Two copies of the hidden units, shuffled together and then reversed; GLU over the halves."""
    x = functional.relu(functional.linear(x, state["fc1.weight"]))
    both = torch.cat([x, x.square()], dim=1).unflatten(1, (3, 2)).transpose(1, 2).flatten(1).flip(1)
    gated = functional.glu(functional.linear(both, state["glu.weight"]), dim=1)
    return functional.linear(gated, state["head.weight"])


def _case(
    forward: Callable[..., torch.Tensor],
    inputs: tuple[int, ...],
    spec: str,
    **shapes: tuple[int, ...],
) -> Case:
    named = {name.replace("__", "."): shape for name, shape in shapes.items()}
    return Case(PermutationSpec.loads(HEAD + spec), named, inputs, forward)


CASES = {
    "mlp": _case(
        mlp, (5, 4),
        "groups: {a: 5, b: 6}\n"
        "axes: {fc1.weight: [a, 4], fc1.bias: [a], fc2.weight: [b, a], fc2.bias: [b],"
        " head.weight: [3, b]}\n",
        fc1__weight=(5, 4), fc1__bias=(5,), fc2__weight=(6, 5), fc2__bias=(6,),
        head__weight=(3, 6), head__bias=(3,),
    ),
    "conv, flatten, linear": _case(
        flattened, (2, 3, 7, 7),
        "groups: {g: 4}\naxes: {conv.weight: [g, 3, 3, 3], conv.bias: [g], norm.*: [g],"
        " head.weight: [2, g * 49]}\n",
        conv__weight=(4, 3, 3, 3), conv__bias=(4,), norm__mean=(4,), norm__var=(4,),
        norm__weight=(4,), norm__bias=(4,), head__weight=(2, 196),
    ),
    "grouped convolution": _case(
        grouped, (2, 3, 4, 4),
        "groups: {c: 2, in: {size: 3, within: c}, out: {size: 4, within: c}}\n"
        "axes: {conv1.weight: [in, 3, 1, 1], conv1.bias: [in],"
        " conv2.weight: [out, inner(in), 3, 3], conv2.bias: [out], head.weight: [3, out]}\n",
        conv1__weight=(6, 3, 1, 1), conv1__bias=(6,), conv2__weight=(8, 3, 3, 3),
        conv2__bias=(8,), head__weight=(3, 8),
    ),
    "attention": _case(
        attention, (2, 5, 3),
        "groups: {s: 4, h: 2, qk: {size: 3, within: h}, vo: {size: 3, within: h}}\n"
        "axes: {embed.weight: [s, 3], position: [5, s], norm.*: [s],"
        " qkv.weight: [qk + qk + vo, s], qkv.bias: [qk + qk + vo], proj.weight: [s, vo],"
        " head.weight: [2, s]}\n",
        embed__weight=(4, 3), position=(5, 4), norm__weight=(4,), norm__bias=(4,),
        qkv__weight=(18, 4), qkv__bias=(18,), proj__weight=(4, 6), head__weight=(2, 4),
    ),
    "shuffle and glu": _case(
        shuffled, (5, 4),
        "groups: {a: 3, b: 4}\n"
        'axes: {fc1.weight: [a, 4], glu.weight: [b + b, "(a + a)[[0, 2, 4, 1, 3, 5]][::-1]"],'
        " head.weight: [2, b]}\n",
        fc1__weight=(3, 4), glu__weight=(8, 6), head__weight=(2, 4),
    ),
}  # fmt: skip


def draw(case: Case, seed: int) -> tuple[State, torch.Tensor]:
    """A state in float64 with nothing at its default, variances positive, and inputs."""
    generator = torch.Generator().manual_seed(seed)

    def normal(shape: tuple[int, ...]) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    state = {name: normal(shape) for name, shape in case.shapes.items()}
    if "norm.var" in state:
        state["norm.var"] = state["norm.var"].square() + 0.5
    return state, normal(case.inputs)


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    scale = float(a.abs().max()) or 1.0  # a ReLU may be off for all of the few examples
    return float((a - b).abs().max()) / scale


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_members_leave_the_function_as_it_was(name: str, seed: int) -> None:
    case = CASES[name]
    state, x = draw(case, seed)
    member = case.spec.random(generator=np.random.default_rng(seed))
    moved = case.spec.apply(member, state)
    assert difference(case.forward(state, x), case.forward(moved, x)) < 1e-12


@pytest.mark.parametrize("name", CASES)
def test_one_tensor_left_behind_changes_the_function(name: str) -> None:
    case = CASES[name]
    state, x = draw(case, 0)
    bound = case.spec.bind(case.shapes)
    before = case.forward(state, x)
    for group in bound.groups:
        # A member under which the group moves every one of its own elements, block by block.
        size = bound.groups[group].size
        within = bound.groups[group].within
        cycle = np.roll(np.arange(size), 1)
        own = cycle if within is None else np.tile(cycle, (bound.groups.length(within), 1))
        moved = bound.apply(bound.permutations({group: own}), state)
        assert difference(before, case.forward(moved, x)) < 1e-12
        for tensor in bound.carriers(group):
            assert not torch.equal(moved[tensor], state[tensor])
            half = {**moved, tensor: state[tensor]}
            assert difference(before, case.forward(half, x)) > 1e-6, (group, tensor)


@pytest.mark.parametrize(
    ("name", "tensor", "row"),
    [
        ("mlp", "fc1.bias", "[5]"),
        ("conv, flatten, linear", "head.weight", "[2, 49 * g]"),
        ("grouped convolution", "conv2.weight", "[out, 3, 3, 3]"),
        ("attention", "qkv.bias", "[qk + vo + qk]"),
        ("attention", "proj.weight", "[s, qk]"),
        ("shuffle and glu", "glu.weight", "[b + b, a + a]"),
        (
            "shuffle and glu",
            "glu.weight",
            "[b * 2, '(a + a)[[0, 2, 4, 1, 3, 5]][::-1]']",
        ),
    ],
)
def test_a_wrong_expression_changes_the_function(name: str, tensor: str, row: str) -> None:
    case = CASES[name]
    other = PermutationSpec.loads(_with(case.spec, tensor, row))
    assert other != case.spec
    state, x = draw(case, 1)
    worst = 0.0
    for seed in range(5):
        member = other.random(generator=np.random.default_rng(seed))
        moved = other.apply(member, state)
        worst = max(worst, difference(case.forward(state, x), case.forward(moved, x)))
    assert worst > 1e-3


def _with(spec: PermutationSpec, tensor: str, row: str) -> str:
    lines = spec.dumps().splitlines()
    return "\n".join(
        f"  {tensor}: {row}" if line.startswith(f"  {tensor}: ") else line for line in lines
    )


def test_the_conv_case_agrees_with_torch_modules() -> None:
    module = (
        nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(196, 2, bias=False),
        )
        .double()
        .eval()
    )
    names = {"0": "conv", "1": "norm", "4": "head", "running_mean": "mean", "running_var": "var"}
    state = {}
    for name, tensor in module.state_dict().items():
        layer, _, kind = name.partition(".")
        state[f"{names[layer]}.{names.get(kind, kind)}"] = tensor
    x = draw(CASES["conv, flatten, linear"], 0)[1]
    assert torch.allclose(module(x), flattened(state, x), atol=1e-14)
