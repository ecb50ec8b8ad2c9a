"""Running a traced network on labels: constants are computed, parameters get elements, rules speak.

The outcome is `Facts` about the elements of every axis of every parameter and of every BatchNorm
statistic; all other buffers are constants of the architecture.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.fx import Node
from torch.fx.node import map_arg

from mergekit_perm.derive import primitives
from mergekit_perm.derive.facts import UNREAD, Facts
from mergekit_perm.derive.labels import FIXED, INPUTS, Labels, Shape, unlabelled
from mergekit_perm.derive.nodes import (
    arguments,
    described,
    is_in_place,
    is_random,
    operation,
    place_of,
    results_used,
    shapes,
)
from mergekit_perm.derive.parameters import (
    constant_labels,
    first_names,
    named_tensors,
    parameter_labels,
    parameters_in_blocks,
    statistics,
)
from mergekit_perm.derive.rules import RULES, Call, NoRule
from mergekit_perm.derive.trace import Graph
from mergekit_perm.permutation import Indices

# Constants with more entries than this are not computed: they count as unknown fixed values.
_MOST_ENTRIES = 2_000_000


@dataclass(slots=True)
class Interpretation:
    """What running a network on labels found.

    Attributes:
        facts: about all elements.
        tensors: by name of each parameter and permutable buffer that the network uses, its shape.
        readers: the first operation that computes with each of them, and its source line.
        unruled: operations that no rule covered, with how often they occurred.
        places: the source line of the first of each of these.
        ruled: how often each rule was used.
    """

    facts: Facts = field(default_factory=Facts)
    tensors: dict[str, Shape] = field(default_factory=dict)
    readers: dict[str, str] = field(default_factory=dict)
    unruled: Counter[str] = field(default_factory=Counter)
    places: dict[str, str] = field(default_factory=dict)
    ruled: Counter[str] = field(default_factory=Counter)


def interpret(graphs: Sequence[Graph], module: nn.Module) -> Interpretation:
    """Return what the operations of all `graphs`, traced from `module`, say of its parameters."""
    interpreter = _Interpreter(graphs, module)
    for graph in graphs:
        interpreter.interpret(graph)
    interpreter.freeze_unread(module)
    return interpreter.found


class _Interpreter:
    def __init__(self, graphs: Sequence[Graph], module: nn.Module) -> None:
        self.graph = graphs[0]
        self.found = Interpretation()
        self.facts = self.found.facts
        self.labels: dict[Node, Any] = {}
        self.values: dict[Node, Any] = {}
        self.tensors = named_tensors(module)
        self.canonical = first_names(self.tensors)
        self.statistics = statistics(module)
        self.known: dict[str, Labels] = {}
        self.read: dict[int, Indices] = {}
        self.blocks = {k: v for graph in graphs for k, v in parameters_in_blocks(graph).items()}

    def interpret(self, graph: Graph) -> None:
        """Interpret `graph`; what another graph has too counts once."""
        found, unruled, ruled = self.found, self.found.unruled, self.found.ruled
        self.graph, found.unruled, found.ruled = graph, Counter(), Counter()
        self.run(graph.nodes)
        found.unruled, found.ruled = unruled | found.unruled, ruled | found.ruled

    def run(self, nodes: Sequence[Node]) -> Any:
        """Interpret `nodes`; return the labels of what they output."""
        for node in nodes:
            if node.op == "placeholder":
                if node.users and node not in self.labels:
                    self.labels[node] = self._input(node)
            elif node.op == "get_attr":
                self.labels[node] = getattr(node.graph.owning_module, str(node.target))
            elif node.op == "call_function":
                with self.facts.at(described(node)):
                    self._call(node)
            elif node.op == "output":
                outputs = map_arg(node.args[0], lambda n: self.labels[n])
                if node.graph is self.graph.nodes[0].graph:
                    self._freeze_outputs(node)
                return outputs
        return None

    # ---------------------------------------------------------------------------------- inputs

    def _input(self, node: Node) -> Any:
        kind, name = self.graph.sources[node.name]
        shape = shapes(node)
        if kind == "parameter" or name in self.statistics:
            self.found.readers.setdefault(self.canonical[name], _first_reader(node))
            return self._parameter(name)
        if node.name in self.graph.values:
            return self._constant(node, self.graph.values[node.name])
        if isinstance(shape, tuple):
            return unlabelled(shape, places=INPUTS)
        return None

    def _parameter(self, name: str) -> Labels:
        name = self.canonical[name]
        if name not in self.known:
            shape = tuple(self.tensors[name].shape)
            self.found.tensors[name] = shape
            self.known[name] = parameter_labels(self.facts, name, shape, self.blocks.get(name))
        return self.known[name]

    def _constant(self, node: Node, value: Any) -> Any:
        """Record the value of `node`, which no parameter or input changes; return its labels."""
        self.values[node] = value
        if isinstance(value, torch.Tensor):
            return constant_labels(value)
        if isinstance(value, list | tuple):
            return [constant_labels(v) if isinstance(v, torch.Tensor) else v for v in value]
        return value

    def freeze_unread(self, module: nn.Module) -> None:
        """Freeze the parameters, and parts of parameters, that no operation computes with."""
        for name, _ in module.named_parameters():
            self._parameter(name)
        read = np.zeros(self.facts.count, dtype=bool)
        pairs = (*self.facts.matches, *self.facts.projections)
        for elements in itertools.chain(self.read.values(), *pairs):
            read[elements] = True
        for origin in self.facts.origins:
            unread = np.flatnonzero(~read[origin.start : origin.start + origin.count])
            if origin.name and len(unread):
                self.facts.freeze(origin.start + unread, UNREAD)

    def _freeze_outputs(self, node: Node) -> None:
        for output in [n for n in node.all_input_nodes if n.name in self.graph.outputs]:
            labels = self.labels[output]
            last = _computed_by(output)
            with self.facts.at(described(last) if last.op == "call_function" else ""):
                for each in labels if isinstance(labels, list) else [labels]:
                    if isinstance(each, Labels):
                        primitives.frozen(self.facts, each, "output of the network")

    # ------------------------------------------------------------------------------ operations

    def _call(self, node: Node) -> None:
        if node.target is operator.getitem:
            self._item(node)
        elif operation(node) in _WRAPPERS:
            body, *given = (argument for argument in node.args if isinstance(argument, Node))
            self.labels[node] = self._inline(body, given)
        elif operation(node) == "cond":
            self.labels[node] = self._either(node)
        elif not self._fold(node):
            self.labels[node] = self._rule(node)
            self._write_back(node)

    def _item(self, node: Node) -> None:
        source, at = node.args
        assert isinstance(source, Node)
        labels = self.labels[source]
        self.labels[node] = None if labels is None else labels[at]
        if source in self.values:
            self.values[node] = self.values[source][at]

    def _either(self, node: Node) -> list[Labels]:
        """Interpret both graphs of `torch.cond`: what holds for its outcome holds for both."""
        _, yes, no, given = node.args
        assert isinstance(yes, Node) and isinstance(no, Node) and isinstance(given, list | tuple)
        outcomes = zip(*(self._inline(body, given) for body in (yes, no)), strict=True)
        return [primitives.combine(self.facts, one.shape, [one, two]) for one, two in outcomes]

    def _inline(self, body_node: Node, given: Sequence[Any]) -> Any:
        """Interpret the graph of `body_node`, which an operation calls with what is `given`."""
        body = self.labels[body_node]
        inputs = [inner for inner in body.graph.nodes if inner.op == "placeholder"]
        for inner, outer in zip(inputs, given, strict=True):
            self.labels[inner] = self.labels[outer]
            if outer in self.values:
                self.values[inner] = self.values[outer]
        result = self.run(list(body.graph.nodes))
        return list(result) if isinstance(result, list | tuple) else result

    def _fold(self, node: Node) -> bool:
        """Compute `node` if it depends on constants only; tell whether it did."""
        if any(source not in self.values for source in node.all_input_nodes):
            return False
        found = shapes(node)
        found = [found] if isinstance(found, tuple) else found
        if not found or None in found or is_random(node):
            return False
        if any(math.prod(shape) > _MOST_ENTRIES for shape in found):
            return False
        if operation(node) in _UNSET:
            return False
        given: Any = map_arg((node.args, node.kwargs), lambda n: self.values[n])
        args, kwargs = given
        if is_in_place(node):
            args = (args[0].clone(), *args[1:])  # a buffer of the network stays as it is
        try:
            value = node.target(*args, **kwargs)  # type: ignore[operator]
        except (RuntimeError, NotImplementedError, TypeError):
            return False
        self.labels[node] = self._constant(node, value)
        self._write_back(node)
        return True

    def _rule(self, node: Node) -> Any:
        name = operation(node)
        if name in _CHECKS:
            return None
        call = Call(self.facts, name, self._arguments(node), shapes(node), results_used(node))
        if isinstance(call.shapes, tuple) and 0 in call.shapes:
            return unlabelled(call.shapes)
        touched = any(labels.maps for labels in (*call.labels(), *_lists(call)))
        if not touched and name not in RULES:
            return _plain(call.shapes)
        if name not in _PASSING:
            given = [m.elements for labels in (*call.labels(), *_lists(call)) for m in labels.maps]
            self.read.update((id(elements), elements) for elements in given)
        try:
            if name not in RULES:
                raise NoRule
            result = RULES[name](call)
        except NoRule:
            self.found.unruled[name] += 1
            self.found.places.setdefault(name, place_of(node))
            return self._freeze(call)
        self.found.ruled[name] += 1
        return result

    def _freeze(self, call: Call) -> Any:
        """Freeze whatever touches an operation that no rule covers."""
        for labels in [*call.labels(), *_lists(call)]:
            primitives.frozen(self.facts, labels, "meets an operation without a rule")
        return _plain(call.shapes, f"what {self.facts.where} gives")

    def _arguments(self, node: Node) -> dict[str, Any]:
        """Return the arguments of `node` by name, with labels for tensors.

        A constant index is given by value.
        """
        by_value = operation(node) in _BY_VALUE

        def given(n: Node) -> Any:
            value = self.values.get(n)
            if by_value and isinstance(value, torch.Tensor) and not value.is_floating_point():
                return value
            return self.labels[n]

        named = arguments(node)
        found: dict[str, Any] = dict(map_arg(named, given))
        if isinstance(named.get("self"), Node):
            found["self"] = self.labels[named["self"]]
        return found

    def _write_back(self, node: Node) -> None:
        """An operation in place changes what its first argument stands for."""
        first = node.args[0] if node.args else None
        if isinstance(first, Node) and is_in_place(node) and isinstance(self.labels[node], Labels):
            self.labels[first] = self.labels[node]
            self.values.pop(first, None)
            if node in self.values:
                self.values[first] = self.values[node]


# Operations whose index arguments are wanted by value.
_BY_VALUE = frozenset({"index", "index_select"})

# Operations that compute nothing with the values they are given: some of them may be left out.
_PASSING = frozenset(
    {
        "alias", "chunk", "clone", "contiguous", "detach", "expand", "fill", "flatten", "full_like",
        "narrow", "ones_like", "permute", "reshape", "select", "select_scatter", "slice",
        "slice_scatter", "split", "split_with_sizes", "squeeze", "t", "transpose", "unbind",
        "unflatten", "unsqueeze", "view", "zero", "zeros_like",
    }
)  # fmt: skip

# Operations whose result is not yet anything.
_UNSET = frozenset({"empty", "empty_like", "empty_permuted", "empty_strided", "new_empty"})

# Operations that call a graph on the rest of their arguments, as it is.
_WRAPPERS = frozenset({"wrap_with_autocast", "wrap_with_set_grad_enabled"})

# Operations that check something and give nothing.
_CHECKS = frozenset({"_assert_tensor_metadata", "_assert_scalar", "_assert_async", "sym_size"})


def _computed_by(node: Node) -> Node:
    """Return the operation that computes what `node` gives, or passes on."""
    while operation(node) in _PASSING | {"dropout"} and node.all_input_nodes:
        node = node.all_input_nodes[0]
    return node


def _first_reader(node: Node) -> str:
    """Return the first operation that computes with what `node` gives, for people."""
    queue = list(node.users)
    for user in queue:
        if operation(user) not in _PASSING:
            return described(user)
        queue += user.users
    return ""


def _plain(shapes: Any, places: str = FIXED) -> Any:
    if isinstance(shapes, list):
        return [None if shape is None else unlabelled(shape, places=places) for shape in shapes]
    return None if shapes is None else unlabelled(shapes, places=places)


def _lists(call: Call) -> list[Labels]:
    return [
        labels
        for value in call.arguments.values()
        if isinstance(value, list | tuple)
        for labels in value
        if isinstance(labels, Labels)
    ]
