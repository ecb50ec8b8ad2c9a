"""The tensors of a network as labels: what may be permuted, and which of them belong together."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.fx import Node

from mergekit_perm.derive import primitives
from mergekit_perm.derive.facts import Facts
from mergekit_perm.derive.labels import Labels, Map, Shape, unlabelled
from mergekit_perm.derive.nodes import arguments, operation, shapes
from mergekit_perm.derive.trace import Graph

# Constants with more entries than this are not looked into.
_MOST_ENTRIES = 2_000_000

_STATISTICS = ("running_mean", "running_var")


def parameter_labels(facts: Facts, name: str, shape: Shape, groups: int = 1) -> Labels:
    """Return labels with elements of its own for every axis of a parameter.

    The second axis of the weight of a grouped convolution, (groups x outputs, inputs, ...) or
    transposed (groups x inputs, outputs, ...), has elements for each group of the convolution.
    """
    if groups == 1 or len(shape) < 2:
        separate = tuple((length,) if length > 1 else () for length in shape)
        maps: list[Map] = []
        for axis, length in enumerate(shape):
            if length > 1:
                maps.append(Map((len(maps),), facts.fresh((length,), name, axis)))
        return Labels(separate, tuple(maps))
    outputs, inputs = shape[0] // groups, shape[1]
    rows = tuple(size for size in (groups, outputs) if size > 1)
    maps = [Map(tuple(range(len(rows))), facts.fresh((shape[0],), name, 0).reshape(rows))]
    axes: list[Shape] = [rows]
    count = len(rows)
    for axis, length in enumerate(shape[1:], start=1):
        axes.append((length,) if length > 1 else ())
        if length > 1 and axis == 1:
            maps.append(Map((0, count), facts.fresh((groups, inputs), name, 1, blocks=groups)))
        elif length > 1:
            maps.append(Map((count,), facts.fresh((length,), name, axis)))
        count += length > 1
    return Labels(tuple(axes), primitives.join(facts, maps, {}))


def constant_labels(value: torch.Tensor) -> Labels:
    """Return the labels of a constant: fixed, but along axes where it does not change."""
    labels = unlabelled(value.shape, places="constants")
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


def grouped_weights(graph: Graph) -> dict[str, int]:
    """Return the number of groups of each weight that a grouped convolution uses.

    A weight may reach it through other operations on parameters, such as standardisation.
    """
    found: dict[str, int] = {}
    for node in graph.nodes:
        if node.op == "call_function" and operation(node) in _CONVOLUTIONS:
            given = arguments(node)
            weight, groups = given["weight"], given["groups"]
            if groups > 1:
                names = _parameters_behind(graph, weight)
                found.update((name, groups) for name, shape in names if shape == shapes(weight))
    return found


_CONVOLUTIONS = frozenset(
    {"conv1d", "conv2d", "conv3d", "convolution"}
    | {"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}
)


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
