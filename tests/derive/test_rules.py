"""What each rule states: tiny networks and their groups, worked out by hand and proven."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from mergekit_perm.axis_text import format_axis
from mergekit_perm.derive import derivation, trace, verify
from mergekit_perm.derive.facts import UNREAD
from mergekit_perm.derive.rules import RULES
from tests.derive.cases import (
    attention,
    choosing,
    convolution,
    normalising,
    parameters,
    products,
    recurrent,
)
from tests.derive.test_operations import HERE
from tests.derive.tiny import Case, groups

KINDS = (products, convolution, attention, recurrent, normalising, choosing, parameters)
CASES: dict[str, Case] = {
    f"{kind.__name__.rpartition('.')[2]}: {name}": case
    for kind in KINDS
    for name, case in kind.CASES.items()
}
# Networks that are also derived from a graph without operations in place.
SOME = ["attention: of torch", "normalising: batch norm", "normalising: batch norm of the batch"]

used: dict[str, set[str]] = {}


def names_operations(reasons: str) -> bool:
    """Tell whether every reason for fixed axes names an operation and its source line."""
    return all(
        reason.endswith(UNREAD) or re.search(r"\b\w+ \(\w+\.py:\d+\)", reason)
        for reason in reasons.split("; ")
    )


def cases() -> Iterator[Any]:
    for name, case in CASES.items():
        marks = [pytest.mark.xfail(strict=True, reason=case.known)] * bool(case.known)
        yield pytest.param(name, marks=marks)


@pytest.mark.parametrize("name", list(cases()))
def test_groups(name: str) -> None:
    case = CASES[name]
    found = derivation(case.net(), inputs=case.inputs)
    used[name] = set(found.ruled)
    assert groups(found.spec) == case.groups
    assert list(found.unruled) == case.unruled
    assert all(names_operations(reasons) for reasons in found.spec.fixed.values())
    for tensor, row in case.axes.items():
        assert ", ".join(map(format_axis, found.spec.axes[tensor])) == row
    if case.groups:
        assert verify(found.spec, case.net(), case.inputs).difference < 1e-12


@pytest.mark.parametrize("name", SOME)
def test_groups_of_the_same_network_without_operations_in_place(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace, "_writes_into_shared_memory", lambda _: True)
    case = CASES[name]
    found = derivation(case.net(), inputs=case.inputs)
    used[f"{name}, changed"] = set(found.ruled)
    assert groups(found.spec) == case.groups and list(found.unruled) == case.unruled


def test_every_rule_is_used() -> None:
    if len(used) < len(CASES) + len(SOME):
        pytest.skip("not all networks were derived")
    assert set(RULES) - HERE - set().union(*used.values()) == set()
