"""What a node of a traced graph says of itself."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from mergekit_perm.derive.trace import place_of


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


def described(node: Node) -> str:
    """Return the operation and its source line, for people."""
    place = place_of(node)
    return f"{operation(node)}{place and f' ({place})'}"


def shapes(node: Node) -> Any:
    """Return the shape of what `node` gives, or a list of shapes; None if it is no tensor."""
    value = node.meta.get("val")
    if isinstance(value, torch.Tensor):
        return tuple(int(length) for length in value.shape)
    if isinstance(value, list | tuple):
        return [tuple(v.shape) if isinstance(v, torch.Tensor) else None for v in value]
    return None


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
