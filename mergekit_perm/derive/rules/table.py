"""The table of rules, and what a rule is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mergekit_perm.derive.facts import Facts
from mergekit_perm.derive.labels import Labels, Shape


class NoRule(Exception):  # noqa: N818 - not an error: the operation is then frozen
    """Raised by a rule for a form of its operation that it does not cover."""


@dataclass(frozen=True, slots=True)
class Call:
    """One operation as it occurs in a network.

    Attributes:
        facts: where the rule states what it knows.
        name: the operation, such as "conv2d".
        arguments: by name in the operation's schema, defaults filled in; tensors are labels.
        shapes: of the result: one shape, or a list of them for operations with several results.
        wanted: of several results, the numbers of those that are used.
    """

    facts: Facts
    name: str
    arguments: Mapping[str, Any]
    shapes: Any
    wanted: frozenset[int] = frozenset()

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Return an argument that not every operation of this rule has."""
        return self.arguments.get(name, default)

    @property
    def shape(self) -> Shape:
        """The shape of the only result."""
        if not isinstance(self.shapes, tuple):
            raise NoRule
        return self.shapes

    def labels(self) -> list[Labels]:
        """Return the labels of all tensors among the arguments, in order."""
        return [value for value in self.arguments.values() if isinstance(value, Labels)]


Rule = Callable[[Call], Any]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a function as the rule of the operations `names`."""

    def register(function: Rule) -> Rule:
        for name in names:
            assert name not in RULES, f"two rules for {name}"
            RULES[name] = function
        return function

    return register
