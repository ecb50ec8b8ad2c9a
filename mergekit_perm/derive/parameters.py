"""The tensors of a network as labels: what may be permuted, and which of them belong together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.fx import Node

from mergekit_perm.derive import primitives
from mergekit_perm.derive.facts import Facts
from mergekit_perm.derive.labels import CONSTANTS, Labels, Map, Shape, unlabelled
from mergekit_perm.derive.nodes import arguments, operation, shapes
from mergekit_perm.derive.rules.elementwise import BROADCASTING
from mergekit_perm.derive.trace import Graph

# Constants with more entries than this are not looked into.
_MOST_ENTRIES = 2_000_000

_STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True, slots=True)
class Blocks:
    """Where a parameter has elements of its own in every block of another axis.

    Attributes:
        count: how many blocks.
        outer: the axis that consists of these blocks.
        inner: the axis whose coordinates move on their own in each of them.
    """

    count: int
    outer: int = 0
    inner: int = 1


def parameter_labels(facts: Facts, name: str, shape: Shape, blocks: Blocks | None = None) -> Labels:
    """Return labels with elements of its own for every axis of a parameter."""
    axes: list[Shape] = []
    maps: list[Map] = []
    count = first = 0
    for axis, length in enumerate(shape):
        sizes = [length]
        if blocks is not None and axis == blocks.outer:
            first, sizes = count, [blocks.count, length // blocks.count]
        row = tuple(size for size in sizes if size > 1)
        digits = tuple(range(count, count + len(row)))
        axes.append(row)
        count += len(row)
        if row and blocks is not None and axis == blocks.inner:
            joint = facts.fresh((blocks.count, length), name, axis, blocks=blocks.count)
            maps.append(Map((first, *digits), joint))
        elif row:
            maps.append(Map(digits, facts.fresh((length,), name, axis).reshape(row)))
    return Labels(tuple(axes), primitives.join(facts, maps, {}))


def constant_labels(value: torch.Tensor) -> Labels:
    """Return the labels of a constant: fixed, but along axes where it does not change."""
    labels = unlabelled(value.shape, places=CONSTANTS)
    if not 0 < value.numel() <= _MOST_ENTRIES:
        return labels
    along = {
        digit
        for axis in range(value.ndim)
        for digit in labels.digits(axis)
        if bool((value == value.narrow(axis, 0, 1)).all())
    }
    return Labels(labels.axes, (), frozenset(along), labels.places)


def named_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return all parameters and buffers, tied ones under each of their names."""
    found = dict(module.named_parameters(remove_duplicate=False))
    return {**found, **dict(module.named_buffers(remove_duplicate=False))}


def first_names(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Return for every name the first name of the same tensor: tied parameters are one."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(tensor), name) for name, tensor in tensors.items()}


def statistics(module: nn.Module) -> set[str]:
    """Return the buffers that belong to channels.

    Those are the statistics of normalisation layers, and the vectors `_u` and `_v` with which
    spectral normalisation measures a weight.
    """
    found: set[str] = set()
    for prefix, part in module.named_modules(remove_duplicate=False):
        buffers = dict(part.named_buffers(recurse=False))
        if any(name in _STATISTICS or name.endswith("_u") for name in buffers):
            vectors = [name for name, buffer in buffers.items() if buffer.ndim == 1]
            found.update(f"{prefix}.{name}".lstrip(".") for name in vectors)
    return found


def parameters_in_blocks(graph: Graph) -> dict[str, Blocks]:
    """Return the parameters that have elements of their own in every block of an axis.

    Weights of grouped convolutions, (groups x outputs, inputs, ...) or transposed (groups x inputs,
    outputs, ...), are such. They may reach it through other operations on parameters, such as
    standardisation. So is what is only added to or multiplied with something the network computes,
    and has two axes: (heads, dimensions), say.
    """
    found = _elementwise_tables(graph)
    for node in graph.nodes:
        if node.op == "call_function" and operation(node) in _CONVOLUTIONS:
            given = arguments(node)
            weight, groups = given["weight"], given["groups"]
            if groups > 1:
                names = _parameters_behind(graph, weight)
                found.update(
                    (name, Blocks(groups)) for name, shape in names if shape == shapes(weight)
                )
    return found


_CONVOLUTIONS = frozenset(
    {"conv1d", "conv2d", "conv3d"} | {"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}
)


def _elementwise_tables(graph: Graph) -> dict[str, Blocks]:
    computed: set[Node] = set()
    for node in graph.nodes:
        kind, _ = graph.sources.get(node.name, ("", ""))
        if kind == "input" or computed.intersection(node.all_input_nodes):
            computed.add(node)

    def beside_others(node: Node) -> bool:
        return all(
            beside_others(user)
            if operation(user) in _VIEWS
            else operation(user) in _ELEMENTWISE and user in computed
            for user in node.users
        )

    found: dict[str, Blocks] = {}
    for node in graph.nodes:
        kind, name = graph.sources.get(node.name, ("", ""))
        if kind == "parameter" and node.users and beside_others(node):
            shape = shapes(node)
            long = [axis for axis, length in enumerate(shape) if length > 1]
            if len(long) == 2 and math.prod(shape) <= _MOST_JOINT:
                found[name] = Blocks(shape[long[0]], *long)
    return found


_ELEMENTWISE = BROADCASTING | {"layer_norm", "rms_norm"}
_VIEWS = frozenset({"clone", "contiguous", "expand", "expand_as", "squeeze", "to", "unsqueeze"})

# Larger tables, such as position embeddings, have positions on their first axis.
_MOST_JOINT = 65_536


def _parameters_behind(graph: Graph, node: Node) -> list[tuple[str, Shape]]:
    """Return the names and shapes of the parameters that `node` is computed from.

    None if it depends on inputs as well.
    """
    found: list[tuple[str, Shape]] = []
    queue, seen = [node], {node}
    while queue:
        current = queue.pop()
        kind, name = graph.sources.get(current.name, ("", ""))
        if kind == "input":
            return []
        if kind == "parameter":
            found.append((name, shapes(current)))
        queue += [source for source in current.all_input_nodes if source not in seen]
        seen.update(current.all_input_nodes)
    return found
