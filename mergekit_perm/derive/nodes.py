"""What a node of a traced graph says of itself."""

from __future__ import annotations

import operator
import re
from pathlib import Path
from typing import Any

import torch
from torch.fx import Node

_FRAME = re.compile(r'File "([^"]+)", line (\d+), in \w+')


def operation(node: Node) -> str:
    """Return the name of an ATen operation without overload and underscore of in-place forms."""
    schema = getattr(node.target, "_schema", None)
    name = schema.name.split("::")[-1] if schema else getattr(node.target, "__name__", "?")
    return name.rstrip("_") if not name.startswith("__") else name


def is_in_place(node: Node) -> bool:
    """Tell whether an operation changes its first argument."""
    schema = getattr(node.target, "_schema", None)
    return bool(schema and schema.is_mutable and schema.name.endswith("_"))


def is_random(node: Node) -> bool:
    """Tell whether an operation may give something else each time, or is none of ATen's."""
    tags = getattr(node.target, "tags", ())
    return torch.Tag.nondeterministic_seeded in tags or not hasattr(node.target, "_schema")


def place_of(node: Node) -> str:
    """Return the source line that `node` comes from, as ``resnet.py:147``, or ""."""
    found = _FRAME.findall(node.meta.get("stack_trace") or "")
    frames = [(file, line) for file, line in found if not file.startswith("<")]
    for file, line in reversed(frames):
        # The line of the network that calls a layer tells more than that of the layer.
        if "/torch/" not in file.replace("\\", "/"):
            return f"{Path(file).name}:{line}"
    return f"{Path(frames[-1][0]).name}:{frames[-1][1]}" if frames else ""


def described(node: Node) -> str:
    """Return the operation and its source line, for people."""
    place = place_of(node)
    return f"{operation(node)}{place and f' ({place})'}"


def tensors_of(node: Node) -> list[torch.Tensor]:
    """Return the fake tensors that `node` gives."""
    value = node.meta.get("val")
    values = value if isinstance(value, list | tuple) else [value]
    return [tensor for tensor in values if isinstance(tensor, torch.Tensor)]


def shapes(node: Node) -> Any:
    """Return the shape of what `node` gives, or a list of shapes; None if it is no tensor."""
    value = node.meta.get("val")
    if isinstance(value, torch.Tensor):
        return tuple(int(length) for length in value.shape)
    if isinstance(value, list | tuple):
        return [tuple(v.shape) if isinstance(v, torch.Tensor) else None for v in value]
    return None


def results_used(node: Node) -> frozenset[int]:
    """Return the numbers of those results of `node` that other nodes use, if it has several."""
    return frozenset(
        user.args[1]
        for user in node.users
        if user.target is operator.getitem and isinstance(user.args[1], int) and user.users
    )


def arguments(node: Node) -> dict[str, Any]:
    """Return the arguments of `node` by their names in its schema, defaults filled in."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return {**{f"argument{i}": value for i, value in enumerate(node.args)}, **node.kwargs}
    named = {
        argument.name: argument.default_value if argument.has_default_value() else None
        for argument in schema.arguments
    }
    names = [argument.name for argument in schema.arguments]
    return {**named, **dict(zip(names, node.args, strict=False)), **node.kwargs}
