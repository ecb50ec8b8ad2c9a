"""Negative controls: a group passes when, and only when, the outputs depend on what it moves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from mergekit_perm import derive
from mergekit_perm.derive.controls import Controls, to_first_order
from mergekit_perm.derive.exact import float64_throughout
from mergekit_perm.derive.generic import make_generic
from mergekit_perm.derive.moving import moved_alone
from mergekit_perm.derive.trial import Trial
from mergekit_perm.errors import PermutationSpecError
from mergekit_perm.permspec import PermutationSpec

torch.set_num_threads(1)

HEAD = "format: perm-merge/permspec@1\n"
HIDDEN = """groups: {hidden: 6}
axes:
  a.weight: [hidden, 4]
  a.bias: [hidden]
  b.weight: [2, hidden]
"""


class Two(nn.Module):
    """Two layers with a function of the hidden units in between."""

    def __init__(self, between: Callable[[torch.Tensor], torch.Tensor] = torch.relu) -> None:
        super().__init__()
        self.a, self.b, self.between = nn.Linear(4, 6), nn.Linear(6, 2), between

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.between(self.a(x)))


def verify(text: str, module: nn.Module, *shape: int) -> derive.Proof:
    inputs = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    return derive.verify(PermutationSpec.loads(HEAD + text), module, inputs)


def test_a_control_is_the_speed_at_which_the_outputs_start_to_change() -> None:
    torch.manual_seed(0)
    module, inputs = Two(torch.sin), torch.randn(5, 4, dtype=torch.float64)
    spec = PermutationSpec.loads(HEAD + HIDDEN.replace("  a.bias: [hidden]\n", ""))
    spec = spec.bind({name: tuple(t.shape) for name, t in module.state_dict().items()})
    with float64_throughout():
        trial = Trial(make_generic(module, inputs, seed=0), spec, inputs)
        measured = to_first_order(trial, 1e-7).changes["hidden"]
        before = trial.run().outputs[0]
        noise = torch.randn(before.shape, generator=torch.Generator().manual_seed(0))
        speeds = []
        for name in ("a.weight", "b.weight"):
            tensor = trial.tensors[name].detach()
            value, step = tensor.clone(), 1e-7
            tensor += step * (moved_alone(value, spec.axes[name], spec.groups, "hidden") - value)
            change = (noise * (trial.run().outputs[0] - before)).sum() / before.norm() / step
            speeds.append(float(change.abs()))
            tensor.copy_(value)
    # The tensor nearest to the outputs is the first whose gradient arrives.
    assert measured == pytest.approx(speeds[1], rel=1e-5)
    assert measured != pytest.approx(speeds[0], rel=1e-2)


def test_every_element_moves_to_the_next_place_and_nothing_else_does() -> None:
    groups = PermutationSpec.loads(
        HEAD + "groups: {h: 2, d: {size: 3, within: h}}\naxes: {w: [d + d + 2, d]}\n"
    )
    value = torch.arange(14.0)[:, None].expand(14, 6)
    by_heads = moved_alone(value, groups.axes["w"], groups.groups, "h")
    within = moved_alone(value, groups.axes["w"], groups.groups, "d")
    rest = list(range(6, 14))
    assert by_heads[:, 0].tolist() == [3, 1, 2, 0, 4, 5, *rest]  # one place per element is enough
    assert within[:, 0].tolist() == [1, 2, 0, 4, 5, 3, *rest]


def test_the_inner_permutation_of_a_grouped_convolution_moves() -> None:
    spec = PermutationSpec.loads(
        HEAD + "groups: {o: 2, i: {size: 3, within: o}}\naxes: {w: [o * 2, inner(i), 1, 1]}\n"
    )
    value = torch.arange(12.0).view(4, 3, 1, 1)
    moved = moved_alone(value, spec.axes["w"], spec.groups, "i")
    assert moved.equal(value[:, [1, 2, 0]])


def test_the_passes_do_not_grow_with_the_number_of_groups() -> None:
    def passes(count: int) -> int:
        names = [f"g{place}" for place in range(count)]
        text = f"groups: {{{', '.join(f'{name}: 2' for name in names)}}}\naxes:\n"
        text += f"  a.weight: [{' + '.join(names)}, 4]\n  a.bias: [{' + '.join(names)}]\n"
        text += f"  b.weight: [2, {' + '.join(names)}]\n"
        module = Two()
        module.a, module.b = nn.Linear(4, 2 * count), nn.Linear(2 * count, 2)
        calls: list[None] = []
        module.register_forward_hook(lambda *_: calls.append(None))
        proof = verify(text, module, 50, 4)
        assert len(proof.controls) == count and not proof.finite
        return len(calls)

    assert passes(1) == passes(40) <= 8


class Detached(nn.Module):
    """Leaves the graph after each layer, so that no tensor has a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.from_numpy(self.a(x).detach().numpy()).sin()
        return self.b(hidden).detach()


def test_a_network_that_is_not_differentiable_has_finite_controls() -> None:
    proof = verify(HIDDEN, Detached(), 5, 4)
    assert proof.finite == ["hidden"] and proof.controls["hidden"] > 1e-6


class Statistics(nn.Module):
    """A norm without affine terms, given the same number in every channel."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6, affine=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x[:, :1].expand(-1, 6)).sin().sum(1)


def test_running_statistics_have_no_gradient_but_a_finite_control() -> None:
    proof = verify("groups: {c: 6}\naxes: {norm.*: [c]}\n", Statistics(), 5, 1)
    assert proof.finite == ["c"] and proof.controls["c"] > 1e-6


class Head(Two):
    """Has a second head that runs in training mode only."""

    def __init__(self) -> None:
        super().__init__()
        self.aux = Two()

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        return (super().forward(x), self.aux(x)) if self.training else super().forward(x)


AUX = """groups: {hidden: 6, aux: 6}
axes:
  a.weight: [hidden, 4]
  a.bias: [hidden]
  b.weight: [2, hidden]
  aux.a.weight: [aux, 4]
  aux.a.bias: [aux]
  aux.b.weight: [2, aux]
"""


def test_a_group_that_counts_in_training_mode_only_is_controlled_there() -> None:
    proof = verify(AUX, Head(), 5, 4)
    assert min(proof.controls.values()) > 1e-6 and proof.finite == []
    assert proof.training_difference is not None and proof.training_difference < 1e-13


def test_a_wrong_axis_of_what_runs_in_training_mode_only_is_found_there() -> None:
    with pytest.raises(PermutationSpecError, match="function of the network in training mode") as e:
        verify(AUX.replace("  aux.a.bias: [aux]\n", ""), Head(), 5, 4)
    assert "aux (" in str(e.value) and "hidden (" not in str(e.value)


def asleep() -> Two:
    module = Two()
    with torch.no_grad():
        module.a.bias.fill_(-50.0)
    return module


def test_a_group_that_sleeps_is_woken_and_then_proven() -> None:
    proof = verify(HIDDEN, asleep(), 5, 4)
    assert proof.controls["hidden"] > 1e-6 and proof.finite == []
    for dropped in ("  a.bias: [hidden]\n", "  b.weight: [2, hidden]\n"):
        with pytest.raises(PermutationSpecError, match=r"changes the function|moves nothing"):
            verify(HIDDEN.replace(dropped, ""), asleep(), 5, 4)


def test_one_tensor_alone_may_carry_a_symmetry() -> None:
    """The squared length of what a layer gives does not care for the order of its rows."""

    class Length(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 6, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.a(x).square().sum(-1)

    proof = verify("groups: {rows: 6}\naxes: {a.weight: [rows, 4]}\n", Length(), 5, 4)
    assert proof.difference < 1e-14 and proof.controls["rows"] > 1e-6


def test_a_group_of_two_always_moves() -> None:
    """A random move of two elements would stay put half of the time."""
    text = HIDDEN.replace("hidden: 6", "hidden: 2")
    module = Two()
    module.a, module.b = nn.Linear(4, 2), nn.Linear(2, 2)
    assert verify(text, module, 50, 4).controls["hidden"] > 1e-6


def test_what_is_not_a_number_is_no_evidence() -> None:
    found = Controls(1e-7, {"a": 0.0, "b": 1e-8, "c": 1.0})
    assert found.missing() == ["a", "b"]
