"""Deriving as a whole: what is refused, what is said of what stays, and what is left alone."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mergekit_perm import derive
from mergekit_perm.axes import Fixed, Whole
from mergekit_perm.axis_text import format_axis
from mergekit_perm.derive import derivation, interpret, primitives, rules, trace
from mergekit_perm.derive import parameters as inputs_of
from mergekit_perm.derive.facts import Facts
from mergekit_perm.derive.labels import Labels
from mergekit_perm.derive.primitives import concatenating
from mergekit_perm.errors import DerivationError, PermutationSpecError
from tests.derive.cases import attention, parameters
from tests.derive.tiny import VECTOR, Net, groups, hidden, weight

X = torch.randn(VECTOR)


def layers(function: Any, out: int = 6, **more: Any) -> Net:
    return hidden("", function, out, **more).net()


class Renormed(nn.Module):
    """Has an operation without a rule, and constants in the way."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.z = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.idle = nn.Linear(2, 2)
        self.register_buffer("scale", torch.rand(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.a(x).tanh()
        h = self.b(h).renorm(2, 0, 1.0)  # here
        return self.z(h)


# ------------------------------------------------------------------- operations without a rule


def test_an_operation_without_a_rule_freezes_what_touches_it() -> None:
    found = derivation(Renormed(), inputs=X)
    assert groups(found.spec) == "6" and found.unruled == {"renorm": 1}
    assert found.spec.axes["b.weight"] == (Fixed(6), Whole("a"))
    lines = Path(__file__).read_text().splitlines()
    line = next(number for number, text in enumerate(lines, 1) if text.endswith("# here"))
    reason = f"meets an operation without a rule in renorm (test_engine.py:{line})"
    assert found.spec.fixed["b.weight"] == found.spec.fixed["b.bias"] == f"axis 0: {reason}"


def test_strict_refuses_operations_without_a_rule() -> None:
    net = layers(lambda h: h.renorm(2, 0, 1.0) + (h + 1).renorm(2, 0, 1.0))
    said = r"no rule for renorm \(2x, first in tiny.py:\d+\); without `strict` what"
    with pytest.raises(DerivationError, match=said):
        derive.derive(net, inputs=X, strict=True)
    assert derive.derive(layers(torch.tanh), inputs=X, strict=True).groups


def test_rules_count_how_often_they_are_used() -> None:
    found = derivation(layers(lambda h, m: m.b(m.b(h)), b=nn.Linear(6, 6)), inputs=X)
    assert found.ruled == {"linear": 4, "tanh": 1} and found.unruled == {}
    assert found.seconds.keys() == {"build", "trace", "solve"}
    assert min(found.seconds.values()) >= 0


# ------------------------------------------------------------------------------- what is fixed


def test_reasons_name_axes_and_operations() -> None:
    fixed = derive.derive(Renormed(), inputs=X).fixed
    assert fixed["idle.weight"] == "axes 0, 1: not read by the network"
    assert fixed["z.bias"].startswith("axis 0: output of the network in linear (test_engine.py:")
    assert fixed["a.weight"].startswith("axis 1: meets inputs of the network in linear (test_")
    output, _, other = fixed["z.weight"].partition("; ")
    assert output == fixed["z.bias"]
    lost = r"axis 1: meets what renorm \(test_engine.py:\d+\) gives in linear \(test_engine.py:"
    assert re.match(lost, other)
    fixed = derive.derive(layers(lambda h, m: h * m.p, p=torch.rand(6)), inputs=X).fixed
    assert fixed["a.bias"].startswith("axis 0: meets constants in mul (")


def test_what_a_network_chooses_alone_says_where() -> None:
    fixed = derive.derive(layers(lambda h: h + h[:, 2:3]), inputs=X).fixed
    assert fixed["a.bias"].startswith("axis 0: set apart in slice (tiny.py:")
    fixed = derive.derive(layers(lambda h: h + h.roll(1, -1)), inputs=X).fixed
    reason = "axis 0: nothing may take its place in add (tiny.py:"
    assert fixed["a.bias"].startswith(reason)


def test_weights_of_equal_values_keep_their_order() -> None:
    repeated = layers(lambda h: h.repeat_interleave(2, -1), 12)
    assert format_axis(derive.derive(repeated, inputs=X).axes["z.weight"][1]) == "a * 2"
    padded = derive.derive(layers(lambda h: nn.functional.pad(h, (0, 2)), 8), inputs=X)
    assert "axis 1: meets the same values" in padded.fixed["z.weight"]


def test_what_the_axis_language_cannot_say_is_fixed() -> None:
    # Blocks of two groups whose order is fixed, each with channels of its own.
    case = attention.CASES["separate"]
    assert groups(derive.derive(case.net(), inputs=case.inputs)) == case.groups
    net = Net(
        lambda m, x: m.z(m.b(m.a(x) * m.p)),
        a=nn.Conv2d(3, 4, 1),
        b=nn.Conv2d(4, 4, 1, groups=2),
        z=nn.Conv2d(4, 2, 1),
        p=torch.tensor([1.0, 1.0, 2.0, 2.0]).view(4, 1, 1),
    )
    spec = derive.derive(net, inputs=torch.randn(2, 3, 2, 2))
    assert spec.fixed["a.bias"].startswith("axis 0: meets constants")
    assert groups(spec) == "2 2"


def test_an_order_that_no_permutation_keeps_is_fixed() -> None:
    def ring(h: torch.Tensor) -> torch.Tensor:
        neighbours = [h, h.roll(1, -1)]
        return h + torch.stack(neighbours, -1).flatten(1).view(2, 6, 2).sum(-1)

    spec = derive.derive(layers(ring), inputs=X)
    assert groups(spec) == ""


# ------------------------------------------------------------------------------- what is refused


class Chooses(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


class Masked(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[torch.tensor([True, False])]


@pytest.mark.parametrize(
    ("module", "problem"),
    [
        (Chooses(), r"depends on the values of tensors, at test_engine\.py:\d+; write its"),
        (Net(lambda m, x: x @ x), r"its forward pass fails, at test_engine\.py:\d+: RuntimeError"),
        (Net(lambda m, x: m.missing), r"AttributeError: 'Net' object has no attribute 'missing'"),
        (layers(lambda h: h[:, h[0] > 0], 3), r"cannot be traced"),
        (Masked(), r"sizes depend on the values of tensors: index, at test_engine\.py:\d+; write"),
    ],
)  # fmt: skip
def test_networks_that_cannot_be_traced(module: nn.Module, problem: str) -> None:
    with pytest.raises(DerivationError, match=problem) as error:
        derive.derive(module, inputs=X)
    assert str(error.value).startswith(f"{type(module).__name__} cannot be traced: ")


def test_parameters_without_a_shape_are_refused() -> None:
    with pytest.raises(DerivationError, match=r"'weight' of LazyLinear has no shape"):
        derive.derive(nn.LazyLinear(3), inputs=X)


# ----------------------------------------------------------------------------- what is left alone


def test_a_module_is_left_as_it_was() -> None:
    def counting(h: torch.Tensor, m: Any) -> torch.Tensor:
        m.n.add_(1)
        m.flags[:1].fill_(7.0)
        return m.norm(h) * m.n

    net = layers(counting, n=torch.ones(()), flags=torch.zeros(2), norm=nn.BatchNorm1d(6))
    net.norm.eval()
    before = copy.deepcopy(net.state_dict())
    derive.derive(net, inputs=X)
    assert net.training and net.a.training and not net.norm.training
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_the_outcome_does_not_depend_on_the_mode_or_on_gradients() -> None:
    case = attention.CASES["a layer of torch"]
    for change in (lambda n: n.eval(), lambda n: n.train(), lambda n: n.requires_grad_(False)):
        assert groups(derive.derive(change(case.net()), inputs=case.inputs)) == case.groups


def test_inputs_are_a_tensor_or_arguments() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.z = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: torch.Tensor, y: torch.Tensor, scale: float) -> torch.Tensor:
            return self.z(self.a(x) + self.b(y) * scale)

    spec = derive.derive(Two(), inputs=[X, X, 2.0])
    assert groups(spec) == "6" and spec.architecture is None


def test_an_architecture_is_named_in_its_spec() -> None:
    options = {"in_features": 6, "hidden": [4, 5]}
    spec = derive.derive("mlp", options)
    assert (spec.architecture, spec.options, groups(spec)) == ("mlp", options, "4 5")
    assert spec.shapes is not None


def test_nothing_to_derive_is_an_empty_spec() -> None:
    spec = derive.derive(Net(lambda m, x: x.sin()), inputs=X)
    assert len(spec.groups) == 0 and spec.axes == {} and spec.fixed == {}


# --------------------------------------------------------------------------------------- limits


def test_large_constants_are_not_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    net = layers(lambda h, m: h * m.p, p=torch.ones(6))
    assert groups(derive.derive(net, inputs=X)) == "6"
    monkeypatch.setattr(inputs_of, "_MOST_ENTRIES", 5)
    assert groups(derive.derive(net, inputs=X)) == ""


def test_large_computed_constants_are_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    net = layers(lambda h: h * (torch.arange(6) * 0 + 1))
    assert groups(derive.derive(net, inputs=X)) == "6"
    monkeypatch.setattr(interpret, "_MOST_ENTRIES", 5)
    assert groups(derive.derive(net, inputs=X)) == ""


def test_large_tables_keep_their_axes_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    net = layers(lambda h, m: (h.view(2, 2, 3) * m.p).flatten(1), p=weight(2, 3))
    assert groups(derive.derive(net, inputs=X)) == "2 2>3"
    monkeypatch.setattr(inputs_of, "_MOST_JOINT", 5)
    assert groups(derive.derive(net, inputs=X)) == "2 3"


# -------------------------------------------------------------------------------- planted faults


def test_an_offset_in_concatenation_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = concatenating.concatenate

    def shifted(facts: Facts, parts: Any, axis: int, *, apart: bool = False) -> Labels:
        labels = right(facts, parts, axis, apart=apart)
        length = labels.shape[axis]
        return primitives.select(facts, labels, axis, torch.arange(length).roll(1).numpy())

    case = hidden("6 7", lambda h, m: torch.cat([h, m.b(h).tanh()], -1), 13, b=nn.Linear(6, 7))
    derive.verify(derive.derive(case.net(), inputs=X), case.net(), X)
    monkeypatch.setattr(rules.joining, "concatenate", shifted)
    spec = derive.derive(case.net(), inputs=X)
    assert groups(spec) == "6 7"
    with pytest.raises(PermutationSpecError, match="changes the function"):
        derive.verify(spec, case.net(), X)


@pytest.mark.parametrize("name", ["fused (3, heads, dim)", "separate"])
def test_queries_and_keys_permuted_apart_are_caught(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = primitives.contract

    def apart(facts: Facts, operands: Any, out: str, *more: Any) -> Labels:
        """Forget that queries and keys are summed over the same dimensions."""
        if [spelled[-1] for _, spelled in operands] == ["d", "d"]:
            operands = [(primitives.reduce(facts, labels, [-1]), s[:-1]) for labels, s in operands]
        return right(facts, operands, out, *more)

    case = attention.CASES[name]
    monkeypatch.setattr(rules.attention, "contract", apart)
    spec = derive.derive(case.net(), inputs=case.inputs)
    assert groups(spec) == "2 2>3 2>3 2>3"  # one group more than there is
    with pytest.raises(PermutationSpecError, match="changes the function"):
        derive.verify(spec, case.net(), case.inputs)


def test_a_write_that_is_not_seen_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    case = parameters.CASES["written over"]
    right = derive.derive(case.net(), inputs=X)
    assert groups(right) == case.groups and derive.verify(right, case.net(), X).difference < 1e-12
    monkeypatch.setattr(trace, "_writes_into_shared_memory", lambda _: False)
    spec = derive.derive(case.net(), inputs=X)
    with pytest.raises(PermutationSpecError, match="changes the function"):
        derive.verify(spec, case.net(), X)
